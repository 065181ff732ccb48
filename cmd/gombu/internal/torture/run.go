package torture

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mrand "math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gombu/gombu"
	_ "github.com/gombu/gombu/transport/amqp" // the brokers that can be tortured
	_ "github.com/gombu/gombu/transport/redis"

	"github.com/gombu/gombu/gombutest/ledger"
	"github.com/gombu/gombu/gombutest/proxy"
)

// A run is one torture under way.
type run struct {
	cfg    Config
	kind   string
	led    *ledger.Ledger
	dice   *mrand.Rand
	broker broker       // nil: memory
	proxy  *proxy.Proxy // nil: no fault needs one
	box    *inside      // nil unless memory: everything lives in this process
	queue  string
	name   string // of the connections that may be cut off
	start  time.Time
	wg     sync.WaitGroup // of those who listen to actors

	admin     *gombu.Conn // not tortured
	consumers []*actor
	producers []*actor
	retired   []*actor
	passed    bool // the gate is open: who comes later needs not wait
	report    ledger.Report

	wrong []string
	exit  time.Duration // the longest that a consumer took after SIGTERM
}

// Run runs the torture. The error says why it could not be run to its end; what
// it found, until then, is in the Result, which is nil when it did not begin.
func Run(ctx context.Context, cfg Config) (*Result, error) {
	full, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	kind, _, err := kindOf(full.URL)
	if err != nil {
		return nil, err
	}
	id := strings.ToLower(rand.Text()[:8])
	r := &run{
		cfg: full, kind: kind, led: ledger.New(), start: time.Now(),
		dice:  mrand.New(mrand.NewPCG(full.Seed, full.Seed)),
		queue: "gombu.torture." + id, name: "gombu-torture-" + id,
	}
	defer r.wg.Wait()
	defer r.end()
	if err := r.prepare(ctx); err != nil {
		return nil, err
	}
	if err := r.torture(ctx); err != nil {
		r.report = r.led.Report()
		return r.result(), err
	}
	return r.result(), nil
}

func (r *run) logf(format string, args ...any) {
	fmt.Fprintf(r.cfg.Log, "%7.3f  %s\n", time.Since(r.start).Seconds(), fmt.Sprintf(format, args...))
}

// blamef notes something that no fault excuses.
func (r *run) blamef(format string, args ...any) {
	r.wrong = append(r.wrong, fmt.Sprintf(format, args...))
}

// prepare starts the broker, the proxy and the actors.
func (r *run) prepare(ctx context.Context) (err error) {
	if r.kind == memory {
		r.box = newInside(r.cfg.quietLog())
	} else if r.broker, err = newBroker(ctx, &r.cfg); err != nil {
		return err
	}
	if r.needs()&needProxy != 0 {
		if err := r.interpose(); err != nil {
			return err
		}
	}
	if err := r.administer(); err != nil {
		return err
	}
	if err := r.declare(ctx); err != nil {
		return err
	}
	for i := range r.cfg.Consumers {
		if err := r.addConsumer(ctx, fmt.Sprintf("consumer %d", i+1), r.cfg.OnlyPython); err != nil {
			return err
		}
	}
	if r.cfg.WithPython {
		if err := r.addConsumer(ctx, "python", true); err != nil {
			return err
		}
	}
	if err := r.allReady(ctx); err != nil {
		return err
	}
	for i := range r.cfg.Producers {
		if err := r.addProducer(ctx, i, 0); err != nil {
			return err
		}
	}
	return nil
}

const adminSuffix = "-admin"

// administer opens the connection that no fault is aimed at.
func (r *run) administer() (err error) {
	if r.box != nil {
		r.admin = r.box.conn(r.cfg.Grace)
		return nil
	}
	j := job{URL: r.broker.URL(), Name: r.name + adminSuffix, Grace: r.cfg.Grace}
	if r.admin, err = j.dial(r.cfg.quietLog()); err != nil {
		return misuse("%w", err)
	}
	return nil
}

func (r *run) needs() (n need) {
	for i := range faults {
		if slices.Contains(r.cfg.Faults, faults[i].name) {
			n |= faults[i].needs
		}
	}
	return n
}

// interpose puts a proxy between the actors and the broker.
func (r *run) interpose() (err error) {
	u, err := url.Parse(r.broker.URL())
	if err != nil || u.Port() == "" {
		return misuse("a fault of the link needs a URL with host and port")
	}
	r.proxy, err = proxy.Listen(u.Host)
	return err
}

// url is the broker's address for actors.
func (r *run) url(python bool) string {
	u, err := url.Parse(r.broker.URL())
	if err != nil {
		return r.broker.URL()
	}
	if r.proxy != nil {
		u.Host = r.proxy.Addr()
	}
	if r.kind == redis && (r.cfg.WithPython || r.cfg.OnlyPython) && !python {
		q := u.Query() // so that Go gives a dead Python's claims back when Python would
		q.Set("visibility_timeout", fmt.Sprint(visibility.Seconds()))
		u.RawQuery = q.Encode()
	}
	return u.String()
}

// visibility is Kombu's visibility_timeout in a run. Its default is an hour.
const visibility = 15 * time.Second

func (r *run) topology() gombu.Topology {
	q := gombu.Queue{Name: r.queue}
	if r.kind == rabbitmq {
		q.Args = gombu.Headers{{Key: "x-queue-type", Value: r.cfg.QueueType}}
	}
	return gombu.Topology{Queues: []gombu.Queue{q}}
}

// settling is how long a quorum queue is left alone after it was declared. One
// that is younger than half a second when its broker is killed comes back empty
// and without a leader (seen on RabbitMQ 3.10.8): the broker has not written down
// yet where its log is.
const settling = 2 * time.Second

func (r *run) declare(ctx context.Context) error {
	within, cancel := context.WithTimeout(ctx, r.cfg.Patience)
	defer cancel()
	err := r.admin.Declare(within, r.topology())
	if err == nil && r.kind == rabbitmq && r.cfg.QueueType == "quorum" {
		pause(ctx, settling)
	}
	return err
}

func (r *run) addConsumer(ctx context.Context, name string, python bool) error {
	a, err := r.act(ctx, job{
		Role: consumes, Prefetch: r.cfg.Prefetch, Workers: r.cfg.Workers, Work: r.cfg.Work, Visibility: visibility,
	}, name, python)
	if err == nil {
		r.consumers = append(r.consumers, a)
	}
	return err
}

// addProducer starts a producer whose first message is number first.
func (r *run) addProducer(ctx context.Context, n, first int) error {
	count := r.share(n)
	gate := max(count-r.tail(count), first)
	if r.passed {
		gate = -1
	}
	pace := time.Duration(0)
	if r.cfg.Rate > 0 {
		pace = time.Second * time.Duration(r.cfg.Producers) / time.Duration(r.cfg.Rate)
	}
	a, err := r.act(ctx, job{
		Role: produces, Pace: pace, Producer: n, First: first, Gate: gate, Count: count, Size: r.cfg.Size, Resend: r.cfg.Resend,
	}, fmt.Sprintf("producer %d", n+1), false)
	if err == nil {
		r.producers = append(r.producers, a)
	}
	return err
}

// share is how many messages producer n sends.
func (r *run) share(n int) int {
	count := r.cfg.Messages / r.cfg.Producers
	if n < r.cfg.Messages%r.cfg.Producers {
		count++
	}
	return count
}

// act starts a job, in a process or in this one.
func (r *run) act(ctx context.Context, j job, name string, python bool) (*actor, error) {
	j.Name, j.Queue, j.Grace, j.Verbose = r.name, r.queue, r.cfg.Grace, r.cfg.Verbose
	if r.box != nil {
		return r.embody(ctx, j, name, r.box.conn(j.Grace)), nil
	}
	j.URL = r.url(python)
	return r.spawn(j, name, python)
}

// allReady waits until every consumer consumes.
func (r *run) allReady(ctx context.Context) error {
	for _, a := range r.consumers {
		if err := r.await(ctx, a, a.ready, "to consume"); err != nil {
			return err
		}
		a.source.Expect()
	}
	return nil
}

// await waits for what an actor says, as long as anything happens meanwhile.
func (r *run) await(ctx context.Context, a *actor, c <-chan struct{}, what string) error {
	t := time.NewTimer(r.cfg.Patience)
	defer t.Stop()
	progress := func() int {
		sent, handled, _ := r.led.Progress()
		return sent + handled
	}
	before := progress()
	for {
		select {
		case <-c:
			return nil
		case <-a.over:
			if closed(c) {
				return nil
			}
			return errors.Join(fmt.Errorf("%s ended before it came %s", a.name, what), a.why())
		case <-t.C:
			now := progress()
			if now == before {
				return fmt.Errorf("%s did not come %s: nothing happened in %v", a.name, what, r.cfg.Patience)
			}
			before = now
			t.Reset(r.cfg.Patience)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// end ends what is left, in any case.
func (r *run) end() {
	for _, a := range slices.Concat(r.producers, r.consumers, r.retired) {
		if !closed(a.over) {
			_ = a.kill() // it is not asked any more
		}
	}
	if r.proxy != nil {
		r.proxy.Close()
	}
	if r.admin != nil {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		// What is left on the user's broker when that does not answer is said.
		for _, q := range []string{r.queue, retryPrefix + r.queue, deadPrefix + r.queue} {
			err := r.admin.Delete(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: q}}}, nil)
			if err != nil && !errors.Is(err, gombu.ErrNotFound) {
				r.logf("queue %s was not deleted: %v", q, err)
			}
		}
		_ = r.admin.Close()
	}
	if r.broker != nil {
		r.broker.Close()
	}
}

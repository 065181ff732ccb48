package simulation

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/gombutest/ledger"
	"github.com/gombu/gombu/virtual"
)

// A world is one run: a server, processes around it, and what they did.
type world struct {
	seed   uint64
	rng    *rand.Rand
	bug    bug
	plan   plan
	server *server
	ledger *ledger.Ledger
	log    *slog.Logger

	mu     sync.Mutex
	starts map[ledger.ID]int
	procs  []*process // consumers, then producers; nil: there is none now
	wrong  []string
}

// A plan is what a seed decides before anything runs.
type plan struct {
	queues    []string
	producers int
	messages  int // of each producer
	resend    bool
	consumers int
	workers   int
	prefetch  int
	quick     time.Duration // of a handler, at most
	long      int           // one handler in so many runs longer than a lease; 0: none
	failing   int           // one start in so many fails; 0: none
	attempts  int           // starts of a message, at most
	acks      bool          // handlers ack by hand
	faults    []fault
}

type fault struct {
	at   time.Duration
	kind string
	whom int           // a consumer, or with another number a producer
	last time.Duration // how long
}

// A process is a Conn and the wire that it talks over.
type process struct {
	name string
	w    *wire
	conn *gombu.Conn
	stop context.CancelFunc
	over chan error // of Run; nil: a producer
	seen *ledger.Source
}

func (w *world) dead(p *process) bool {
	_, _, dead := p.w.state()
	return dead
}

func newPlan(rng *rand.Rand) plan {
	p := plan{
		producers: 1 + rng.IntN(3), messages: 5 + rng.IntN(40), resend: rng.IntN(2) == 0,
		consumers: 1 + rng.IntN(3), workers: 1 + rng.IntN(4), prefetch: 1 + rng.IntN(12),
		quick: time.Duration(1+rng.IntN(200)) * time.Millisecond, acks: rng.IntN(2) == 0,
	}
	for i := range 1 + rng.IntN(2) {
		p.queues = append(p.queues, fmt.Sprint("q", i))
	}
	if rng.IntN(3) == 0 {
		p.workers = 1
	}
	if rng.IntN(3) == 0 {
		p.long = 10
	}
	if rng.IntN(4) > 0 {
		kinds := []string{"cut", "cut", "swallow", "swallow", "kill", "restart", "stop"}
		for range 1 + rng.IntN(6) {
			p.faults = append(p.faults, fault{
				at: time.Duration(rng.IntN(8000)) * time.Millisecond, kind: kinds[rng.IntN(len(kinds))],
				whom: rng.IntN(p.consumers + p.producers), last: time.Duration(1+rng.IntN(30000)) * time.Millisecond,
			})
		}
	}
	if rng.IntN(3) == 0 {
		p.failing = 1 + rng.IntN(5)
	}
	p.attempts = 2 + rng.IntN(4)
	return p
}

// start makes a process.
func (w *world) start(name string, seed uint64) *process {
	p := &process{name: name, w: newWire(seed)}
	p.conn = gombu.New(virtual.New(virtual.Config{
		Name: "sim://" + name, Transport: "sim",
		Open: func(ctx context.Context, env driver.Env) (virtual.Store, error) { return open(ctx, w.server, p.w, env) },
		Features: driver.Features{
			Types: []string{driver.TypeDirect, driver.TypeFanout}, Confirm: true, Mandatory: true, MaxBody: 1 << 20, Keeps: []string{driver.KeepsAll},
		},
	}), &gombu.Config{Grace: 5 * time.Second, Log: w.log})
	return p
}

func (w *world) topology() gombu.Topology {
	t := gombu.Topology{Exchanges: []gombu.Exchange{{Name: "all", Type: gombu.Fanout}}}
	for _, q := range w.plan.queues {
		t.Queues = append(t.Queues, gombu.Queue{Name: q})
		t.Bindings = append(t.Bindings, gombu.Binding{Exchange: "all", Queue: q})
	}
	return t
}

// consumer starts a process that consumes all queues until it is stopped.
func (w *world) consumer(ctx context.Context, n int) *process {
	p := w.start(fmt.Sprint("consumer-", n), w.seed*1000+uint64(n))
	ctx, p.stop = context.WithCancel(ctx)
	p.over, p.seen = make(chan error, 1), w.ledger.Source(p.name)
	topo := w.topology()
	cfg := gombu.ConsumerConfig{Queues: w.plan.queues, Declare: &topo, Prefetch: w.plan.prefetch, Workers: w.plan.workers, MaxAttempts: w.plan.attempts}
	go func() {
		p.over <- p.conn.Run(ctx, cfg, func(ctx context.Context, d *gombu.Delivery) error { return w.handle(ctx, p, d) })
	}()
	return p
}

var errFailed = errors.New("failed on purpose")

// handle is the handler of all consumers.
func (w *world) handle(ctx context.Context, p *process, d *gombu.Delivery) error {
	if w.dead(p) { // what a killed process does is not done
		return errFailed
	}
	id, err := w.idOf(d)
	if err != nil {
		return err
	}
	p.seen.Started(id, d.Attempt)
	if w.bug == ackFirst {
		_ = d.Ack(ctx)
	}
	w.mu.Lock()
	w.starts[id]++
	endless := w.starts[id] > 4*w.plan.attempts
	work := time.Duration(w.rng.Int64N(int64(w.plan.quick)))
	if w.plan.long > 0 && w.rng.IntN(w.plan.long) == 0 {
		work = lease + time.Duration(w.rng.Int64N(int64(2*lease)))
	}
	fails := w.plan.failing > 0 && w.rng.IntN(w.plan.failing) == 0
	w.mu.Unlock()
	t := time.NewTimer(work)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	switch {
	case w.dead(p):
		return errFailed
	case endless: // it was seen often enough to be judged
		return gombu.Drop(errFailed)
	case fails && w.bug != ackFirst:
		return errFailed
	}
	p.seen.Handled(id)
	if !w.plan.acks {
		return nil
	}
	if err := d.Ack(ctx); !w.dead(p) {
		p.seen.Settled(id, err)
	}
	return nil
}

// produce publishes the messages of one producer, one after another in order.
func (w *world) produce(ctx context.Context, n int) {
	p := w.start(fmt.Sprint("producer-", n), w.seed*1000+500+uint64(n))
	w.mu.Lock()
	w.procs[w.plan.consumers+n] = p
	w.mu.Unlock()
	defer func() { _ = p.conn.Close() }()
	for p.conn.Declare(ctx, w.topology()) != nil && !w.dead(p) {
		sleep(ctx, time.Second)
	}
	out := p.conn.Producer(&gombu.ProducerConfig{Resend: w.plan.resend})
	rng := rand.New(rand.NewPCG(w.seed, uint64(n)))
	var wg sync.WaitGroup
	for i := range w.plan.messages {
		m := &gombu.Message{Value: [2]int{n, i}}
		var to []string
		if rng.IntN(4) == 0 {
			m.Exchange, m.Mandatory, to = "all", gombu.MandatoryOn, w.plan.queues
		} else {
			m.Queue = w.plan.queues[rng.IntN(len(w.plan.queues))]
			to = []string{m.Queue}
		}
		ids := w.copies(n, i, to)
		for _, id := range ids {
			w.ledger.Sent(id)
		}
		timeout := time.Duration(1+rng.IntN(20)) * time.Second
		pctx, cancel := context.WithTimeout(ctx, timeout)
		began := time.Now()
		done := func(err error) {
			cancel()
			for _, id := range ids {
				w.ledger.Outcome(id, err)
			}
			if took := time.Since(began); took > timeout+100*time.Millisecond {
				w.complainf("publish of %v took %v, its deadline was %v", ids, took, timeout)
			}
			if err != nil && !errors.Is(err, gombu.ErrUncertain) && !errors.Is(err, gombu.ErrNotSent) {
				w.complainf("publish of %v says not what is known: %v", ids, err)
			}
		}
		if rng.IntN(3) > 0 {
			done(out.Publish(pctx, m))
			continue
		}
		pending, err := out.PublishAsync(pctx, m)
		if err != nil {
			done(err)
			continue
		}
		wg.Go(func() { done(pending.Wait(pctx)) })
	}
	wg.Wait()
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// harm lets the faults of the plan happen.
func (w *world) harm(ctx context.Context) {
	var wg sync.WaitGroup
	next := 100
	for _, f := range w.plan.faults {
		wg.Go(func() {
			sleep(ctx, f.at)
			w.mu.Lock()
			p := w.procs[f.whom]
			ends := f.kind == "kill" || f.kind == "stop"
			if ends && f.whom < w.plan.consumers { // a producer that ends has no more to lose
				w.procs[f.whom] = nil
			}
			w.mu.Unlock()
			if p == nil || ends && f.whom >= w.plan.consumers {
				return
			}
			mark := w.ledger.Mark(f.kind + " " + p.name)
			defer mark.Over()
			switch f.kind {
			case "cut":
				p.w.cut("cut")
			case "swallow":
				flow := p.w.swallow()
				sleep(ctx, f.last)
				flow()
			case "restart":
				w.server.restart(true)
				w.everybody(func(p *process) { p.w.cut("the server went away") })
				sleep(ctx, f.last/4)
				w.server.restart(false)
			case "kill", "stop":
				w.mu.Lock()
				next++
				n := next
				w.mu.Unlock()
				if f.kind == "kill" {
					p.w.kill()
				}
				p.stop()
				p.seen.Gone()
				if err := <-p.over; err != nil && f.kind == "stop" && !errors.Is(err, gombu.ErrAbandoned) {
					w.complainf("%s: Run returned %v", p.name, err)
				}
				_ = p.conn.Close()
				sleep(ctx, f.last/10)
				w.mu.Lock()
				defer w.mu.Unlock()
				w.procs[f.whom] = w.consumer(ctx, n)
			}
		})
	}
	wg.Wait()
}

func (w *world) everybody(f func(*process)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.procs {
		if p != nil {
			f(p)
		}
	}
}

// undertaker is a process without faults that takes the dead letters: they are
// not lost. It ends with ctx.
func (w *world) undertaker(ctx context.Context) error {
	p := w.start("undertaker", w.seed*1000+998)
	defer func() { _ = p.conn.Close() }()
	cfg := gombu.ConsumerConfig{}
	topo := gombu.Topology{}
	for _, q := range w.plan.queues {
		cfg.Queues = append(cfg.Queues, dead+q)
		topo.Queues = append(topo.Queues, gombu.Queue{Name: dead + q})
	}
	cfg.Declare = &topo
	return p.conn.Run(ctx, cfg, func(_ context.Context, d *gombu.Delivery) error {
		d.Queue = strings.TrimPrefix(d.Queue, dead)
		id, err := w.idOf(d)
		if err != nil {
			return err
		}
		w.mu.Lock()
		n := w.starts[id]
		w.mu.Unlock()
		// Of a process that was killed, or that lost its link, a start may have
		// been counted that did not happen.
		if w.plan.failing == 0 && n < w.plan.attempts-len(w.plan.faults) || len(w.plan.faults) == 0 && n != w.plan.attempts {
			w.complainf("%v is a dead letter after %d starts: %v", id, n, d.Headers)
		}
		w.ledger.Removed(id)
		return nil
	})
}

const dead = "gombu.dead."

// probe publishes until every consumer has had something since the last fault,
// for some minutes.
func (w *world) probe(ctx context.Context) {
	p := w.start("probe", w.seed*1000+999)
	defer func() { _ = p.conn.Close() }()
	out := p.conn.Producer(nil)
	for n := 0; n < 1000 && len(w.ledger.Report().Silent) > 0; n++ {
		q := w.plan.queues[n%len(w.plan.queues)]
		id := w.copies(w.plan.producers, n, []string{q})[0]
		w.ledger.Sent(id)
		w.ledger.Outcome(id, out.Publish(ctx, &gombu.Message{Queue: q, Value: [2]int{w.plan.producers, n}}))
		sleep(ctx, w.plan.quick)
	}
	w.settled()
}

// run lets a world live and judges it. It must be called in a bubble.
func run(ctx context.Context, seed uint64, b bug, loud bool) []string {
	rng := rand.New(rand.NewPCG(seed, 0))
	w := &world{seed: seed, rng: rng, bug: b, plan: newPlan(rng), server: newServer(b), ledger: ledger.New(), starts: map[ledger.ID]int{}, log: slog.New(slog.DiscardHandler)}
	if loud {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
		w.log.Info("plan", "seed", seed, "plan", fmt.Sprintf("%+v", w.plan))
	}
	w.procs = make([]*process, w.plan.consumers+w.plan.producers)
	for i := range w.plan.consumers {
		w.procs[i] = w.consumer(ctx, i)
	}
	buried, stop := context.WithCancel(ctx)
	var wg, end sync.WaitGroup
	end.Go(func() {
		if err := w.undertaker(buried); err != nil {
			w.complainf("the undertaker: %v", err)
		}
	})
	for i := range w.plan.producers {
		wg.Go(func() { w.produce(ctx, i) })
	}
	wg.Go(func() { w.harm(ctx) })
	wg.Wait()
	w.settled()
	w.probe(ctx)
	sleep(ctx, 3*lease) // what should not come would come now
	for _, p := range w.procs[:w.plan.consumers] {
		p.stop()
		began := time.Now()
		if err := <-p.over; err != nil && !errors.Is(err, gombu.ErrAbandoned) {
			w.complainf("%s: Run returned %v", p.name, err)
		}
		if took := time.Since(began); took > 6*time.Second {
			w.complainf("%s stopped after %v", p.name, took)
		}
		_ = p.conn.Close()
	}
	stop()
	end.Wait()
	return w.judge()
}

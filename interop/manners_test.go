package interop

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
)

// In an alarm publishes end with ErrBlocked at their deadline, consumers go on
// acking, declarations work; and all flows when it is over.
func TestAlarm(t *testing.T) {
	s := node(t)
	conn := opened(t, s.URL(), nil)
	q := name(t, "q")
	must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: q}}}))
	const n = 200
	ms := make([]*gombu.Message, n)
	for i := range ms {
		ms[i] = &gombu.Message{Queue: q, Body: fmt.Append(nil, i)}
	}
	p := conn.Producer(nil)
	must(t, p.PublishBatch(t.Context(), ms, nil))
	clear := sync.OnceFunc(alarm(t))
	defer clear()
	publish := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), deadline)
		defer cancel()
		began := time.Now()
		err := p.Publish(ctx, &gombu.Message{Queue: q, Body: []byte("late")})
		if took := time.Since(began); took > deadline+room {
			t.Errorf("a publish took %v", took)
		}
		return err
	}
	for i := range 3 {
		if err := publish(); !errors.Is(err, gombu.ErrBlocked) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("publish %d: %v", i, err)
		}
	}
	acked := make(chan error, 2*n)
	running(t, conn, gombu.ConsumerConfig{Queues: []string{q}, Prefetch: 10}, func(ctx context.Context, d *gombu.Delivery) error {
		acked <- d.Ack(ctx)
		return nil
	})
	for range n {
		must(t, <-acked)
	}
	soon(t, "declare", func() error {
		return conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: q + "2", Expires: time.Minute}}})
	})
	info, err := conn.Inspect(t.Context(), q)
	if must(t, err); info.Ready != 0 {
		t.Errorf("%d are in the queue", info.Ready)
	}
	clear()
	eventually(t, resumed, "messages flow again", func() bool { return publish() == nil })
	must(t, <-acked)
}

// The prefetch of a consumer changes under load, on each kind of queue, and the
// broker delivers nothing twice and nothing out of order.
func TestPrefetchChangesUnderLoad(t *testing.T) {
	b := brokers()[0]
	need(t, b)
	for _, kind := range []string{"classic", "quorum"} {
		t.Run(kind, func(t *testing.T) {
			conn := open(t, b, "")
			q := name(t, kind)
			topo := gombu.Topology{Queues: []gombu.Queue{{Name: q, Args: gombu.Headers{{Key: "x-queue-type", Value: kind}}}}}
			must(t, conn.Declare(t.Context(), topo))
			drop(t, b, topo)
			const n = 3000
			var next int
			done := make(chan struct{})
			k := running(t, conn, gombu.ConsumerConfig{Queues: []string{q}, Prefetch: 20}, gombu.Typed(func(_ context.Context, v int, d *gombu.Delivery) error {
				if v != next || d.Redelivered {
					t.Errorf("got %d, redelivered %v; want %d", v, d.Redelivered, next)
				}
				if next++; next == n {
					close(done)
				}
				return nil
			}))
			var wg sync.WaitGroup
			wg.Go(func() {
				p := conn.Producer(nil)
				var line []*gombu.Pending
				for i := range n {
					w, err := p.PublishAsync(t.Context(), &gombu.Message{Queue: q, Value: i})
					must(t, err)
					line = append(line, w)
				}
				for _, w := range line {
					must(t, w.Wait(t.Context()))
				}
			})
			for i, over := 0, false; !over; i++ {
				must(t, k.SetPrefetch(t.Context(), q, []int{50, 1, 7, 200}[i%4]))
				select {
				case <-done:
					over = true
				default:
				}
			}
			wg.Wait()
		})
	}
}

// One error of a channel (404, 406, 403) is felt by whoever made it: a hundred
// consumers and a producer of the same Conn feel nothing.
func TestChannelErrorsTouchNobodyElse(t *testing.T) {
	b := brokers()[0]
	need(t, b)
	lost := make(chan gombu.Event, 100)
	conn := opened(t, b.url, &gombu.Config{OnEvent: func(e gombu.Event) { lost <- e }})
	const n = 100
	var topo gombu.Topology
	var queues []string
	for i := range n {
		queues = append(queues, name(t, fmt.Sprint(i)))
		topo.Queues = append(topo.Queues, gombu.Queue{Name: queues[i], MaxLength: 1000})
	}
	must(t, conn.Declare(t.Context(), topo))
	drop(t, b, topo)
	got := make(chan *gombu.Delivery, 10*n)
	running(t, conn, gombu.ConsumerConfig{Queues: queues, Workers: 4}, func(_ context.Context, d *gombu.Delivery) error {
		got <- d
		return nil
	})
	p := conn.Producer(nil)
	round := func(what string) {
		t.Helper()
		tags := map[string]bool{}
		for _, q := range queues {
			must(t, p.Publish(t.Context(), &gombu.Message{Queue: q, Body: []byte(what)}))
		}
		for range n {
			d := <-got
			if string(d.Body) != what || d.Redelivered {
				t.Errorf("after %s: %s, redelivered %v", what, d.Body, d.Redelivered)
			}
			tags[d.ConsumerTag] = true
		}
		if len(tags) != n {
			t.Errorf("after %s: %d consumers", what, len(tags))
		}
	}
	round("nothing")
	for what, do := range map[string]struct {
		call func(ctx context.Context) error
		kind error
	}{
		"404, exchange": {func(ctx context.Context) error {
			return p.Publish(ctx, &gombu.Message{Exchange: "gombu.no.such", Key: "k", Body: []byte("x")})
		}, gombu.ErrNotFound},
		"404, queue": {func(ctx context.Context) error { _, err := conn.Inspect(ctx, "gombu.no.such"); return err }, gombu.ErrNotFound},
		"404, consumer": {func(ctx context.Context) error {
			return conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"gombu.no.such"}}, func(context.Context, *gombu.Delivery) error { return nil })
		}, gombu.ErrNotFound},
		"406, declare": {func(ctx context.Context) error {
			return conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: queues[0], MaxLength: 7}}})
		}, gombu.ErrConflict},
		"406, argument": {func(ctx context.Context) error {
			return conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: queues[1] + "x", Args: gombu.Headers{{Key: "x-max-priority", Value: "many"}}}}})
		}, gombu.ErrInvalid},
		"403, declare": {func(ctx context.Context) error {
			return conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "amq.gombu"}}})
		}, gombu.ErrDenied},
		"403, consumer": {func(ctx context.Context) error {
			return conn.Run(ctx, gombu.ConsumerConfig{Queues: queues[:1], Exclusive: true}, func(context.Context, *gombu.Delivery) error { return nil })
		}, gombu.ErrConflict},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		if err := do.call(ctx); !errors.Is(err, do.kind) {
			t.Errorf("%s: %v, want %v", what, err, do.kind)
		}
		cancel()
		round(what)
	}
	for len(lost) > 0 {
		if e := <-lost; e.Kind.String() == "lost" || e.Kind.String() == "gone" {
			t.Errorf("%v", e)
		}
	}
}

// A handler that outlasts the broker's acknowledgement timeout loses its claim,
// its context says so, and its consumer goes on; others on the same connection
// feel nothing.
func TestAcknowledgementTimeout(t *testing.T) {
	node(t)
	old := strings.TrimSpace(ctl(t, "eval", "{ok, A} = application:get_env(rabbit, channel_tick_interval), {ok, B} = application:get_env(rabbit, consumer_timeout), io:format(\"~w ~w\", [A, B])."))
	var tick, timeout int
	_, err := fmt.Sscan(old, &tick, &timeout)
	must(t, err)
	set := func(tick, timeout int) {
		// A channel reads both when it opens.
		ctl(t, "eval", fmt.Sprintf("application:set_env(rabbit, channel_tick_interval, %d), application:set_env(rabbit, consumer_timeout, %d).", tick, timeout))
	}
	set(300, 1000)
	defer set(tick, timeout)
	for _, kind := range []string{"classic", "quorum"} {
		t.Run(kind, func(t *testing.T) { ackTimeout(t, kind) })
	}
}

func ackTimeout(t *testing.T, kind string) {
	conn := opened(t, node(t).URL(), nil)
	slow, other := name(t, "slow"), name(t, "other")
	args := gombu.Headers{{Key: "x-queue-type", Value: kind}}
	must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: slow, Args: args}, {Name: other, Args: args}}}))
	causes := make(chan error, 10)
	goods := make(chan *gombu.Delivery, 10)
	running(t, conn, gombu.ConsumerConfig{Queues: []string{slow}, Workers: 2}, func(ctx context.Context, d *gombu.Delivery) error {
		if string(d.Body) == "slow" && !d.Redelivered {
			select {
			case <-ctx.Done():
				causes <- context.Cause(ctx)
			case <-time.After(time.Minute):
				causes <- errors.New("a minute, and the context did not end")
			}
			return nil
		}
		goods <- d
		return nil
	})
	others := make(chan *gombu.Delivery, 1000)
	running(t, conn, gombu.ConsumerConfig{Queues: []string{other}}, func(_ context.Context, d *gombu.Delivery) error { others <- d; return nil })
	p := conn.Producer(nil)
	publish := func(q, body string) {
		t.Helper()
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: q, Body: []byte(body)}))
	}
	publish(slow, "slow")
	tag := ""
	for n := 0; len(causes) == 0; n++ {
		if n > 3000 {
			t.Fatal("the claim does not end")
		}
		publish(other, "x")
		d := <-others
		if tag == "" {
			tag = d.ConsumerTag
		}
		if d.Redelivered || d.ConsumerTag != tag {
			t.Errorf("another consumer felt it: redelivered %v, tag %s, was %s", d.Redelivered, d.ConsumerTag, tag)
		}
		wait(t, 10*time.Millisecond)
	}
	if err := <-causes; !errors.Is(err, gombu.ErrLeaseLost) {
		t.Errorf("the handler's context ended with %v", err)
	}
	if d := <-goods; string(d.Body) != "slow" || d.Attempt < 2 {
		t.Errorf("then came %s, attempt %d", d.Body, d.Attempt)
	}
	publish(slow, "after")
	if d := <-goods; string(d.Body) != "after" {
		t.Errorf("then came %s", d.Body)
	}
}

// So many connections and channels does a Conn use: two connections; on one a
// channel a queue that is consumed, another once copies for its retries were
// made, and one for questions; on the other a channel for messages that are
// confirmed and one for those that are not.
func TestConnectionsAndChannels(t *testing.T) {
	s := node(t)
	test := name(t, "count")
	conn := opened(t, s.URL(), marked(test))
	const n = 100
	var topo gombu.Topology
	var queues []string
	for i := range n {
		queues = append(queues, name(t, fmt.Sprint(i)))
		topo.Queues = append(topo.Queues, gombu.Queue{Name: queues[i], Expires: 10 * time.Minute})
	}
	must(t, conn.Declare(t.Context(), topo))
	failed := make(chan bool, 100)
	for _, q := range queues { // a hundred Consumers, not one with a hundred queues
		running(t, conn, gombu.ConsumerConfig{Queues: []string{q}}, func(_ context.Context, d *gombu.Delivery) error {
			if d.Attempt < 2 {
				return gombu.Retry(0, errors.New("once more"))
			}
			failed <- true
			return nil
		})
	}
	for i := range n { // a hundred Producers
		p := conn.Producer(&gombu.ProducerConfig{NoConfirm: i%2 == 1})
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: "gombu.none", Mandatory: gombu.MandatoryOff}))
	}
	want := []string{fmt.Sprint(n + 1), "2"}
	var got []string
	count := func() bool {
		got = nil
		for _, name := range connections(t, test) {
			var c struct{ Channels int }
			managed(t, http.MethodGet, "connections/"+strings.ReplaceAll(name, " ", "%20"), &c)
			got = append(got, fmt.Sprint(c.Channels))
		}
		slices.Sort(got)
		return slices.Equal(got, want)
	}
	defer func() {
		if t.Failed() {
			t.Logf("channels by connection: %v, want %v", got, want)
		}
	}()
	eventually(t, time.Minute, "the documented channels", count)
	for i := range 10 {
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: queues[i], Body: []byte("x")}))
	}
	for range 10 {
		<-failed
	}
	want = []string{fmt.Sprint(n + 1 + 10), "2"}
	eventually(t, time.Minute, "and those of the retry queues", count)
}

// Queues of a session have a fresh name in each, and are exclusive: RabbitMQ 4.3
// refuses transient ones that are not, and a half-open old link would hold a
// name that stays.
func TestPerSessionQueues(t *testing.T) {
	s := node(t)
	b, p := through(t, broker{url: s.URL()})
	conn := opened(t, b.url, nil)
	q := name(t, "reply")
	must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: q, PerSession: true, Exclusive: true, Transient: true}}}))
	got := make(chan *gombu.Delivery, 1)
	k := running(t, conn, gombu.ConsumerConfig{Queues: []string{q}}, func(_ context.Context, d *gombu.Delivery) error { got <- d; return nil })
	names := map[string]bool{}
	for range 3 {
		must(t, k.Ready(t.Context()))
		real := conn.BrokerName(q)
		out := ctl(t, "list_queues", "name", "durable", "auto_delete", "exclusive")
		if !strings.HasPrefix(real, q+".") || !strings.Contains(out, real+"\tfalse\ttrue\ttrue") {
			t.Errorf("%s is not there, exclusive:\n%s", real, out)
		}
		names[real] = true
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q, Body: []byte("x")}))
		if d := <-got; d.Queue != q {
			t.Errorf("delivered as %s", d.Queue)
		}
		p.HalfClose() // the old link stands, and holds its queue
		eventually(t, resumed, "another session", func() bool { return conn.BrokerName(q) != real && conn.BrokerName(q) != q })
	}
	if len(names) != 3 {
		t.Errorf("names %v", names)
	}
	p.CutHalved()
}

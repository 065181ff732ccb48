package gombu_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
)

// Corners of the core: each test here failed before its defect was mended.

// running starts a consumer and waits until its subscriptions stand; stop ends
// it and returns what Run did.
func running(t *testing.T, conn *gombu.Conn, cfg gombu.ConsumerConfig, h gombu.Handler) (k *gombu.Consumer, stop func() error) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	k = conn.Consumer(cfg)
	over := make(chan error, 1)
	go func() { over <- k.Run(ctx, h) }()
	must(t, k.Ready(t.Context()))
	return k, func() error { cancel(); return <-over }
}

func send(t *testing.T, conn *gombu.Conn, m *gombu.Message) {
	t.Helper()
	must(t, conn.Producer(nil).Publish(t.Context(), m))
}

// Reject and Drop decide, also when the reason is that the message does not decode.
func TestVerdictOnAnUndecodableMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		bad := func() {
			m := &gombu.Message{Queue: "q", Body: []byte("{")}
			m.ContentType, m.ContentEncoding = "application/json", "utf-8"
			send(t, conn, m)
		}
		bad()
		calls := 0
		_, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, func(_ context.Context, d *gombu.Delivery) error {
			calls++
			var v any
			return gombu.Reject(d.Decode(&v))
		})
		time.Sleep(time.Hour)
		must(t, stop())
		if calls != 1 || f.count("q") != 0 || f.count("gombu.dead.q") != 0 {
			t.Errorf("handler: %d calls, %d in the queue, %d parked; want 1, 0, 0", calls, f.count("q"), f.count("gombu.dead.q"))
		}
		bad()
		calls = 0
		_, stop = running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, OnUndecodable: func(_ context.Context, _ *gombu.Delivery, err error) error {
			calls++
			return gombu.Drop(fmt.Errorf("no use: %w", err))
		}}, gombu.Typed(func(context.Context, int, *gombu.Delivery) error { return nil }))
		time.Sleep(time.Hour)
		must(t, stop())
		if calls != 1 || f.count("q") != 0 {
			t.Errorf("hook: %d calls, %d in the queue; want 1, 0", calls, f.count("q"))
		}
	})
}

// A declaration that the broker refused, or that was undone, says nothing about
// the exchange: what nobody takes is still an error.
func TestRefusedDeclareDoesNotSilenceUnroutable(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		fanout := gombu.Topology{Exchanges: []gombu.Exchange{{Name: "x", Type: gombu.Fanout}}}
		f.apply = func(*driver.Step) error { return &driver.Error{Kind: driver.ErrConflict} }
		if err := conn.Declare(t.Context(), fanout); !errors.Is(err, gombu.ErrConflict) {
			t.Fatal(err)
		}
		p := conn.Producer(nil)
		if err := p.Publish(t.Context(), &gombu.Message{Exchange: "x", Key: "nobody"}); !errors.Is(err, gombu.ErrUnroutable) {
			t.Errorf("after a refused Declare: %v", err)
		}
		f.set(func() { f.apply = nil })
		must(t, conn.Declare(t.Context(), fanout))
		must(t, p.Publish(t.Context(), &gombu.Message{Exchange: "x", Key: "nobody"}))
		must(t, conn.Delete(t.Context(), fanout, nil))
		if err := p.Publish(t.Context(), &gombu.Message{Exchange: "x", Key: "nobody"}); !errors.Is(err, gombu.ErrUnroutable) {
			t.Errorf("after Delete: %v", err)
		}
	})
}

// For the race detector: calls that wait for a session while it closes.
func TestReadyBesideClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.latency = time.Second
		conn := open(t, f, nil)
		for range 4 {
			go func() { _ = conn.Ready(t.Context()) }()
		}
		time.Sleep(500 * time.Millisecond)
		must(t, conn.Close())
	})
}

// A session that is over, and that the supervisor has not let go of yet, eats
// no retries.
func TestRetriesAreNotSpentOnADeadSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		submits := 0
		f.submit = func(s *fakeSender, batch []driver.Outgoing) (int, error) {
			submits++
			return s.accept(batch)
		}
		for i := range 50 {
			f.cut()
			p := conn.Producer(&gombu.ProducerConfig{Retry: &gombu.RetryPolicy{MaxRetries: 1}})
			if err := p.Publish(t.Context(), &gombu.Message{Queue: "q"}); err != nil {
				t.Fatalf("publish %d: %v, after %d submits", i, err, submits)
			}
		}
	})
}

// A message that waits through an outage goes to the name that a PerSession
// queue has when it is sent, not to the one of before.
func TestPerSessionNameIsResolvedWhenSent(t *testing.T) {
	for _, split := range []bool{false, true} {
		t.Run(fmt.Sprintf("split=%v", split), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake()
				f.split = split
				conn := open(t, f, nil)
				must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: "mine", PerSession: true}, {Name: "q"}}}))
				old := conn.BrokerName("mine")
				f.set(func() { f.dial = func(int) error { return errors.New("down") } })
				f.cut()
				time.Sleep(time.Second)
				m := &gombu.Message{Queue: "q"}
				m.ReplyTo = "mine"
				direct, err := conn.Producer(nil).PublishAsync(t.Context(), &gombu.Message{Queue: "mine"})
				must(t, err)
				reply, err := conn.Producer(nil).PublishAsync(t.Context(), m)
				must(t, err)
				time.Sleep(time.Second)
				f.set(func() { f.dial = nil })
				must(t, direct.Wait(t.Context()))
				must(t, reply.Wait(t.Context()))
				now := conn.BrokerName("mine")
				if now == old || f.count(now) != 1 {
					t.Errorf("%d messages in %q (before: %q), want 1", f.count(now), now, old)
				}
				if got := f.queues["q"][0].Props.ReplyTo; got != now {
					t.Errorf("reply-to is %q, want %q", got, now)
				}
			})
		})
	}
}

// What comes back from a lost session stands in the line in the order in which
// it was published, whoever brings it back first.
func TestOrderOfWhatComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		f.submit = func(s *fakeSender, batch []driver.Outgoing) (int, error) {
			f.set(func() { f.submit = nil })
			s.mu.Lock()
			for _, o := range batch[:1] {
				s.line = append(s.line, driver.Receipt{Seq: o.Seq, Err: driver.ErrNotSent})
			}
			s.mu.Unlock()
			s.c.end(errors.New("cut"))
			time.Sleep(time.Second) // the outcomes are home before Submit returns
			return 1, s.c.Err()
		}
		p := conn.Producer(nil)
		var pend []*gombu.Pending
		for i := range 4 {
			w, err := p.PublishAsync(t.Context(), &gombu.Message{Queue: "q", Value: i})
			must(t, err)
			pend = append(pend, w)
		}
		for _, w := range pend {
			must(t, w.Wait(t.Context()))
		}
		var got string
		for _, in := range f.queues["q"] {
			got += string(in.Body)
		}
		if got != "0123" {
			t.Errorf("in the queue: %s", got)
		}
	})
}

// A handler keeps its context until its grace is over, and Cancel waits for it,
// also when nothing of it is left to settle.
func TestGraceOfHandlersThatHaveSettled(t *testing.T) {
	for _, noAck := range []bool{false, true} {
		t.Run(fmt.Sprintf("noAck=%v", noAck), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake()
				conn := open(t, f, nil)
				must(t, declare(t.Context(), conn, "q", "other"))
				send(t, conn, &gombu.Message{Queue: "q"})
				send(t, conn, &gombu.Message{Queue: "other"})
				var cut, busy atomic.Int32
				k, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q", "other"}, NoAck: noAck, Workers: 2}, func(ctx context.Context, d *gombu.Delivery) error {
					if d.Queue == "other" {
						busy.Add(1)
						defer busy.Add(-1)
					}
					if err := d.Ack(ctx); err != nil {
						t.Error(err)
					}
					if wait(ctx, 5*time.Second) != nil {
						cut.Add(1)
					}
					return nil
				})
				time.Sleep(time.Second)
				must(t, k.Cancel(t.Context(), "other"))
				if n := busy.Load(); n != 0 {
					t.Errorf("Cancel left %d handlers running", n)
				}
				send(t, conn, &gombu.Message{Queue: "q"})
				time.Sleep(time.Second)
				must(t, stop())
				if n := cut.Load(); n != 0 {
					t.Errorf("%d handlers lost their context before their grace was over", n)
				}
			})
		})
	}
}

// What fails while its consumer stops goes back at once: there is nobody left
// to hold it.
func TestStopDoesNotWaitForABackOff(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		send(t, conn, &gombu.Message{Queue: "q"})
		started := make(chan struct{})
		_, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, func(context.Context, *gombu.Delivery) error {
			close(started)
			time.Sleep(100 * time.Millisecond)
			return errors.New("failed")
		})
		<-started
		within(t, 200*time.Millisecond, func() { must(t, stop()) })
		if f.count("q") != 1 {
			t.Errorf("%d in the queue, want 1", f.count("q"))
		}
	})
}

// No goroutine of a Run outlives it for a message that its grace cut short.
func TestRunLeavesNobodyHolding(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		send(t, conn, &gombu.Message{Queue: "q"})
		started := make(chan struct{})
		_, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, Grace: time.Second}, func(ctx context.Context, _ *gombu.Delivery) error {
			close(started)
			<-ctx.Done()
			return context.Cause(ctx)
		})
		<-started
		must(t, stop())
		synctest.Wait()
		buf := make([]byte, 1<<20)
		if all := string(buf[:runtime.Stack(buf, true)]); strings.Contains(all, "holdLoop") {
			t.Error("the goroutine that holds messages outlives Run")
		}
	})
}

// A message whose next try to be parked falls into the stop goes back.
func TestParkingAgainWhileStopping(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.brake = 500 * time.Millisecond
		f.refuse = func(o *driver.Outgoing) error {
			if o.Key == "q" {
				return nil
			}
			return &driver.Error{Kind: driver.ErrRefused}
		}
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		_, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, Accept: []string{"json"}}, func(context.Context, *gombu.Delivery) error { return nil })
		send(t, conn, &gombu.Message{Queue: "q", Value: "text, which is not accepted"})
		time.Sleep(900 * time.Millisecond) // held for a second
		within(t, time.Second, func() { must(t, stop()) })
		if f.count("q") != 1 {
			t.Errorf("%d in the queue, want 1", f.count("q"))
		}
	})
}

// What a handler settles when its context ends still counts.
func TestSettlesAfterTheGraceAreFlushed(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		send(t, conn, &gombu.Message{Queue: "q"})
		started := make(chan struct{})
		_, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, Grace: time.Second}, func(ctx context.Context, _ *gombu.Delivery) error {
			close(started)
			<-ctx.Done()
			time.Sleep(100 * time.Millisecond) // winds up
			return nil
		})
		<-started
		within(t, 1200*time.Millisecond, func() { must(t, stop()) })
		if f.acked != 1 || f.count("q") != 0 {
			t.Errorf("%d acked, %d in the queue; want 1, 0", f.acked, f.count("q"))
		}
	})
}

// Close does not wait its grace for a Run that cannot declare yet.
func TestShutdownOfARunThatWaitsToDeclare(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.dial = func(int) error { return errors.New("down") }
		conn := gombu.New(f, nil)
		over := make(chan error, 1)
		go func() {
			over <- conn.Run(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}, Declare: &gombu.Topology{Queues: []gombu.Queue{{Name: "q"}}}},
				func(context.Context, *gombu.Delivery) error { return nil })
		}()
		time.Sleep(3 * time.Second)
		within(t, time.Second, func() { must(t, conn.Close()) })
		must(t, <-over)
	})
}

// A session that is lost while a Run, or a publish, declares is no reason to fail.
func TestDeclareSurvivesALostSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.latency = time.Second
		conn := open(t, f, nil)
		must(t, conn.Ready(t.Context()))
		top := &gombu.Topology{Queues: []gombu.Queue{{Name: "q"}}}
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		wg.Go(func() {
			if err := conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}, Declare: top}, func(context.Context, *gombu.Delivery) error { return nil }); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
		wg.Go(func() {
			if err := conn.Producer(&gombu.ProducerConfig{Declare: top}).Publish(t.Context(), &gombu.Message{Queue: "q"}); err != nil {
				t.Errorf("Publish: %v", err)
			}
		})
		time.Sleep(500 * time.Millisecond)
		f.cut()
		time.Sleep(20 * time.Second)
		cancel()
		wg.Wait()
	})
}

// A panic in the loop's body leaves at once, and gives back what it held.
func TestIteratorPanics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		send(t, conn, &gombu.Message{Queue: "q"})
		within(t, time.Second, func() {
			defer func() {
				if p := recover(); p != "boom" {
					t.Errorf("recovered %v", p)
				}
			}()
			for range conn.Deliveries(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}}) {
				panic("boom")
			}
		})
		if f.count("q") != 1 {
			t.Errorf("%d in the queue, want 1", f.count("q"))
		}
	})
}

// A queue whose Cancel was cut short can be consumed again.
func TestAddAfterACancelThatEndedEarly(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		send(t, conn, &gombu.Message{Queue: "q"})
		k, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, func(context.Context, *gombu.Delivery) error {
			time.Sleep(time.Second)
			return nil
		})
		time.Sleep(100 * time.Millisecond)
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		if err := k.Cancel(ctx, "q"); !errors.Is(err, gombu.ErrAbandoned) {
			t.Fatal(err)
		}
		must(t, k.Add(t.Context(), "q")) // the handler is running still
		ctx, cancel = context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := k.Ready(ctx); err != nil {
			t.Error(err)
		}
		must(t, stop())
	})
}

// A prefetch that is set while the subscription is being made is kept.
func TestSetPrefetchWhileSubscribing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.latency = time.Second
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		k := conn.Consumer(gombu.ConsumerConfig{Queues: []string{"q"}})
		ctx, cancel := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() { over <- k.Run(ctx, func(context.Context, *gombu.Delivery) error { return nil }) }()
		time.Sleep(500 * time.Millisecond)
		must(t, k.SetPrefetch(t.Context(), "q", 3))
		must(t, k.Ready(t.Context()))
		if got := f.receivers[0].prefetch; got != 3 {
			t.Errorf("the prefetch is %d, want 3", got)
		}
		cancel()
		must(t, <-over)
	})
}

// A pause that begins while there is no session is one: 0 asked of a broker
// would be no limit.
func TestPauseDuringAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		k, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, func(context.Context, *gombu.Delivery) error { return nil })
		f.set(func() { f.dial = func(int) error { return errors.New("down") } })
		f.cut()
		time.Sleep(time.Second)
		must(t, k.SetPrefetch(t.Context(), "q", 0))
		f.set(func() { f.dial = nil })
		time.Sleep(10 * time.Second)
		last := func() (n, prefetch int) {
			f.set(func() { n = len(f.receivers); prefetch = f.receivers[n-1].prefetch })
			return n, prefetch
		}
		if n, prefetch := last(); n != 1 {
			t.Errorf("%d subscriptions, the last with prefetch %d, want the first alone", n, prefetch)
		}
		must(t, k.SetPrefetch(t.Context(), "q", 5))
		must(t, k.Ready(t.Context()))
		if _, got := last(); got != 5 {
			t.Errorf("the prefetch is %d, want 5", got)
		}
		must(t, stop())
	})
}

// Shutdown with a context that is over does not make up unanswered publishes.
func TestShutdownInNoTimeWithNothingPending(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conn := gombu.New(newFake(), nil)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := conn.Shutdown(ctx); errors.Is(err, gombu.ErrUncertain) {
			t.Error(err)
		}
	})
}

type explosive struct{}

func (explosive) MarshalJSON() ([]byte, error) { panic("boom") }

// A value that panics as it is encoded takes no room for ever.
func TestPanicWhileEncoding(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := gombu.New(f, &gombu.Config{MaxPending: 1})
		must(t, declare(t.Context(), conn, "q"))
		func() {
			defer func() { _ = recover() }()
			_ = conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: explosive{}})
		}()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "q"}); err != nil {
			t.Error(err)
		}
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
}

// PublishAsync keeps nothing of the caller's: not what lies deep in the headers either.
func TestHeadersAreCopiedDeep(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		blob := []byte("old")
		list := []any{"old", map[string]any{"k": "old"}}
		table := gombu.Headers{{Key: "k", Value: "old"}}
		m := &gombu.Message{Queue: "q"}
		m.Headers = gombu.Headers{{Key: "blob", Value: blob}, {Key: "list", Value: list}, {Key: "table", Value: table}}
		w, err := conn.Producer(nil).PublishAsync(t.Context(), m)
		must(t, err)
		copy(blob, "new")
		list[0], table[0].Value = "new", "new"
		list[1].(map[string]any)["k"] = "new"
		must(t, w.Wait(t.Context()))
		if got := fmt.Sprint(f.queues["q"][0].Props.Headers); strings.Contains(got, "new") || strings.Contains(got, fmt.Sprint([]byte("new"))) {
			t.Error(got)
		}
	})
}

// What never left the line is not sent, also when its context ends at the very
// moment at which connecting is given up.
func TestGivenUpIsNeverUncertain(t *testing.T) {
	f := newFake()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	conn := gombu.New(f, &gombu.Config{Retry: gombu.RetryPolicy{MaxRetries: -1}})
	release := make(chan struct{})
	f.dial = func(int) error { <-release; return errors.New("down") }
	const n = 4000
	errs := make([]error, n)
	var in, wg sync.WaitGroup
	in.Add(n)
	for i := range n {
		wg.Go(func() {
			w, err := conn.Producer(nil).PublishAsync(ctx, &gombu.Message{Queue: "q"})
			in.Done()
			if err == nil {
				err = w.Wait(ctx)
			}
			errs[i] = err
			cancel() // the first that has its answer: most wait for theirs
		})
	}
	in.Wait()
	close(release)
	wg.Wait()
	for _, err := range errs {
		if !errors.Is(err, gombu.ErrNotSent) || errors.Is(err, gombu.ErrUncertain) {
			t.Fatal(err)
		}
	}
	must(t, conn.Close())
}

// Retry.Timeout bounds batches and what is waited for later, as it bounds Publish.
func TestRetryTimeoutOfBatches(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.dial = func(int) error { return errors.New("down") }
		conn := gombu.New(f, nil)
		p := conn.Producer(&gombu.ProducerConfig{Retry: &gombu.RetryPolicy{Timeout: time.Second}})
		within(t, time.Second, func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := p.PublishBatch(ctx, []*gombu.Message{{Queue: "q"}, {Queue: "q"}}, nil); !errors.Is(err, gombu.ErrNotSent) {
				t.Error(err)
			}
		})
		within(t, time.Second, func() {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			w, err := p.PublishAsync(ctx, &gombu.Message{Queue: "q"})
			must(t, err)
			if err := w.Wait(ctx); !errors.Is(err, gombu.ErrNotSent) {
				t.Error(err)
			}
		})
		_ = conn.Close()
	})
}

// A broker that ends each session, or each subscription, as soon as it stands
// is not asked again at the speed of the network.
func TestBackOffWhenNothingLasts(t *testing.T) {
	t.Run("sessions", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			f := newFake()
			conn := open(t, f, nil)
			stop := make(chan struct{})
			go func() {
				for {
					select {
					case <-stop:
						return
					case <-time.After(time.Millisecond):
						f.cut()
					}
				}
			}()
			_ = conn.Ready(t.Context())
			time.Sleep(2 * time.Second)
			close(stop)
			f.mu.Lock()
			defer f.mu.Unlock()
			if f.dials > 50 {
				t.Errorf("%d dials in two seconds", f.dials)
			}
		})
	})
	t.Run("subscriptions", func(t *testing.T) {
		bubble(t, func(t *testing.T) {
			f := newFake()
			conn := open(t, f, nil)
			must(t, declare(t.Context(), conn, "q"))
			f.receive = func() error {
				return &driver.Error{Kind: driver.ErrUnavailable, Err: errors.New("closed by the broker")}
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
			defer cancel()
			must(t, conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}}, func(context.Context, *gombu.Delivery) error { return nil }))
			if n := len(f.receivers); n > 50 {
				t.Errorf("%d subscriptions in two seconds", n)
			}
		})
	})
}

// Shutdown hurries a Run that is stopping already, with a longer grace.
func TestShutdownOfARunThatStops(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := gombu.New(f, nil)
		must(t, declare(t.Context(), conn, "q"))
		send(t, conn, &gombu.Message{Queue: "q"})
		started := make(chan struct{})
		_, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, Grace: time.Hour, FinishLost: true}, func(ctx context.Context, _ *gombu.Delivery) error {
			close(started)
			<-ctx.Done()
			return nil
		})
		<-started
		over := make(chan error, 1)
		go func() { over <- stop() }()
		time.Sleep(time.Second)
		within(t, 10*time.Second, func() {
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		})
		within(t, time.Second, func() { must(t, <-over) })
		if f.acked != 1 {
			t.Errorf("%d acked, want 1", f.acked)
		}
	})
}

// A session that is lost at the very moment at which the Conn closes is closed
// all the same: it has sockets and goroutines.
func TestSessionLostAsTheConnCloses(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := gombu.New(f, nil)
		must(t, conn.Ready(t.Context()))
		var asked atomic.Int32
		over := make(chan error, 1)
		f.set(func() {
			f.asked = func() {
				if asked.Add(1) == 2 { // the supervisor has just let go of it
					go func() { over <- conn.Close() }()
					_ = conn.Consumer(gombu.ConsumerConfig{}).Ready(context.Background())
				}
			}
		})
		f.cut()
		must(t, <-over)
		if f.closed != 1 {
			t.Errorf("%d sessions were closed, want 1", f.closed)
		}
	})
}

// A publish that waits for the consuming session says that the broker is away.
func TestWhyOfAPublishThatWaitsForTheOtherSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.split = true
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		send(t, conn, &gombu.Message{Queue: "q"})
		refused := errors.New("connection refused")
		f.set(func() {
			f.role = func(r driver.Role) error {
				if r == driver.Consume {
					return refused
				}
				return nil
			}
		})
		f.cut(driver.Consume)
		time.Sleep(time.Second)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err := conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "q"})
		for _, want := range []error{gombu.ErrNotSent, gombu.ErrUnavailable, context.DeadlineExceeded, refused} {
			if !errors.Is(err, want) {
				t.Errorf("%v is not %v", err, want)
			}
		}
	})
}

// How long a connect may take is the transport's to say.
func TestSlowConnect(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.latency = 20 * time.Second
		conn := open(t, f, nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		must(t, conn.Ready(ctx))
	})
}

// Whatever happens to sessions and consumers at once, everything ends, and what
// was confirmed has been handled or is still in its queue.
func TestChaos(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { bubble(t, func(t *testing.T) { chaos(t, seed) }) })
	}
}

func chaos(t *testing.T, seed uint64) {
	var dice sync.Mutex
	rnd := rand.New(rand.NewPCG(seed, 0))
	roll := func(n int) int { dice.Lock(); defer dice.Unlock(); return rnd.IntN(n) }
	queues := []string{"a", "b", "c"}
	f := newFake()
	f.split, f.pulls = seed%2 == 0, seed%4 >= 2
	f.brake = time.Millisecond
	conn := gombu.New(f, nil)
	must(t, declare(t.Context(), conn, queues...))
	ctx, stop := context.WithTimeout(t.Context(), 20*time.Second)
	defer stop()
	var wg sync.WaitGroup
	var mu sync.Mutex
	confirmed, handled := map[string]bool{}, map[string]bool{}
	for i := range 3 {
		k := conn.Consumer(gombu.ConsumerConfig{Queues: queues[:1+i], Workers: 1 + i, Prefetch: 4, Grace: time.Second, FinishLost: i == 1})
		wg.Go(func() {
			for ctx.Err() == nil {
				run, cancel := context.WithTimeout(ctx, time.Duration(1+roll(5))*time.Second)
				err := k.Run(run, func(hctx context.Context, d *gombu.Delivery) error {
					_ = wait(hctx, time.Duration(roll(50))*time.Millisecond)
					switch roll(10) {
					case 0:
						return gombu.Retry(0, nil)
					case 1:
						return errors.New("no")
					case 2:
						panic("no")
					case 3:
						return d.Release(hctx)
					}
					if err := d.Ack(hctx); err != nil && !errors.Is(err, gombu.ErrUncertain) {
						return err
					}
					mu.Lock()
					defer mu.Unlock()
					handled[d.MessageID] = true
					return nil
				})
				cancel()
				switch {
				case errors.Is(err, gombu.ErrClosed):
					return
				case err != nil:
					t.Error(err)
				}
			}
		})
		wg.Go(func() {
			for ctx.Err() == nil {
				_ = wait(ctx, time.Duration(roll(200))*time.Millisecond)
				q := queues[roll(3)]
				brief, cancel := context.WithTimeout(ctx, time.Duration(roll(100))*time.Millisecond)
				switch roll(3) {
				case 0:
					_ = k.Add(brief, q)
				case 1:
					_ = k.Cancel(brief, q)
				case 2:
					_ = k.SetPrefetch(brief, q, roll(5))
				}
				cancel()
			}
		})
		wg.Go(func() {
			p := conn.Producer(&gombu.ProducerConfig{Resend: i == 0})
			for n := 0; ctx.Err() == nil; n++ {
				m := &gombu.Message{Queue: queues[roll(3)]}
				m.MessageID = fmt.Sprintf("%d.%d", i, n)
				brief, cancel := context.WithTimeout(ctx, time.Duration(roll(300))*time.Millisecond)
				if p.Publish(brief, m) == nil {
					mu.Lock()
					confirmed[m.MessageID] = true
					mu.Unlock()
				}
				cancel()
				_ = wait(ctx, time.Duration(roll(20))*time.Millisecond)
			}
		})
	}
	wg.Go(func() {
		for wait(ctx, time.Duration(roll(3000))*time.Millisecond) == nil {
			f.cut()
		}
	})
	time.Sleep(time.Duration(roll(20)) * time.Second)
	within(t, 11*time.Second, func() {
		if err := conn.Close(); err != nil {
			t.Error(err)
		}
	})
	stop()
	within(t, 2*time.Second, wg.Wait)
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, left := range f.queues { // dead letters and copies too
		for _, in := range left {
			handled[in.Props.MessageID] = true
		}
	}
	for id := range confirmed {
		if !handled[id] {
			t.Errorf("message %s is lost", id)
		}
	}
	t.Logf("%d confirmed, %d handled, %d sessions", len(confirmed), len(handled), f.dials)
}

// A negative MaxPending is the default, not a panic.
func TestNegativeMaxPending(t *testing.T) {
	must(t, gombu.New(newFake(), &gombu.Config{MaxPending: -1}).Close())
}

// Queues that are added at the moment at which Run starts are consumed.
func TestAddBesideRun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.latency = 0
		conn := open(t, f, nil)
		var names []string
		for i := range 50 {
			names = append(names, fmt.Sprint(i))
		}
		must(t, declare(t.Context(), conn, names...))
		for i := range 100 {
			k := conn.Consumer(gombu.ConsumerConfig{})
			ctx, cancel := context.WithCancel(t.Context())
			over := make(chan error, 1)
			go func() { over <- k.Run(ctx, func(context.Context, *gombu.Delivery) error { return nil }) }()
			must(t, k.Add(t.Context(), names...))
			soon, done := context.WithTimeout(t.Context(), time.Second)
			if err := k.Ready(soon); err != nil {
				t.Errorf("round %d: %v", i, err)
			}
			done()
			cancel()
			must(t, <-over)
		}
	})
}

// A counted context counts what hangs on it.
type counted struct {
	context.Context
	n *atomic.Int32
}

func (c counted) AfterFunc(f func()) (stop func() bool) {
	c.n.Add(1)
	inner := context.AfterFunc(c.Context, func() { c.n.Add(-1); f() })
	return func() bool {
		stopped := inner()
		if stopped {
			c.n.Add(-1)
		}
		return stopped
	}
}

// Value hides the context within, so that children come through AfterFunc.
func (counted) Value(any) any { return nil }

// A Run that is refused leaves nothing at the context it was given.
func TestRefusedRunLeavesNothing(t *testing.T) {
	bubble(t, func(t *testing.T) {
		conn := gombu.New(newFake(), nil)
		must(t, conn.Close())
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		mine := counted{ctx, new(atomic.Int32)}
		for range 100 {
			if err := conn.Run(mine, gombu.ConsumerConfig{Queues: []string{"q"}}, func(context.Context, *gombu.Delivery) error { return nil }); !errors.Is(err, gombu.ErrClosed) {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if n := mine.n.Load(); n != 0 {
			t.Errorf("%d contexts hang on Run's", n)
		}
	})
}

// A publish channel that is refused for good fails who publishes, with the reason.
func TestPublishChannelRefused(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		f.sender = func() error {
			return &driver.Error{Op: "publish", Kind: driver.ErrUnsupported, Err: errors.New("no confirms here")}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "q"})
		if !errors.Is(err, gombu.ErrUnsupported) || !errors.Is(err, gombu.ErrNotSent) || ctx.Err() != nil {
			t.Error(err)
		}
		f.set(func() { f.sender = nil })
		send(t, conn, &gombu.Message{Queue: "q"})
	})
}

// A settle that fails while the session stands is repeated: else the broker
// holds the message, and its place in the prefetch, until the session ends.
func TestSettleIsRepeated(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		for range 6 {
			send(t, conn, &gombu.Message{Queue: "q"})
		}
		busy := true
		f.settle = func() error {
			if busy {
				return &driver.Error{Op: "settle", Kind: driver.ErrUncertain, Err: errors.New("busy")}
			}
			return nil
		}
		byHand := make(chan error, 6)
		_, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 2, Workers: 2}, func(ctx context.Context, d *gombu.Delivery) error {
			byHand <- d.Ack(ctx)
			return nil
		})
		time.Sleep(10 * time.Second)
		f.set(func() { busy = false })
		time.Sleep(10 * time.Second)
		must(t, stop())
		if f.acked != 6 || len(byHand) != 6 {
			t.Errorf("%d acked, %d settled by hand, want 6", f.acked, len(byHand))
		}
	})
}

package gombu_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
)

// open makes a Conn to f, closed with the test.
func open(t *testing.T, f *fake, cfg *gombu.Config) *gombu.Conn {
	t.Helper()
	conn := gombu.New(f, cfg)
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return conn
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// bubble runs test in a synctest bubble.
func bubble(t *testing.T, test func(t *testing.T)) { t.Helper(); synctest.Test(t, test) }

// within fails when f takes longer, in the bubble's exact time.
func within(t *testing.T, d time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > d {
		t.Fatalf("took %v, want at most %v", took, d)
	}
}

// consumeAll runs a consumer until n messages were handled.
func consumeAll(t *testing.T, conn *gombu.Conn, cfg gombu.ConsumerConfig, n int, h gombu.Handler) {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var seen atomic.Int64
	must(t, conn.Run(ctx, cfg, func(ctx context.Context, d *gombu.Delivery) error {
		if seen.Add(1) >= int64(n) {
			defer stop()
		}
		return h(ctx, d)
	}))
}

func TestPublishConsume(t *testing.T) {
	for _, split := range []bool{false, true} {
		t.Run(fmt.Sprintf("split=%v", split), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake()
				f.split = split
				conn := open(t, f, nil)
				must(t, declare(t.Context(), conn, "q"))
				p := conn.Producer(nil)
				var wg sync.WaitGroup
				for i := range 20 {
					wg.Go(func() {
						for j := range 10 {
							if err := p.Publish(t.Context(), &gombu.Message{Queue: "q", Value: i*100 + j}); err != nil {
								t.Error(err)
							}
						}
					})
				}
				wg.Wait()
				var mu sync.Mutex
				got := map[int]int{}
				consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, Workers: 4}, 200, gombu.Typed(func(_ context.Context, v int, _ *gombu.Delivery) error {
					mu.Lock()
					defer mu.Unlock()
					got[v]++
					return nil
				}))
				if len(got) != 200 || f.acked != 200 {
					t.Fatalf("handled %d different messages, acked %d, want 200", len(got), f.acked)
				}
			})
		})
	}
}

// An open Conn that was never used has no goroutine and dials nothing.
func TestBehaviour21_87_NothingBeforeFirstUse(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := gombu.New(f, nil)
		conn.Producer(&gombu.ProducerConfig{Exchange: "media"})
		conn.Consumer(gombu.ConsumerConfig{Queues: []string{"q"}})
		synctest.Wait()
		if f.dials != 0 {
			t.Fatalf("%d dials before first use", f.dials)
		}
		must(t, conn.Close())
		must(t, conn.Close()) // behaviour 27: harmless
		if err := conn.Ready(t.Context()); !errors.Is(err, gombu.ErrClosed) {
			t.Fatalf("Ready after Close: %v", err)
		}
		if err := conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"}); !errors.Is(err, gombu.ErrClosed) {
			t.Fatalf("Publish after Close: %v", err)
		}
	})
}

func TestBehaviour22_24_OneSessionIsSharedAndComesBack(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, conn.Ready(t.Context()))
		must(t, conn.Ready(t.Context()))
		if f.dials != 1 {
			t.Fatalf("%d dials, want 1", f.dials)
		}
		f.cut()
		synctest.Wait()
		must(t, conn.Ready(t.Context()))
		if f.dials != 2 {
			t.Fatalf("%d dials after a cut, want 2", f.dials)
		}
	})
}

func TestReadyEndsWithItsContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		refused := errors.New("connection refused")
		f.dial = func(int) error { return &driver.Error{Op: "connect", Kind: driver.ErrUnavailable, Err: refused} }
		conn := open(t, f, nil)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		within(t, 3*time.Second, func() {
			err := conn.Ready(ctx)
			for _, want := range []error{gombu.ErrUnavailable, context.DeadlineExceeded, refused} {
				if !errors.Is(err, want) {
					t.Errorf("%v is not %v", err, want)
				}
			}
			if gombu.Retryable(err) != true {
				t.Errorf("%v should be retryable", err)
			}
		})
		if f.dials < 4 {
			t.Errorf("only %d dials in 3 s", f.dials)
		}
	})
}

func TestFirstConnectRefusedForGood(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		var denied atomic.Bool
		denied.Store(true)
		f.dial = func(int) error {
			if denied.Load() {
				return &driver.Error{Op: "connect", Kind: driver.ErrDenied}
			}
			return nil
		}
		conn := open(t, f, nil)
		within(t, 10*time.Millisecond, func() {
			if err := conn.Ready(t.Context()); !errors.Is(err, gombu.ErrDenied) {
				t.Fatalf("got %v", err)
			}
			if err := conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"}); !errors.Is(err, gombu.ErrDenied) || !errors.Is(err, gombu.ErrNotSent) {
				t.Fatalf("got %v", err)
			}
			if err := conn.Run(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}}, func(context.Context, *gombu.Delivery) error { return nil }); !errors.Is(err, gombu.ErrDenied) {
				t.Fatalf("got %v", err)
			}
		})
		denied.Store(false)
		must(t, conn.Ready(t.Context())) // the next use tries anew
		denied.Store(true)
		f.cut()
		time.Sleep(5 * time.Second) // a later refusal is only an outage
		denied.Store(false)
		must(t, conn.Ready(t.Context()))
	})
}

func TestPublishWaitsThroughAnOutage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		var down atomic.Bool
		down.Store(true)
		f.set(func() {
			f.dial = func(int) error {
				if down.Load() {
					return &driver.Error{Kind: driver.ErrUnavailable}
				}
				return nil
			}
		})
		f.cut()
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		within(t, time.Second, func() {
			err := conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "q", Value: "lost?"})
			for _, want := range []error{gombu.ErrUnavailable, gombu.ErrNotSent, context.DeadlineExceeded} {
				if !errors.Is(err, want) {
					t.Errorf("%v is not %v", err, want)
				}
			}
		})
		time.AfterFunc(3*time.Second, func() { down.Store(false) })
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: "kept"}))
		if n := f.count("q"); n != 1 {
			t.Fatalf("%d messages in the queue, want 1: the withdrawn one must not be sent later", n)
		}
	})
}

// A thousand callers with a deadline during an outage all return in time, and
// leave nothing behind.
func TestManyCallersLeaveTheLine(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.dial = func(int) error { return &driver.Error{Kind: driver.ErrUnavailable} }
		conn := open(t, f, &gombu.Config{MaxPending: 100})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		var bad atomic.Int64
		start := time.Now()
		for range 1000 {
			wg.Go(func() {
				if err := conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "q"}); !errors.Is(err, gombu.ErrNotSent) {
					bad.Add(1)
				}
			})
		}
		wg.Wait()
		if took := time.Since(start); took > time.Second || bad.Load() != 0 {
			t.Fatalf("took %v, %d wrong errors", took, bad.Load())
		}
	})
}

func TestBehaviour96_UncertainIsSaid(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		f.set(func() { f.swallow = true })
		time.AfterFunc(time.Second, func() { f.set(func() { f.swallow = false }); f.cut() })
		err := conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"})
		if !errors.Is(err, gombu.ErrUncertain) || gombu.Retryable(err) {
			t.Fatalf("got %v", err)
		}
		f.set(func() { f.swallow = true })
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		err = conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "q"})
		if !errors.Is(err, gombu.ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("got %v", err)
		}
		f.set(func() { f.swallow = false })
		f.cut()
	})
}

// A channel that dies under a message, while its session lives on, leaves
// nobody waiting: what was surely not sent is sent again.
func TestLostChannelOfALivingSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		lost := map[string]bool{}
		f.refuse = func(o *driver.Outgoing) error {
			switch body := string(o.Body); {
			case body == "bad":
				return &driver.Error{Op: "publish", Kind: driver.ErrNotFound}
			case !lost[body]:
				lost[body] = true
				return &driver.Error{Op: "publish", Kind: driver.ErrNotSent}
			}
			return nil
		}
		var pend []*gombu.Pending
		for _, v := range []string{"a", "bad", "b", "c"} {
			w, err := conn.Producer(nil).PublishAsync(t.Context(), &gombu.Message{Queue: "q", Value: v})
			must(t, err)
			pend = append(pend, w)
		}
		within(t, time.Second, func() {
			for i, w := range pend {
				if err := w.Wait(t.Context()); (i == 1) != errors.Is(err, gombu.ErrNotFound) || i != 1 && err != nil {
					t.Errorf("message %d: %v", i, err)
				}
			}
		})
		if n := f.count("q"); n != 3 {
			t.Errorf("%d in the queue", n)
		}
	})
}

func TestResendRepeatsInOrderWithTheSameID(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		p := conn.Producer(&gombu.ProducerConfig{Resend: true})
		f.set(func() { f.swallow = true })
		var pend []*gombu.Pending
		for i := range 10 {
			w, err := p.PublishAsync(t.Context(), &gombu.Message{Queue: "q", Value: i})
			must(t, err)
			pend = append(pend, w)
		}
		synctest.Wait()
		f.set(func() { f.swallow = false })
		f.cut()
		for _, w := range pend {
			must(t, w.Wait(t.Context()))
		}
		must(t, p.Flush(t.Context()))
		var got []int
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, 10, func(_ context.Context, d *gombu.Delivery) error {
			v, err := gombu.Decode[int](d)
			if d.MessageID == "" {
				t.Error("no message id")
			}
			got = append(got, v)
			return err
		})
		for i, v := range got {
			if i != v {
				t.Fatalf("order %v", got)
			}
		}
	})
}

func TestBlockedBroker(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.split = true
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		p := conn.Producer(nil)
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q"}))
		f.event(driver.Event{Kind: driver.Blocked, Detail: "memory"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		within(t, time.Second, func() {
			err := p.Publish(ctx, &gombu.Message{Queue: "q"})
			if !errors.Is(err, gombu.ErrBlocked) || !errors.Is(err, gombu.ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatalf("got %v", err)
			}
		})
		time.AfterFunc(time.Second, func() { f.event(driver.Event{Kind: driver.Unblocked}) })
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q"}))
		if f.count("q") != 2 {
			t.Fatalf("%d messages", f.count("q"))
		}
	})
}

func TestConsumerSurvivesLostSessions(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		ctx, stop := context.WithCancel(t.Context())
		var seen sync.Map
		var n atomic.Int64
		over := make(chan error, 1)
		k := conn.Consumer(gombu.ConsumerConfig{Queues: []string{"q"}, Workers: 2})
		go func() {
			over <- k.Run(ctx, func(_ context.Context, d *gombu.Delivery) error {
				v, err := gombu.Decode[int](d)
				if _, dup := seen.LoadOrStore(v, true); !dup {
					n.Add(1)
				}
				return err
			})
		}()
		p := conn.Producer(&gombu.ProducerConfig{Resend: true})
		for i := range 20 {
			must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q", Value: i}))
			if i%5 == 4 {
				f.cut()
			}
		}
		must(t, k.Ready(t.Context()))
		time.Sleep(time.Second)
		if n.Load() != 20 {
			t.Fatalf("handled %d of 20", n.Load())
		}
		stop()
		must(t, <-over)
	})
}

// The next message is handled at once after a session is lost, although a
// handler of the old one runs on for an hour; that one's context ends, and its
// settlement says why.
func TestLongHandlerDoesNotStopTheConsumer(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		p := conn.Producer(nil)
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q", Value: "long"}))
		ctx, stop := context.WithCancel(t.Context())
		defer stop()
		lost := make(chan error, 1)
		var again atomic.Int64
		over := make(chan error, 1)
		k := conn.Consumer(gombu.ConsumerConfig{Queues: []string{"q"}, Workers: 2})
		go func() {
			over <- k.Run(ctx, func(ctx context.Context, d *gombu.Delivery) error {
				if d.Redelivered {
					again.Add(1)
					return nil
				}
				<-ctx.Done()
				lost <- errors.Join(context.Cause(ctx), d.Ack(context.WithoutCancel(ctx)))
				return nil
			})
		}()
		must(t, k.Ready(t.Context()))
		time.Sleep(time.Second)
		f.cut()
		within(t, time.Second, func() {
			if err := <-lost; !errors.Is(err, gombu.ErrLeaseLost) {
				t.Errorf("cause %v", err)
			}
		})
		time.Sleep(time.Second)
		if again.Load() != 1 {
			t.Fatalf("redelivered %d times", again.Load())
		}
		stop()
		must(t, <-over)
	})
}

func TestHandlerErrors(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: "x"}))
		start := time.Now()
		var starts []time.Duration
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, MaxAttempts: -1}, 6, func(context.Context, *gombu.Delivery) error {
			starts = append(starts, time.Since(start).Round(100*time.Millisecond))
			switch len(starts) {
			case 2:
				panic("bad day")
			case 5:
				return gombu.Retry(10*time.Second, errors.New("later"))
			case 6:
				return gombu.Drop(nil)
			}
			return errors.New("not yet")
		})
		want := []time.Duration{0, 1 * time.Second, 3 * time.Second, 7 * time.Second, 15 * time.Second, 25 * time.Second}
		for i := range want {
			if i >= len(starts) || starts[i] != want[i] {
				t.Fatalf("starts at %v, want %v", starts, want)
			}
		}
		if f.count("q") != 0 || f.acked != 1 {
			t.Fatalf("%d left, %d acked", f.count("q"), f.acked)
		}
	})
}

func TestStopGivesBackWhatHasNotBegun(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		p := conn.Producer(nil)
		for i := range 10 {
			must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q", Value: i}))
		}
		ctx, stop := context.WithCancel(t.Context())
		must(t, conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 8}, func(ctx context.Context, d *gombu.Delivery) error {
			stop()
			err := wait(ctx, 3*time.Second) // within the grace
			if n := f.count("q"); n != 9 {
				t.Errorf("while a handler finishes %d of 9 are back", n)
			}
			return err
		}))
		if f.acked != 1 || f.count("q") != 9 {
			t.Fatalf("acked %d, left %d; want 1 and 9", f.acked, f.count("q"))
		}
		var order []int
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, 9, func(_ context.Context, d *gombu.Delivery) error {
			v, err := gombu.Decode[int](d)
			order = append(order, v)
			return err
		})
		for i, v := range order {
			if v != i+1 {
				t.Fatalf("order %v", order)
			}
		}
	})
}

func TestShutdownAbandonsWhoIgnoresTheContext(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := gombu.New(f, nil)
		must(t, declare(t.Context(), conn, "q"))
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"}))
		free := make(chan struct{})
		started := make(chan struct{})
		over := make(chan error, 1)
		go func() {
			over <- conn.Run(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}, Grace: time.Second}, func(context.Context, *gombu.Delivery) error {
				close(started)
				<-free
				return nil
			})
		}()
		<-started
		within(t, 2*time.Second, func() {
			if err := conn.Close(); !errors.Is(err, gombu.ErrAbandoned) {
				t.Fatalf("got %v", err)
			}
		})
		if err := <-over; !errors.Is(err, gombu.ErrAbandoned) {
			t.Fatalf("Run: %v", err)
		}
		if f.count("q") != 1 {
			t.Fatal("the claim was not given back")
		}
		close(free)
	})
}

// A handler that closes the connection it runs on waits for itself, and only
// until the grace is over.
func TestCloseInsideAHandlerEnds(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := gombu.New(f, &gombu.Config{Grace: time.Second})
		must(t, declare(t.Context(), conn, "q"))
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"}))
		closed := make(chan error, 1)
		within(t, 3*time.Second, func() {
			_ = conn.Run(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}}, func(context.Context, *gombu.Delivery) error {
				closed <- conn.Close()
				return nil
			})
			if err := <-closed; !errors.Is(err, gombu.ErrAbandoned) {
				t.Errorf("got %v", err)
			}
		})
		if f.count("q") != 1 {
			t.Error("the message was not given back")
		}
	})
}

func TestBehaviour119_120_SettleOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		for range 3 {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"}))
		}
		verbs := []func(*gombu.Delivery, context.Context) error{(*gombu.Delivery).Ack, (*gombu.Delivery).Reject, (*gombu.Delivery).Ack}
		i := 0
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, 3, func(ctx context.Context, d *gombu.Delivery) error {
			must(t, verbs[i](d, ctx))
			i++
			for _, verb := range []func(*gombu.Delivery, context.Context) error{(*gombu.Delivery).Ack, (*gombu.Delivery).Reject, (*gombu.Delivery).Requeue} {
				if err := verb(d, ctx); !errors.Is(err, gombu.ErrSettled) {
					t.Errorf("second settlement: %v", err)
				}
			}
			return nil
		})
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"}))
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, NoAck: true}, 1, func(ctx context.Context, d *gombu.Delivery) error {
			must(t, d.Ack(ctx))
			must(t, d.Ack(ctx)) // nothing to do, state unchanged
			if d.Settled() {
				t.Error("settled without acks")
			}
			return nil
		})
	})
}

func TestIterator(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		for i := range 5 {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: i}))
		}
		var log []string
		for d, err := range conn.Deliveries(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}}) {
			if err != nil {
				if !errors.Is(err, gombu.ErrInvalid) {
					t.Fatal(err)
				}
				log = append(log, "error")
				continue
			}
			v, _ := gombu.Decode[int](d)
			log = append(log, fmt.Sprint(v))
			if v == 1 && !d.Redelivered {
				continue // forgotten
			}
			must(t, d.Ack(t.Context()))
			if d.Redelivered {
				break
			}
		}
		if len(log) != 7 || f.count("q") != 0 || f.acked != 5 {
			t.Fatalf("%v, %d left, %d acked", log, f.count("q"), f.acked)
		}
	})
}

// Leaving the loop gives the rest back in its order, what the engine had
// already handed over included.
func TestIteratorGivesBackInOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		for i := range 6 {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: i}))
		}
		for d, err := range conn.Deliveries(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}}) {
			must(t, err)
			must(t, d.Ack(t.Context()))
			time.Sleep(time.Second) // the next one is on its way to us
			break
		}
		var order []int
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, 5, gombu.Typed(func(_ context.Context, v int, _ *gombu.Delivery) error {
			order = append(order, v)
			return nil
		}))
		if fmt.Sprint(order) != "[1 2 3 4 5]" {
			t.Errorf("order %v", order)
		}
	})
}

// A handler that stops its own consumer is the last to begin; the rest goes
// back in order.
func TestStopInsideAHandlerKeepsOrder(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		for i := range 50 {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: i}))
		}
		next := 0
		for next < 50 {
			ctx, stop := context.WithCancel(t.Context())
			started := 0
			must(t, conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 10}, gombu.Typed(func(_ context.Context, v int, _ *gombu.Delivery) error {
				started++
				if v != next {
					t.Errorf("got %d, want %d", v, next)
				}
				next++
				stop()
				return nil
			})))
			if started != 1 {
				t.Fatalf("%d began after the stop", started-1)
			}
		}
	})
}

func TestAddCancelPause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "a", "b"))
		var mu sync.Mutex
		got := map[string]int{}
		count := func(q string) int { mu.Lock(); defer mu.Unlock(); return got[q] }
		k := conn.Consumer(gombu.ConsumerConfig{Queues: []string{"a"}})
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() {
			over <- k.Run(ctx, func(_ context.Context, d *gombu.Delivery) error {
				mu.Lock()
				defer mu.Unlock()
				got[d.Queue]++
				return nil
			})
		}()
		must(t, k.Ready(t.Context()))
		if err := k.Run(ctx, func(context.Context, *gombu.Delivery) error { return nil }); !errors.Is(err, gombu.ErrInvalid) {
			t.Fatalf("second Run: %v", err)
		}
		if err := k.Add(t.Context(), "missing"); !errors.Is(err, gombu.ErrNotFound) {
			t.Fatalf("Add of a missing queue: %v", err)
		}
		must(t, k.Add(t.Context(), "b"))
		must(t, k.Ready(t.Context()))
		send := func(q string) {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q}))
			time.Sleep(time.Second)
		}
		send("a")
		send("b")
		if count("a") != 1 || count("b") != 1 {
			t.Fatalf("got %v", got)
		}
		must(t, k.SetPrefetch(t.Context(), "a", 0))
		send("a")
		if count("a") != 1 {
			t.Fatal("delivered while paused")
		}
		must(t, k.SetPrefetch(t.Context(), "", 5))
		time.Sleep(time.Second)
		if count("a") != 2 {
			t.Fatal("not delivered after the pause")
		}
		must(t, k.Cancel(t.Context(), "b"))
		must(t, k.Cancel(t.Context(), "b")) // behaviour 109
		send("b")
		if count("b") != 1 || f.count("b") != 1 {
			t.Fatal("delivered after Cancel")
		}
		stop()
		must(t, <-over)
	})
}

func TestBehaviour115_UndecodableIsParked(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		p := conn.Producer(nil)
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q", Body: []byte("{nonsense"), Properties: gombu.Properties{ContentType: "application/json"}}))
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q", Body: []byte("pickled"), Properties: gombu.Properties{ContentType: "application/x-python-serialize"}}))
		f.set(func() {
			f.push(driver.Incoming{Queue: "q", Raw: []byte("no envelope"), DecodeErr: &driver.Error{Op: "decode", Kind: driver.ErrUndecodable}}, false)
		})
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q", Value: "good"}))
		var good []string
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, Accept: []string{"json", "text"}}, 2, gombu.Typed(func(_ context.Context, v string, _ *gombu.Delivery) error {
			good = append(good, v)
			return nil
		}))
		if len(good) != 1 || f.count("gombu.dead.q") != 3 || f.count("q") != 0 {
			t.Fatalf("good %v, parked %d, left %d", good, f.count("gombu.dead.q"), f.count("q"))
		}
		// A parked message is delivered as it is, and never parked again.
		var bodies []string
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"gombu.dead.q"}}, 3, func(_ context.Context, d *gombu.Delivery) error {
			bodies = append(bodies, string(d.Body))
			if d.Headers.Get("x-death") == nil {
				t.Error("no x-death header")
			}
			return nil
		})
		if fmt.Sprint(bodies) != "[{nonsense pickled no envelope]" {
			t.Fatalf("parked %q", bodies)
		}
	})
}

func TestBehaviour114_UndecodableHook(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Body: []byte("{"), Properties: gombu.Properties{ContentType: "application/json"}}))
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: 1}))
		var hooked error
		handled := 0
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, OnUndecodable: func(ctx context.Context, d *gombu.Delivery, err error) error {
			hooked = err
			return d.Reject(ctx)
		}}, 2, gombu.Typed(func(context.Context, int, *gombu.Delivery) error { handled++; return nil }))
		if !errors.Is(hooked, gombu.ErrUndecodable) || f.acked != 2 || handled != 1 {
			t.Fatalf("hook %v, settled %d, handled %d", hooked, f.acked, handled)
		}
	})
}

func TestTopologyIsPutBackEntityByEntity(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, conn.Declare(t.Context(), gombu.Topology{
			Exchanges: []gombu.Exchange{{Name: "e"}},
			Queues:    []gombu.Queue{{Name: "a"}, {Name: "b"}},
			Bindings:  []gombu.Binding{{Exchange: "e", Queue: "a", Key: "k"}},
		}))
		bad := true
		f.set(func() {
			f.declared = nil
			f.apply = func(st *driver.Step) error {
				if bad && st.Queue != nil && st.Queue.Name == "a" {
					return &driver.Error{Entity: "a", Kind: driver.ErrConflict}
				}
				return nil
			}
		})
		f.cut()
		synctest.Wait()
		must(t, conn.Ready(t.Context()))
		if got := fmt.Sprint(f.declared); got != "[exchange e queue b binding e>a]" {
			t.Fatalf("put back %s", got)
		}
		f.set(func() { bad = false })
		time.Sleep(time.Minute) // the failing one is tried again
		f.mu.Lock()
		got := fmt.Sprint(f.declared)
		f.mu.Unlock()
		if got != "[exchange e queue b binding e>a queue a]" {
			t.Fatalf("put back %s", got)
		}
		must(t, conn.Delete(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: "a"}}}, nil))
		f.set(func() { f.declared = nil })
		f.cut()
		synctest.Wait()
		must(t, conn.Ready(t.Context()))
		if got := fmt.Sprint(f.declared); got != "[exchange e queue b]" {
			t.Fatalf("a deleted queue came back: %s", got)
		}
	})
}

func TestBehaviour95_PerSessionQueueHasAStableHandle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.split = true
		conn := open(t, f, nil)
		must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: "reply", PerSession: true, Exclusive: true}}}))
		first := conn.BrokerName("reply")
		p := conn.Producer(nil)
		var from []string
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan error, 1)
		k := conn.Consumer(gombu.ConsumerConfig{Queues: []string{"reply"}})
		go func() {
			over <- k.Run(ctx, func(_ context.Context, d *gombu.Delivery) error {
				from = append(from, d.Queue+"<"+d.ReplyTo)
				return nil
			})
		}()
		must(t, k.Ready(t.Context()))
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: "reply", Properties: gombu.Properties{ReplyTo: "reply"}}))
		f.cut()
		synctest.Wait()
		must(t, k.Ready(t.Context()))
		second := conn.BrokerName("reply")
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: "reply", Properties: gombu.Properties{ReplyTo: "reply"}}))
		time.Sleep(time.Second)
		stop()
		must(t, <-over)
		if first == second || first == "reply" {
			t.Fatalf("names %q and %q", first, second)
		}
		if got, want := fmt.Sprint(from), fmt.Sprintf("[reply<%s reply<%s]", first, second); got != want {
			t.Fatalf("got %s, want %s", got, want)
		}
	})
}

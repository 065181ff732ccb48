package gombu_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gombu/gombu"
)

// Acks that follow one another are written together, none of them later than a
// millisecond after its handler; the first after a pause is written at once.
func TestAcksAreGathered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.latency = 0
		var settles atomic.Int32
		f.settle = func() error { settles.Add(1); return nil }
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		p := conn.Producer(nil)
		publish := func(n int) {
			for range n {
				must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q"}))
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() {
			over <- conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 100}, func(context.Context, *gombu.Delivery) error {
				time.Sleep(100 * time.Microsecond)
				return nil
			})
		}()
		time.Sleep(time.Second)
		publish(1)
		time.Sleep(100 * time.Microsecond)
		synctest.Wait()
		if settles.Load() != 1 || f.acks() != 1 {
			t.Fatalf("the first was not settled at once: %d settles, %d acks", settles.Load(), f.acks())
		}
		time.Sleep(time.Second)
		publish(50)
		time.Sleep(50*100*time.Microsecond + time.Millisecond)
		synctest.Wait()
		if n := settles.Load() - 1; f.acks() != 51 || n > 10 {
			t.Fatalf("%d acks in %d settles", f.acks()-1, n)
		}
		publish(3)
		time.Sleep(250 * time.Microsecond)
		stop() // what waits is written before Run returns
		must(t, <-over)
		if f.acks()+f.count("q") != 54 {
			t.Fatalf("%d acks, %d left", f.acks(), f.count("q"))
		}
	})
}

// What need not wait is settled by who has it to settle; the acks of several
// queues that follow one another go at the same moment, within a millisecond; and
// what cannot be settled at once is by Settle.
func TestAcksOfManyQueuesAreGathered(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.latency, f.settles = 0, true
		var waited, tried atomic.Int32
		moments := map[time.Time]int{} // guarded by f.mu
		busy := false
		f.settle = func() error { waited.Add(1); return nil }
		f.trySettle = func(n int) bool {
			if busy {
				return false
			}
			tried.Add(1)
			moments[time.Now()] += n
			return true
		}
		conn := open(t, f, nil)
		queues := []string{"a", "b", "c", "d", "e"}
		must(t, declare(t.Context(), conn, queues...))
		p := conn.Producer(nil)
		publish := func(queues ...string) {
			for _, q := range queues {
				must(t, p.Publish(t.Context(), &gombu.Message{Queue: q}))
			}
		}
		ctx, stop := context.WithCancel(t.Context())
		over := make(chan error, 1)
		go func() {
			over <- conn.Run(ctx, gombu.ConsumerConfig{Queues: queues, Prefetch: 100}, func(ctx context.Context, d *gombu.Delivery) error {
				time.Sleep(100 * time.Microsecond)
				if d.Queue == "e" {
					return d.Ack(ctx) // who waits is not kept waiting
				}
				return nil
			})
		}()
		time.Sleep(time.Second)
		publish("a", "b", "c", "d", "a") // the first goes at once, the rest together
		time.Sleep(500*time.Microsecond + time.Millisecond)
		synctest.Wait()
		f.set(func() {
			if f.acked != 5 || waited.Load() != 0 || tried.Load() != 5 || len(moments) != 2 {
				t.Errorf("%d acks at %d moments, %d tried, %d waited for", f.acked, len(moments), tried.Load(), waited.Load())
			}
			busy = true
		})
		publish("a", "b", "e")
		time.Sleep(300*time.Microsecond + time.Millisecond)
		synctest.Wait()
		if f.acks() != 8 || waited.Load() != 3 {
			t.Errorf("%d acks, %d waited for", f.acks(), waited.Load())
		}
		f.set(func() { busy = false })
		publish("e")
		time.Sleep(100 * time.Microsecond)
		synctest.Wait()
		if f.acks() != 9 {
			t.Error("an ack that was waited for was kept waiting")
		}
		publish("a", "b", "c")
		time.Sleep(350 * time.Microsecond)
		stop() // what waits is written before Run returns
		must(t, <-over)
		if f.acks() != 12 {
			t.Errorf("%d acks in all", f.acks())
		}
	})
}

// A batch is one piece for the driver, whatever its first messages could do
// alone, and each message has its own outcome.
func TestABatchGoesTogether(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.tries = true
		conn := open(t, f, &gombu.Config{MaxPending: 64})
		must(t, declare(t.Context(), conn, "q"))
		p := conn.Producer(nil)
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q"}))
		ms := make([]*gombu.Message, 150) // more than may be unanswered
		for i := range ms {
			ms[i] = &gombu.Message{Queue: "q"}
		}
		ms[3] = &gombu.Message{Queue: "nowhere"}
		ms[5] = &gombu.Message{Queue: "q", Value: func() {}}
		errs := make([]error, len(ms))
		if err := p.PublishBatch(t.Context(), ms, errs); err == nil {
			t.Fatal("no error")
		}
		for i, err := range errs {
			var want error
			switch i {
			case 3:
				want = gombu.ErrUnroutable
			case 5:
				want = gombu.ErrInvalid
			}
			if want == nil && err != nil || !errors.Is(err, want) {
				t.Errorf("message %d: %v", i, err)
			}
		}
		if n := f.count("q"); n != 149 {
			t.Errorf("%d messages in the queue", n)
		}
		if f.tried < 64 {
			t.Errorf("%d messages were submitted by who published them", f.tried)
		}
	})
}

// Values that panic as they are encoded cost no place and hold nobody up.
func TestABatchThatPanics(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.tries = true
		conn := open(t, f, &gombu.Config{MaxPending: 4})
		must(t, declare(t.Context(), conn, "q"))
		p := conn.Producer(nil)
		for range 5 {
			func() {
				defer func() {
					if recover() == nil {
						t.Error("no panic")
					}
				}()
				_ = p.PublishBatch(t.Context(), []*gombu.Message{{Queue: "q"}, {Queue: "q", Value: panics{}}}, nil)
			}()
		}
		must(t, p.Flush(t.Context()))
		must(t, p.PublishBatch(t.Context(), []*gombu.Message{{Queue: "q"}, {Queue: "q"}}, nil))
		if n := f.count("q"); n != 7 {
			t.Errorf("%d messages in the queue", n)
		}
	})
}

type panics struct{}

func (panics) MarshalJSON() ([]byte, error) { panic("no") }

package gombu_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
)

// A declaration that the broker does not answer holds up those behind it no
// longer than its own time, and its own users until it is answered.
func TestHungDeclarationHoldsUpNoOther(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "hung", "q"))
		got := make(chan string, 10)
		_, stop := running(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, func(_ context.Context, d *gombu.Delivery) error {
			got <- string(d.Body)
			return nil
		})
		f.set(func() { f.hung, f.declared = "hung", nil })
		f.cut()
		began := time.Now()
		send(t, conn, &gombu.Message{Queue: "q", Body: []byte("beside it")})
		if <-got; time.Since(began) > 6*time.Second {
			t.Errorf("the consumer of another queue was silent for %v", time.Since(began))
		}
		time.Sleep(15 * time.Second)
		f.set(func() {
			if fmt.Sprint(f.declared) != "[queue q]" {
				t.Errorf("declared again: %v", f.declared)
			}
			f.hung = ""
		})
		time.Sleep(time.Minute)
		f.set(func() {
			if fmt.Sprint(f.declared) != "[queue q queue hung]" {
				t.Errorf("declared in the end: %v", f.declared)
			}
		})
		must(t, stop())
	})
}

// Open, consume, block, unblock, close, ten thousand times: a bubble does not
// end while a goroutine of it is left.
func TestTenThousandCycles(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.split = true
		f.set(func() { f.queues["q"] = nil })
		for i := range 10000 {
			cycle(t, f, i)
			f.set(func() { f.sessions, f.receivers = nil, nil })
		}
		f.set(func() {
			if f.closed != f.dials || f.dials != 20000 {
				t.Errorf("%d sessions of %d were closed", f.closed, f.dials)
			}
		})
	})
}

func cycle(t *testing.T, f *fake, i int) {
	conn := gombu.New(f, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	got, over := make(chan string, 2), make(chan error, 1)
	k := conn.Consumer(gombu.ConsumerConfig{Queues: []string{"q"}})
	go func() {
		over <- k.Run(ctx, func(_ context.Context, d *gombu.Delivery) error { got <- string(d.Body); return nil })
	}()
	must(t, k.Ready(ctx))
	p := conn.Producer(nil)
	must(t, p.Publish(ctx, &gombu.Message{Queue: "q", Body: []byte("1")}))
	f.event(driver.Event{Kind: driver.Blocked, Detail: "alarm"})
	soon, late := context.WithTimeout(ctx, time.Second)
	began := time.Now()
	err := p.Publish(soon, &gombu.Message{Queue: "q", Body: []byte("blocked")})
	late()
	if !errors.Is(err, gombu.ErrBlocked) || !errors.Is(err, gombu.ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != time.Second {
		t.Fatalf("cycle %d, blocked: after %v: %v", i, time.Since(began), err)
	}
	if i%2 == 0 { // the others are closed while they are blocked
		f.event(driver.Event{Kind: driver.Unblocked})
		must(t, p.Publish(ctx, &gombu.Message{Queue: "q", Body: []byte("2")}))
		if a, b := <-got, <-got; a+b != "12" {
			t.Fatalf("cycle %d: handled %s and %s", i, a, b)
		}
	} else {
		<-got
	}
	if i%3 == 0 {
		cancel()
		must(t, <-over)
		must(t, conn.Close())
		return
	}
	must(t, conn.Close())
	must(t, <-over)
}

// A hundred goroutines close a Conn on which a hundred others publish and
// consume: each call returns, with an outcome, and nothing is left.
func TestHundredClosersAtOnce(t *testing.T) {
	for round := range 30 {
		bubble(t, func(t *testing.T) {
			f := newFake()
			f.split = round%2 == 0
			f.set(func() { f.queues["q"] = nil })
			conn := gombu.New(f, &gombu.Config{Grace: time.Second})
			var users, closers sync.WaitGroup
			for i := range 100 {
				users.Go(func() {
					if i%4 == 0 {
						err := conn.Run(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}, Workers: 2}, func(context.Context, *gombu.Delivery) error { return nil })
						if err != nil && !errors.Is(err, gombu.ErrClosed) {
							t.Error("run:", err)
						}
						return
					}
					p := conn.Producer(&gombu.ProducerConfig{Resend: i%2 == 0})
					var err error
					for err == nil {
						err = p.Publish(t.Context(), &gombu.Message{Queue: "q", Body: []byte("x")})
					}
					if !errors.Is(err, gombu.ErrClosed) && !errors.Is(err, gombu.ErrUncertain) && !errors.Is(err, gombu.ErrNotSent) {
						t.Error("publish:", err)
					}
				})
			}
			time.Sleep(time.Duration(round) * time.Millisecond)
			if round%3 == 0 {
				f.cut()
			}
			for range 100 {
				closers.Go(func() {
					if err := conn.Close(); err != nil {
						t.Error("close:", err)
					}
				})
			}
			closers.Wait()
			users.Wait()
			synctest.Wait()
		})
	}
}

// Ten thousand callers at once, whatever holds them up: each returns at its
// deadline, to the nanosecond, and knows what is known.
func TestTenThousandDeadlines(t *testing.T) {
	for name, c := range map[string]struct {
		hold func(f *fake)
		kind []error
	}{
		"no session": {func(f *fake) { f.dial = func(int) error { return driver.ErrUnavailable }; f.cut() }, []error{gombu.ErrNotSent, gombu.ErrUnavailable}},
		"no answer":  {func(f *fake) { f.swallow = true }, []error{gombu.ErrUncertain}},
		"alarm":      {func(f *fake) { f.event(driver.Event{Kind: driver.Blocked}) }, []error{gombu.ErrNotSent, gombu.ErrBlocked}},
		"full buffer": {func(f *fake) {
			f.submit = func(s *fakeSender, _ []driver.Outgoing) (int, error) { <-s.c.done; return 0, driver.ErrNotSent }
		}, []error{gombu.ErrNotSent}},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFake()
				conn := gombu.New(f, &gombu.Config{Grace: time.Second})
				must(t, declare(t.Context(), conn, "q"))
				p := conn.Producer(nil)
				must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q"}))
				c.hold(f)
				synctest.Wait()
				var wg sync.WaitGroup
				for i := range 10000 {
					wg.Go(func() {
						d := time.Second + time.Duration(i)*time.Millisecond
						ctx, cancel := context.WithTimeout(t.Context(), d)
						defer cancel()
						began := time.Now()
						err := p.Publish(ctx, &gombu.Message{Queue: "q", Body: []byte("x")})
						known := errors.Is(err, gombu.ErrNotSent) || errors.Is(err, gombu.ErrUncertain)
						for _, k := range c.kind {
							known = known && (errors.Is(err, k) || name == "full buffer" || name == "no answer")
						}
						if time.Since(began) != d || !errors.Is(err, context.DeadlineExceeded) || !known {
							t.Errorf("%d: after %v: %v", i, time.Since(began), err)
						}
					})
				}
				wg.Wait()
				began := time.Now()
				_ = conn.Close() // it says what it could not flush
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("close took %v", took)
				}
				time.Sleep(time.Second) // what Close had no time for ends
			})
		})
	}
}

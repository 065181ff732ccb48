package gombu_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
)

// withoutCounts opens a broker that counts no starts, with a queue q.
func withoutCounts(t *testing.T, cfg *gombu.Config) (*fake, *gombu.Conn) {
	t.Helper()
	f := newFake()
	f.pulls = true
	conn := open(t, f, cfg)
	must(t, declare(t.Context(), conn, "q"))
	return f, conn
}

// redelivered puts messages into q as a consumer that died leaves them.
func redelivered(f *fake, ids ...string) {
	f.set(func() {
		for _, id := range ids {
			f.push(driver.Incoming{Queue: "q", Key: "q", Redelivered: true, Props: driver.Properties{MessageID: id}, Body: []byte(id)}, false)
		}
	})
}

// A copy shows the handler what the original was.
func TestCopyLooksAsItsOriginal(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f, conn := withoutCounts(t, nil)
		original := driver.Incoming{Queue: "q", Exchange: "x", Key: "a.b", Body: []byte("body"), Props: driver.Properties{
			MessageID: "m", UserID: "guest", Expiration: time.Second, CorrelationID: "c", ReplyTo: "r", Type: "t", AppID: "app",
			Timestamp: time.Unix(1e9, 0), Priority: 3, DeliveryMode: driver.Transient,
			Headers: driver.Headers{{Key: "own", Value: "h"}, {Key: "CC", Value: []any{"other"}}},
		}}
		f.set(func() { f.push(original, false) })
		var copies []driver.Outgoing
		f.refuse = func(o *driver.Outgoing) error { copies = append(copies, *o); return nil }
		var seen []*gombu.Delivery
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, 3, func(_ context.Context, d *gombu.Delivery) error {
			if seen = append(seen, d); len(seen) < 3 {
				return errors.New("no")
			}
			return nil
		})
		for i, d := range seen {
			if d.Queue != "q" || d.Exchange != "x" || d.Key != "a.b" || string(d.Body) != "body" || d.Attempt != i+1 || d.Redelivered != (i > 0) ||
				!reflect.DeepEqual(d.Properties, original.Props) {
				t.Errorf("start %d: %v, attempt %d, redelivered %v, %+v", i+1, d, d.Attempt, d.Redelivered, d.Properties)
			}
		}
		if len(copies) < 2 {
			t.Fatalf("%d copies", len(copies))
		}
		for _, o := range copies { // what the broker would act upon
			if o.Props.UserID != "" || o.Props.Expiration != 0 || o.Props.Headers.Get("CC") != nil || o.NoMandatory {
				t.Errorf("published %+v", o)
			}
		}
	})
}

// A broker that takes no copies keeps its consumers: what came back is run with
// its attempts uncounted, and that is said once.
func TestRefusedCopies(t *testing.T) {
	for what, err := range map[string]error{"full": driver.ErrRefused, "denied": driver.ErrDenied, "alarm": nil, "unreadable": nil} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				var warned atomic.Int64
				f, conn := withoutCounts(t, &gombu.Config{OnEvent: func(e gombu.Event) {
					if e.Kind == driver.Warning && e.Entity == "q" && strings.Contains(e.Detail, "not counted") {
						warned.Add(1)
					}
				}})
				f.set(func() {
					f.refuse = func(o *driver.Outgoing) error {
						if err != nil && strings.HasPrefix(o.Key, "gombu.retry.") {
							return &driver.Error{Kind: err}
						}
						return nil
					}
				})
				must(t, declare(t.Context(), conn, "gombu.retry.q"))
				if what == "alarm" {
					f.event(driver.Event{Kind: driver.Blocked})
				}
				if what == "unreadable" {
					f.set(func() { f.pull = &driver.Error{Kind: driver.ErrDenied} })
				}
				n, last := map[string]int{}, 0
				_, stop := consuming(t, conn, gombu.ConsumerConfig{}, func(_ context.Context, d *gombu.Delivery) error {
					if n[d.MessageID]++; d.MessageID == "bad" {
						last = d.Attempt
						return errors.New("no")
					}
					return nil
				})
				pass(time.Second) // the retry queue was looked at
				redelivered(f, "a", "b", "bad")
				within(t, 2*time.Second, func() {
					for f.count("q") > 0 {
						pass(100 * time.Millisecond)
					}
				})
				pass(time.Minute)
				if what == "alarm" {
					f.event(driver.Event{Kind: driver.Unblocked})
					pass(2 * time.Minute)
				}
				stop()
				if n["a"] != 1 || n["b"] != 1 || last != 5 || f.count("gombu.dead.q") != 1 || warned.Load() != 1 {
					t.Errorf("starts %v, the last attempt %d, %d dead letters, %d warnings", n, last, f.count("gombu.dead.q"), warned.Load())
				}
			})
		})
	}
}

// While the broker does not answer, what came back waits under its claim, is
// never run uncounted, and is not lost.
func TestCopiesThatMustWait(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f, conn := withoutCounts(t, nil)
		f.set(func() { f.unsent = true })
		redelivered(f, "a", "b")
		var n atomic.Int64
		_, stop := consuming(t, conn, gombu.ConsumerConfig{}, func(_ context.Context, d *gombu.Delivery) error {
			if d.Attempt != 2 {
				t.Errorf("attempt %d", d.Attempt)
			}
			n.Add(1)
			return nil
		})
		pass(time.Minute)
		if n.Load() != 0 {
			t.Errorf("%d starts", n.Load())
		}
		f.set(func() { f.unsent = false })
		pass(2 * time.Minute)
		stop()
		if n.Load() != 2 || f.count("q")+f.count("gombu.retry.q") != 0 {
			t.Errorf("%d starts, %d left", n.Load(), f.count("q")+f.count("gombu.retry.q"))
		}
	})
}

// The retry queue is part of its queue: a pause and Cancel hold it too, and a
// stop gives back what it had.
func TestRetryQueueFollowsItsQueue(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f, conn := withoutCounts(t, nil)
		must(t, declare(t.Context(), conn, "gombu.retry.q", "other"))
		leave := func(id string) {
			f.set(func() {
				f.push(driver.Incoming{Queue: "gombu.retry.q", Props: driver.Properties{MessageID: id, Headers: driver.Headers{{Key: "x-gombu-try", Value: int64(3)}}}}, false)
			})
		}
		leave("left by another process")
		var mu sync.Mutex
		var seen []string
		k, stop := consuming(t, conn, gombu.ConsumerConfig{Queues: []string{"q", "other"}}, func(_ context.Context, d *gombu.Delivery) error {
			mu.Lock()
			defer mu.Unlock()
			seen = append(seen, fmt.Sprint(d.MessageID, " ", d.Queue, " ", d.Attempt))
			return nil
		})
		want := func(what ...string) {
			t.Helper()
			mu.Lock()
			defer mu.Unlock()
			if fmt.Sprintf("%q", seen) != fmt.Sprintf("%q", what) {
				t.Fatalf("handled %q, want %q", seen, what)
			}
			seen = nil
		}
		pass(time.Second)
		want("left by another process q 3")
		must(t, k.SetPrefetch(t.Context(), "q", 0))
		pass(time.Second)
		leave("paused")
		pass(time.Hour)
		want()
		must(t, k.SetPrefetch(t.Context(), "q", 10))
		pass(time.Second)
		want("paused q 3")
		pass(time.Hour)
		leave("idle")
		pass(15 * time.Second) // how often it is looked at, at least
		want("idle q 3")
		must(t, k.Cancel(t.Context(), "q"))
		leave("cancelled")
		pass(time.Hour)
		want()
		must(t, k.Add(t.Context(), "q"))
		pass(time.Second)
		want("cancelled q 3")
		f.cut()
		leave("after a lost session")
		pass(10 * time.Second)
		want("after a lost session q 3")
		stop()
		leave("stopped")
		pass(time.Hour)
		want()
		if f.count("gombu.retry.q") != 1 {
			t.Errorf("%d copies", f.count("gombu.retry.q"))
		}
	})
}

// A retry queue that another process makes is found within four minutes.
func TestRetryQueueOfAnotherProcess(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f, conn := withoutCounts(t, nil)
		done := make(chan struct{}, 1)
		consuming(t, conn, gombu.ConsumerConfig{}, func(context.Context, *gombu.Delivery) error { done <- struct{}{}; return nil })
		pass(24 * time.Hour)
		f.mu.Lock()
		opened := len(f.receivers)
		f.mu.Unlock()
		if opened < 24*15 || opened > 24*15+10 {
			t.Errorf("looked %d times in a day", opened)
		}
		f.set(func() { f.push(driver.Incoming{Queue: "gombu.retry.q"}, false) })
		within(t, 4*time.Minute+time.Second, func() { <-done })
	})
}

// Queues that end with their users, and dead letters, have no retry queue; nor
// has who does not ack.
func TestNoRetryQueue(t *testing.T) {
	for what, q := range map[string]gombu.Queue{
		"exclusive": {Exclusive: true}, "auto-delete": {AutoDelete: true}, "per session": {PerSession: true},
		"stream": {Args: gombu.Headers{{Key: "x-queue-type", Value: "stream"}}}, "NoAck": {}, "dead": {Name: "gombu.dead.q"},
	} {
		t.Run(what, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f, conn := withoutCounts(t, nil)
				if q.Name == "" {
					q.Name = "mine"
				}
				must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{q}}))
				must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q.Name, Value: "x"}))
				var attempts []int
				_, stop := consuming(t, conn, gombu.ConsumerConfig{Queues: []string{q.Name}, NoAck: what == "NoAck"}, func(_ context.Context, d *gombu.Delivery) error {
					attempts = append(attempts, d.Attempt)
					return errors.New("no")
				})
				pass(20 * time.Second)
				stop()
				want := map[string]string{"NoAck": "[1]"}[what]
				if want == "" {
					want = "[1 2 3 4 5]"
				}
				f.mu.Lock()
				defer f.mu.Unlock()
				if _, made := f.queues["gombu.retry."+q.Name]; made || fmt.Sprint(attempts) != want {
					t.Errorf("attempts %v, retry queue made: %v", attempts, made)
				}
				for _, r := range f.receivers {
					if r.pulls {
						t.Error("looked for a retry queue")
					}
				}
			})
		})
	}
}

// An iterator follows the same policy, also for what its loop requeues by hand.
func TestIteratorCountsTurns(t *testing.T) {
	counting(t, func(t *testing.T, conn *gombu.Conn) {
		if strings.HasSuffix(t.Name(), "/here") {
			return // nothing counts what is requeued by hand
		}
		publish(t, conn, "bad", "good", "last")
		var turns []string
		cfg := gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 2}
		for d, err := range conn.Deliveries(t.Context(), cfg) {
			must(t, err)
			turns = append(turns, fmt.Sprint(d.MessageID, d.Attempt))
			if d.MessageID == "bad" {
				must(t, d.Requeue(t.Context()))
			} else {
				must(t, d.Ack(t.Context()))
			}
			if d.MessageID == "last" && len(turns) > 2 {
				break
			}
		}
		ctx, stop := context.WithTimeout(t.Context(), time.Minute)
		defer stop()
		for d := range conn.Deliveries(ctx, cfg) {
			turns = append(turns, fmt.Sprint(d.MessageID, d.Attempt))
			must(t, d.Requeue(t.Context()))
		}
		slices.Sort(turns)
		if fmt.Sprint(turns) != "[bad1 bad2 bad3 bad4 bad5 good1 last1]" || ready(t, conn, "gombu.dead.q") != 1 {
			t.Errorf("turns %v, %d dead letters", turns, ready(t, conn, "gombu.dead.q"))
		}
	})
}

package gombu_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/transport/memory"
)

// A faulty broker is one in memory whose Begin and Move a test can fail.
type faulty struct {
	driver.Connector
	mu          sync.Mutex
	begin, move func() error // nil: none fails
	begun       []int
}

func newFaulty() *faulty { return &faulty{Connector: memory.New(memory.Config{})} }

func (f *faulty) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

func (f *faulty) Connect(ctx context.Context, env driver.Env) (driver.Conn, error) {
	c, err := f.Connector.Connect(ctx, env)
	return faultyConn{c, f}, err
}

type faultyConn struct {
	driver.Conn
	f *faulty
}

func (c faultyConn) OpenReceiver(ctx context.Context, rc driver.ReceiverConfig) (driver.Receiver, error) {
	r, err := c.Conn.OpenReceiver(ctx, rc)
	if err != nil {
		return nil, err
	}
	return faultyReceiver{r, c.f}, nil
}

type faultyReceiver struct {
	driver.Receiver
	f *faulty
}

func (r faultyReceiver) Begin(ctx context.Context, s []driver.Start) error {
	r.f.mu.Lock()
	fail := r.f.begin
	r.f.begun = append(r.f.begun, s[0].Attempt)
	r.f.mu.Unlock()
	if fail != nil {
		if err := fail(); err != nil {
			return err
		}
	}
	return r.Receiver.(driver.Counter).Begin(ctx, s)
}

func (r faultyReceiver) Move(ctx context.Context, m []driver.Move) error {
	r.f.mu.Lock()
	fail := r.f.move
	r.f.mu.Unlock()
	if fail != nil {
		if err := fail(); err != nil {
			return err
		}
	}
	return r.Receiver.(driver.Mover).Move(ctx, m)
}

// consuming runs a consumer until the test's end, or stop.
func consuming(t *testing.T, conn *gombu.Conn, cfg gombu.ConsumerConfig, h gombu.Handler) (k *gombu.Consumer, stop func()) {
	t.Helper()
	if cfg.Queues == nil {
		cfg.Queues = []string{"q"}
	}
	ctx, cancel := context.WithCancel(t.Context())
	over := make(chan error, 1)
	k = conn.Consumer(cfg)
	go func() { over <- k.Run(ctx, h) }()
	must(t, k.Ready(t.Context()))
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-over; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return k, stop
}

// pass lets d go by, and all that happens until then.
func pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

// transports that differ in where starts are counted.
func counting(t *testing.T, test func(t *testing.T, conn *gombu.Conn)) {
	t.Helper()
	countingOn(t, func(t *testing.T, conn *gombu.Conn, _ driver.Connector) { t.Helper(); test(t, conn) })
}

func countingOn(t *testing.T, test func(t *testing.T, conn *gombu.Conn, to driver.Connector)) {
	for name, to := range map[string]func() driver.Connector{
		"here": func() driver.Connector { return newFake() },
		"store": func() driver.Connector {
			return memory.New(memory.Config{})
		},
		"moved": func() driver.Connector { f := newFake(); f.pulls = true; return f },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				to := to()
				conn := gombu.New(to, nil)
				t.Cleanup(func() { must(t, conn.Close()) })
				must(t, declare(t.Context(), conn, "q"))
				test(t, conn, to)
			})
		})
	}
}

func publish(t *testing.T, conn *gombu.Conn, ids ...string) {
	t.Helper()
	for _, id := range ids {
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: id, Properties: gombu.Properties{MessageID: id}}))
	}
}

func TestBackOffDoublesUntilTheLastAttempt(t *testing.T) {
	counting(t, func(t *testing.T, conn *gombu.Conn) {
		publish(t, conn, "m")
		begin := time.Now()
		var starts []string
		consuming(t, conn, gombu.ConsumerConfig{MaxAttempts: 8}, func(_ context.Context, d *gombu.Delivery) error {
			starts = append(starts, fmt.Sprint(d.Attempt, time.Since(begin).Round(time.Second)))
			return errors.New("no")
		})
		pass(10 * time.Minute)
		want := "[1 0s 2 1s 3 3s 4 7s 5 15s 6 31s 7 1m3s 8 2m3s]"
		if fmt.Sprint(starts) != want {
			t.Errorf("attempts %v, want %s", starts, want)
		}
		if ready(t, conn, "gombu.dead.q") != 1 {
			t.Error("no dead letter")
		}
	})
}

// More failing messages than half the prefetch: those due soonest have their
// next attempt at once, and the good ones behind them pass.
func TestBackOffsHoldHalfThePrefetch(t *testing.T) {
	counting(t, func(t *testing.T, conn *gombu.Conn) {
		for i := range 20 {
			publish(t, conn, fmt.Sprint("bad", i))
		}
		publish(t, conn, "good")
		passed := make(chan time.Time, 1)
		begin := time.Now()
		n := map[string]int{}
		_, stop := consuming(t, conn, gombu.ConsumerConfig{Prefetch: 8}, func(_ context.Context, d *gombu.Delivery) error {
			if d.MessageID == "good" {
				passed <- time.Now()
				return nil
			}
			n[d.MessageID]++
			return errors.New("no")
		})
		if wait := (<-passed).Sub(begin); wait >= time.Second {
			t.Errorf("the good message waited %v", wait)
		}
		pass(time.Minute)
		stop()
		for id, starts := range n {
			if starts != 5 {
				t.Errorf("%s had %d starts", id, starts)
			}
		}
		if len(n) != 20 || ready(t, conn, "gombu.dead.q") != 20 {
			t.Errorf("%d failed, %d dead letters", len(n), ready(t, conn, "gombu.dead.q"))
		}
	})
}

// Without a limit nothing is given back early: it would fail for ever without
// a pause.
func TestNoLimit(t *testing.T) {
	counting(t, func(t *testing.T, conn *gombu.Conn) {
		publish(t, conn, "a", "b", "c")
		var starts atomic.Int64
		_, stop := consuming(t, conn, gombu.ConsumerConfig{Prefetch: 4, MaxAttempts: -1}, func(context.Context, *gombu.Delivery) error {
			starts.Add(1)
			return errors.New("no")
		})
		pass(10 * time.Minute)
		stop()
		if n := starts.Load(); n < 3*14 || n > 3*17 { // 0 1 3 7 15 31 63 123 183 … s
			t.Errorf("%d starts in ten minutes", n)
		}
		if ready(t, conn, "q") != 3 {
			t.Errorf("%d in the queue", ready(t, conn, "q"))
		}
	})
}

// With one attempt a failing message dies at once, but one that only came back
// is run: it may never have been started.
func TestOneAttempt(t *testing.T) {
	counting(t, func(t *testing.T, conn *gombu.Conn) {
		publish(t, conn, "bad", "innocent")
		var seen []string
		h := func(_ context.Context, d *gombu.Delivery) error {
			seen = append(seen, fmt.Sprint(d.MessageID, d.Redelivered))
			if d.MessageID == "bad" {
				return errors.New("no")
			}
			return nil
		}
		take := func(d *gombu.Delivery) error { return d.Release(t.Context()) }
		for d, err := range conn.Deliveries(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 2}) {
			must(t, err)
			must(t, take(d)) // both go back, one of them never shown
			break
		}
		_, stop := consuming(t, conn, gombu.ConsumerConfig{MaxAttempts: 1}, h)
		pass(time.Minute)
		stop()
		slices.Sort(seen)
		if fmt.Sprint(seen) != "[badtrue innocenttrue]" || ready(t, conn, "gombu.dead.q") != 1 {
			t.Errorf("%v, %d dead letters", seen, ready(t, conn, "gombu.dead.q"))
		}
	})
}

// A verdict does not lengthen a message's life, and Drop and Reject need none.
func TestRetryIsAnAttempt(t *testing.T) {
	counting(t, func(t *testing.T, conn *gombu.Conn) {
		publish(t, conn, "m")
		begin := time.Now()
		var last time.Duration
		n := 0
		consuming(t, conn, gombu.ConsumerConfig{MaxAttempts: 3}, func(context.Context, *gombu.Delivery) error {
			last = time.Since(begin)
			n++
			return gombu.Retry(time.Hour, errors.New("later"))
		})
		pass(24 * time.Hour)
		if n != 3 || last.Round(time.Minute) != 2*time.Hour || ready(t, conn, "gombu.dead.q") != 1 {
			t.Errorf("%d starts, the last after %v, %d dead letters", n, last, ready(t, conn, "gombu.dead.q"))
		}
	})
}

// Messages of a dead-letter queue have nowhere else to go, whatever its name.
func TestDeadLettersDoNotDieAgain(t *testing.T) {
	counting(t, func(t *testing.T, conn *gombu.Conn) {
		must(t, declare(t.Context(), conn, "my.dead"))
		publish(t, conn, "m")
		n := map[string]int{}
		consuming(t, conn, gombu.ConsumerConfig{Queues: []string{"q", "my.dead"}, DeadLetter: "my.dead", MaxAttempts: 2}, func(_ context.Context, d *gombu.Delivery) error {
			n[d.Queue]++
			return errors.New("no")
		})
		pass(10 * time.Minute)
		if n["q"] != 2 || n["my.dead"] < 10 || atMost(conn, "gombu.dead.q")+atMost(conn, "gombu.dead.my.dead") > 0 {
			t.Errorf("starts %v", n)
		}
	})
}

// A dead letter that was put back and dies again raises its entry's count.
func TestSecondDeath(t *testing.T) {
	counting(t, func(t *testing.T, conn *gombu.Conn) {
		other := gombu.Headers{{Key: "queue", Value: "elsewhere"}, {Key: "reason", Value: "expired"}, {Key: "count", Value: int64(7)}}
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: "x", Properties: gombu.Properties{
			Expiration: time.Hour, Headers: gombu.Headers{{Key: "x-death", Value: []any{other}}, {Key: "x-first-death-reason", Value: "expired"}}}}))
		_, stop := consuming(t, conn, gombu.ConsumerConfig{MaxAttempts: 1}, func(context.Context, *gombu.Delivery) error { return errors.New("no") })
		begin := time.Now().UTC().Truncate(time.Second)
		pass(time.Minute)
		var d *gombu.Delivery
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"gombu.dead.q"}}, 1, func(_ context.Context, got *gombu.Delivery) error { d = got; return nil })
		if d.Expiration != 0 {
			t.Errorf("a dead letter expires after %v", d.Expiration)
		}
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Body: d.Body, Properties: d.Properties}))
		pass(time.Minute)
		stop()
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"gombu.dead.q"}}, 1, func(_ context.Context, got *gombu.Delivery) error { d = got; return nil })
		deaths := d.Headers.Get("x-death").([]any)
		if len(deaths) != 2 || fmt.Sprint(deaths[1]) != fmt.Sprint(other) {
			t.Fatalf("x-death %v", deaths)
		}
		e := deaths[0].(gombu.Headers)
		if e.Get("count") != int64(2) || e.Get("time") != begin || !e.Get("last-time").(time.Time).After(begin) || e.Get("error") != "no" || d.Headers.Get("x-first-death-reason") != "expired" {
			t.Errorf("x-death %v, first %v", e, d.Headers.Get("x-first-death-reason"))
		}
	})
}

// What cannot be moved keeps its claim, is tried again ever more seldom, and
// is not lost; it says so.
func TestDeadLetterThatCannotMove(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFaulty()
		var tries, warnings int
		f.move = func() error { tries++; return &driver.Error{Kind: driver.ErrUnavailable} }
		conn := gombu.New(f, &gombu.Config{OnEvent: func(e gombu.Event) {
			if e.Kind == driver.Warning && strings.Contains(e.Detail, "dead letter") {
				warnings++
			}
		}})
		t.Cleanup(func() { must(t, conn.Close()) })
		must(t, declare(t.Context(), conn, "q"))
		publish(t, conn, "bad", "good")
		handled := 0
		consuming(t, conn, gombu.ConsumerConfig{MaxAttempts: 1, Prefetch: 2}, func(_ context.Context, d *gombu.Delivery) error {
			handled++
			if d.MessageID == "bad" {
				return errors.New("no")
			}
			return nil
		})
		pass(10 * time.Minute)
		f.mu.Lock()
		if tries < 10 || tries > 16 || handled != 2 {
			t.Errorf("%d tries in ten minutes, %d handled", tries, handled)
		}
		f.move = nil
		f.mu.Unlock()
		pass(time.Minute)
		if ready(t, conn, "gombu.dead.q") != 1 || warnings != tries {
			t.Errorf("%d dead letters, %d warnings of %d failures", ready(t, conn, "gombu.dead.q"), warnings, tries)
		}
	})
}

// A start that cannot be counted does not happen, as long as the claim stands;
// without the claim it is somebody else's.
func TestBegin(t *testing.T) {
	for _, kind := range []error{driver.ErrUnavailable, driver.ErrLeaseLost} {
		t.Run(kind.Error(), func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				f := newFaulty()
				conn := gombu.New(f, nil)
				t.Cleanup(func() { must(t, conn.Close()) })
				must(t, declare(t.Context(), conn, "q"))
				publish(t, conn, "m")
				f.begin = func() error { return &driver.Error{Kind: kind} }
				var starts []int
				_, stop := consuming(t, conn, gombu.ConsumerConfig{}, func(_ context.Context, d *gombu.Delivery) error {
					if starts = append(starts, d.Attempt); d.Attempt == 1 {
						return gombu.Retry(0, nil)
					}
					return nil
				})
				pass(10 * time.Second)
				if fmt.Sprint(starts) != "[1]" {
					t.Fatalf("starts %v", starts)
				}
				f.set(func() { f.begin = nil })
				pass(10 * time.Second)
				stop()
				want, tries := "[1 2]", 5 // after 0, 1, 3, 7 and 15 s
				if kind == driver.ErrLeaseLost {
					want, tries = "[1]", 1
				}
				if fmt.Sprint(starts) != want || len(f.begun) != tries {
					t.Errorf("starts %v, want %s; Begin was called for %v", starts, want, f.begun)
				}
			})
		})
	}
}

// First deliveries write nothing.
func TestFirstDeliveriesAreNotCounted(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFaulty()
		conn := gombu.New(f, nil)
		t.Cleanup(func() { must(t, conn.Close()) })
		must(t, declare(t.Context(), conn, "q"))
		publish(t, conn, "a", "b", "c")
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, 3, func(context.Context, *gombu.Delivery) error { return nil })
		if len(f.begun) > 0 {
			t.Errorf("Begin was called: %v", f.begun)
		}
	})
}

// A redelivered message is not started beside its own first run: that one's
// success is the message's, and after its failure it is run.
func TestTwinWaitsForTheFirstRun(t *testing.T) {
	for _, workers := range []int{1, 3} {
		for _, first := range []error{nil, errors.New("no")} {
			t.Run(fmt.Sprint(workers, first), func(t *testing.T) {
				countingOn(t, func(t *testing.T, conn *gombu.Conn, to driver.Connector) {
					if f, ok := to.(*fake); ok { // a session in memory cannot be lost
						twin(t, f, conn, workers, first)
					}
				})
			})
		}
	}
}

func twin(t *testing.T, f *fake, conn *gombu.Conn, workers int, first error) {
	publish(t, conn, "twin", "other")
	runs, at, most := map[string]int{}, map[string]int{}, 0
	var mu sync.Mutex
	consuming(t, conn, gombu.ConsumerConfig{Workers: workers, FinishLost: true}, func(_ context.Context, d *gombu.Delivery) error {
		mu.Lock()
		runs[d.MessageID]++
		at[d.MessageID]++
		most = max(most, at[d.MessageID])
		n := runs[d.MessageID]
		mu.Unlock()
		defer func() { mu.Lock(); at[d.MessageID]--; mu.Unlock() }()
		if d.MessageID == "twin" && n == 1 {
			time.Sleep(time.Minute)
			return first
		}
		return nil
	})
	pass(time.Second)
	f.cut()
	pass(10 * time.Second)
	f.cut() // twice
	pass(5 * time.Minute)
	want := 1
	if first != nil {
		want = 2
	}
	mu.Lock()
	defer mu.Unlock()
	if runs["twin"] != want || most != 1 {
		t.Errorf("%d runs, %d at once; want %d, one at a time", runs["twin"], most, want)
	}
	if n := f.count("q") + f.count("gombu.retry.q") + f.count("gombu.dead.q"); n != 0 {
		t.Errorf("%d left", n)
	}
}

// Messages that may have ended their consumer start one by one, a second apart
// while they run long, and one after the other when they do not; what is new
// runs beside them.
func TestSuspectsStartAlone(t *testing.T) {
	countingOn(t, func(t *testing.T, conn *gombu.Conn, to driver.Connector) {
		ids := []string{"a", "b", "c"}
		for _, long := range []bool{true, false} {
			switch f, isFake := to.(*fake); {
			case isFake && !f.pulls:
				return // nothing is known of them
			case isFake:
				must(t, declare(t.Context(), conn, "gombu.retry.q"))
				f.set(func() {
					for _, id := range ids {
						f.push(driver.Incoming{Queue: "gombu.retry.q", Props: driver.Properties{MessageID: id, Headers: driver.Headers{{Key: "x-gombu-try", Value: int64(3)}}}}, false)
					}
				})
			default:
				publish(t, conn, ids...)
				dies(t, to, len(ids))
			}
			begin := time.Now()
			var mu sync.Mutex
			var starts []string
			running, most := 0, 0
			_, stop := consuming(t, conn, gombu.ConsumerConfig{Workers: 8}, func(_ context.Context, d *gombu.Delivery) error {
				mu.Lock()
				if running++; d.Redelivered {
					starts = append(starts, fmt.Sprint(d.Attempt, " ", time.Since(begin).Round(100*time.Millisecond)))
				}
				most = max(most, running)
				mu.Unlock()
				switch {
				case !d.Redelivered:
				case long:
					time.Sleep(10 * time.Second)
				default:
					time.Sleep(time.Millisecond)
				}
				mu.Lock()
				running--
				mu.Unlock()
				return nil
			})
			publish(t, conn, "new", "new", "new")
			pass(500 * time.Millisecond)
			if n := ready(t, conn, "q"); n != 0 {
				t.Errorf("%d new ones wait", n)
			}
			pass(time.Minute)
			stop()
			slices.Sort(starts)
			want := "[3 0s 3 1s 3 2s]"
			if !long {
				want = "[3 0s 3 0s 3 0s]"
			}
			if fmt.Sprint(starts) != want || !long && most > 1+3 {
				t.Errorf("starts %v, want %s; %d at once", starts, want, most)
			}
		}
	})
}

// dies is a program that began n messages of q a second time, and died.
func dies(t *testing.T, to driver.Connector, n int) {
	t.Helper()
	for attempt := range 2 {
		c, err := to.Connect(t.Context(), driver.Env{Owner: "dead", Notify: func(driver.Event) {}})
		must(t, err)
		r, err := c.OpenReceiver(t.Context(), driver.ReceiverConfig{Queue: "q", Prefetch: n})
		must(t, err)
		in := make([]driver.Incoming, n)
		for got := 0; got < n; {
			more, err := r.Receive(t.Context(), in[got:])
			must(t, err)
			got += more
		}
		for _, in := range in {
			if attempt == 1 {
				must(t, r.(driver.Counter).Begin(t.Context(), []driver.Start{{Tag: in.Tag, Attempt: in.Attempt}}))
			}
		}
		must(t, c.Close(t.Context()))
	}
}

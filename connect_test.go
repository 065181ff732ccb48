package gombu_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
)

// hosts is a scheme whose URLs name fakes, for tests of alternates.
var hosts struct {
	sync.Mutex
	fakes map[string]*fake
	dials []string // in order
}

func init() {
	dsn.Register("fake", func(u *dsn.URL, _ driver.DialConfig) (driver.Connector, error) {
		return host{u.Host}, u.Options().Finish()
	})
}

// host is a connector to whatever fake has its name now.
type host struct{ name string }

func (h host) String() string            { return "fake://" + h.name }
func (h host) Features() driver.Features { return newFake().Features() }
func (h host) Connect(ctx context.Context, env driver.Env) (driver.Conn, error) {
	hosts.Lock()
	f := hosts.fakes[h.name]
	hosts.dials = append(hosts.dials, h.name)
	hosts.Unlock()
	if f == nil {
		return nil, &driver.Error{Op: "connect", Entity: h.name, Kind: driver.ErrUnavailable, Err: errors.New("connection refused")}
	}
	return f.Connect(ctx, env)
}

// up makes the named hosts exist, and forgets the rest and all dials.
func up(names ...string) map[string]*fake {
	hosts.Lock()
	defer hosts.Unlock()
	hosts.fakes, hosts.dials = map[string]*fake{}, nil
	for _, n := range names {
		hosts.fakes[n] = newFake()
	}
	return hosts.fakes
}

func dials() []string {
	hosts.Lock()
	defer hosts.Unlock()
	return slices.Clone(hosts.dials)
}

func openURL(t *testing.T, url string, cfg *gombu.Config) *gombu.Conn {
	t.Helper()
	conn, err := gombu.Open(url, cfg)
	must(t, err)
	t.Cleanup(func() { must(t, conn.Close()) })
	return conn
}

func TestBehaviour36_51_RoundRobin(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up()
		conn := openURL(t, "fake://a;fake://b;fake://c", nil)
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		if err := conn.Ready(ctx); !errors.Is(err, gombu.ErrUnavailable) {
			t.Fatal(err)
		}
		if got := fmt.Sprint(dials()[:7]); got != "[a b c a b c a]" {
			t.Fatalf("dialed %s", got)
		}
		up("c") // the only healthy node
		must(t, conn.Ready(t.Context()))
		must(t, declare(t.Context(), conn, "q"))
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: 1}))
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, 1, func(context.Context, *gombu.Delivery) error { return nil })
	})
}

func TestShuffleTriesEveryHost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up("e")
		conn := openURL(t, "fake://a;fake://b;fake://c;fake://d;fake://e", &gombu.Config{Shuffle: true})
		must(t, conn.Ready(t.Context()))
		if n := len(dials()); n < 1 || n > 5 {
			t.Fatalf("dialed %v", dials())
		}
	})
}

// With two hosts down, a wait comes only after a whole round, and grows by the
// round: 0, 1, 0, 2, 0, 3, 0, 4 steps.
func TestBehaviour37_38_SleepsAfterAWholeRound(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up()
		var waits []time.Duration
		cfg := &gombu.Config{Retry: gombu.RetryPolicy{Start: time.Second, Step: time.Second, Max: time.Minute, NoJitter: true, MaxRetries: 8,
			OnError: func(_ error, wait time.Duration) { waits = append(waits, wait/time.Second) }}}
		conn := openURL(t, "fake://a;fake://b", cfg)
		if err := conn.Ready(t.Context()); !errors.Is(err, gombu.ErrUnavailable) {
			t.Fatal(err)
		}
		if fmt.Sprint(waits) != "[0s 1ns 0s 2ns 0s 3ns 0s 4ns]" {
			t.Fatalf("waits %v", waits)
		}
	})
}

func TestBehaviour31_39_OnErrorMayPanic(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up("b")
		told := 0
		cfg := &gombu.Config{Retry: gombu.RetryPolicy{OnError: func(error, time.Duration) { told++; panic("in the callback") }}}
		conn := openURL(t, "fake://a;fake://b", cfg)
		must(t, conn.Ready(t.Context()))
		if told != 1 || fmt.Sprint(dials()) != "[a b]" {
			t.Fatalf("told %d times, dialed %v", told, dials())
		}
	})
}

func TestBehaviour44_45_HostSwitchesOnceWhenItsSessionIsLost(t *testing.T) {
	bubble(t, func(t *testing.T) {
		fakes := up("a", "b")
		conn := openURL(t, "fake://a;fake://b", nil)
		must(t, declare(t.Context(), conn, "q"))
		a, b := fakes["a"], fakes["b"]
		hosts.Lock()
		delete(hosts.fakes, "a")
		hosts.Unlock()
		a.cut()
		synctest.Wait()
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: 1}))
		if b.count("q") != 1 || fmt.Sprint(dials()) != "[a a b]" {
			t.Fatalf("dialed %v, %d in the queue of b", dials(), b.count("q"))
		}
	})
}

func TestBehaviour28_29_30_48_50_Budgets(t *testing.T) {
	for _, c := range []struct {
		name   string
		retry  gombu.RetryPolicy
		dials  int
		within time.Duration
	}{
		{"no retries", gombu.RetryPolicy{MaxRetries: -1}, 1, 0},
		{"one retry", gombu.RetryPolicy{MaxRetries: 1}, 2, 100 * time.Millisecond},
		{"two retries", gombu.RetryPolicy{MaxRetries: 2}, 3, 300 * time.Millisecond},
		{"a total budget", gombu.RetryPolicy{Timeout: time.Second, Start: 400 * time.Millisecond, Max: 400 * time.Millisecond, NoJitter: true}, 3, time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up()
				conn := openURL(t, "fake://a", &gombu.Config{Retry: c.retry})
				within(t, 2*c.within, func() { // two uses, two attempts
					err := conn.Ready(t.Context())
					if !errors.Is(err, gombu.ErrUnavailable) {
						t.Fatal(err)
					}
					if err := conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"}); c.dials == 1 && !errors.Is(err, gombu.ErrNotSent) {
						t.Fatal(err)
					}
				})
			})
		})
		t.Run(c.name+", dials", func(t *testing.T) {
			bubble(t, func(t *testing.T) {
				up()
				conn := openURL(t, "fake://a", &gombu.Config{Retry: c.retry})
				_ = conn.Ready(t.Context())
				if n := len(dials()); n != c.dials {
					t.Fatalf("%d dials, want %d", n, c.dials)
				}
			})
		})
	}
}

// Kombu's policy waits 2 s, 4 s, … up to its maximum (Kombu itself goes one
// start beyond it).
func TestBehaviour49_KombuRetry(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up()
		var waits []time.Duration
		policy := gombu.KombuRetry
		policy.Max = 14 * time.Second
		policy.MaxRetries = 10
		policy.OnError = func(_ error, wait time.Duration) { waits = append(waits, wait) }
		conn := openURL(t, "fake://a", &gombu.Config{Retry: policy})
		_ = conn.Ready(t.Context())
		if got := fmt.Sprint(waits); got != "[2s 4s 6s 8s 10s 12s 14s 14s 14s 14s]" {
			t.Fatal(got)
		}
	})
}

// The default policy: at once, then up to 100 ms, doubling to 1 s, each wait a
// random part of its bound.
func TestDefaultRetryWaits(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up()
		var waits []time.Duration
		start := time.Now()
		var first time.Duration
		cfg := &gombu.Config{Retry: gombu.RetryPolicy{MaxRetries: 200, OnError: func(_ error, wait time.Duration) {
			if len(waits) == 0 {
				first = time.Since(start)
			}
			waits = append(waits, wait)
		}}}
		conn := openURL(t, "fake://a", cfg)
		_ = conn.Ready(t.Context())
		bound, most := 100*time.Millisecond, time.Duration(0)
		for _, w := range waits {
			if w < 0 || w > bound {
				t.Fatalf("a wait of %v where at most %v is allowed", w, bound)
			}
			bound, most = min(2*bound, time.Second), max(most, w)
		}
		if first != 0 || len(waits) != 200 || most < 500*time.Millisecond {
			t.Fatalf("first dial after %v, %d waits, longest %v", first, len(waits), most)
		}
	})
}

// Every alternate refused for good, on the first connect, ends it at once; one
// that is only down does not.
func TestRefusedForGoodByAll(t *testing.T) {
	bubble(t, func(t *testing.T) {
		denied := func(int) error { return &driver.Error{Op: "connect", Kind: driver.ErrDenied} }
		for _, f := range up("a", "b") {
			f.dial = denied
		}
		conn := openURL(t, "fake://a;fake://b", nil)
		within(t, 10*time.Millisecond, func() {
			if err := conn.Ready(t.Context()); !errors.Is(err, gombu.ErrDenied) {
				t.Fatal(err)
			}
		})
	})
	bubble(t, func(t *testing.T) {
		up("a")["a"].dial = func(int) error { return &driver.Error{Op: "connect", Kind: driver.ErrDenied} }
		conn := openURL(t, "fake://a;fake://b", nil)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := conn.Ready(ctx); !errors.Is(err, gombu.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}

// A context that ends with a cause of its own is seen in the error.
func TestErrorsCarryTheContextsCause(t *testing.T) {
	bubble(t, func(t *testing.T) {
		up()
		conn := openURL(t, "fake://a", nil)
		why := errors.New("the user pressed stop")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		for name, call := range map[string]func() error{
			"ready":   func() error { return conn.Ready(ctx) },
			"declare": func() error { return declare(ctx, conn, "q") },
			"purge":   func() error { _, err := conn.Purge(ctx, "q"); return err },
			"inspect": func() error { _, err := conn.Inspect(ctx, "q"); return err },
			"publish": func() error { return conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "q"}) },
		} {
			if err := call(); !errors.Is(err, why) || !errors.Is(err, context.Canceled) {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

// Events reach OnEvent in order, and it may close the connection.
func TestOnEventMayClose(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		var conn *gombu.Conn
		var kinds []string
		closed := make(chan error, 1)
		conn = gombu.New(f, &gombu.Config{OnEvent: func(e gombu.Event) {
			kinds = append(kinds, e.Kind.String())
			if e.Kind == driver.Warning {
				panic("in the hook")
			}
			if e.Kind == driver.Lost {
				closed <- conn.Close()
			}
		}})
		must(t, conn.Ready(t.Context()))
		f.event(driver.Event{Kind: driver.Warning, Detail: "x"})
		synctest.Wait()
		f.cut()
		must(t, <-closed)
		if fmt.Sprint(kinds) != "[connected warning lost]" {
			t.Fatal(kinds)
		}
	})
}

func TestBehaviour18_19_StringNeverShowsSecrets(t *testing.T) {
	up()
	conn := openURL(t, "fake://u:sesame@a;fake://b", nil)
	if got := conn.String(); got != "fake://a;fake://b" {
		t.Fatal(got)
	}
}

func TestBehaviour6_17_OpenRefuses(t *testing.T) {
	for _, url := range []string{"bogus://h", "fake://h?no_such=1", "fake://h:0", ""} {
		if _, err := gombu.Open(url, nil); !errors.Is(err, gombu.ErrInvalid) {
			t.Errorf("%q: %v", url, err)
		}
	}
}

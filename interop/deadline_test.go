package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/gombutest/proxy"
)

// A call ends by its deadline + 100 ms. Here deadline and slack have five times
// that together: a hang fails, a slow machine under the race detector does not.
const (
	deadline = 500 * time.Millisecond
	room     = 5*(deadline+100*time.Millisecond) - deadline
)

// With a network that swallows packets every call ends by its deadline, with an
// error that is its cause and says what is known; so does closing.
func TestNoCallOutlivesItsContext(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		direct := b
		b, hole := through(t, b)
		conn, err := gombu.Open(b.url, &gombu.Config{Grace: time.Second})
		must(t, err)
		q := name(t, "q")
		topo := gombu.Topology{Queues: []gombu.Queue{{Name: q}}}
		must(t, conn.Declare(t.Context(), topo))
		drop(t, direct, topo)
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q, Value: 1}))
		run, stop := context.WithCancel(t.Context())
		defer stop()
		got := make(chan *gombu.Delivery, 1)
		over := make(chan error, 1)
		go func() {
			over <- conn.Run(run, gombu.ConsumerConfig{Queues: []string{q}, Prefetch: 1}, func(_ context.Context, d *gombu.Delivery) error {
				got <- d
				return d.Detach()
			})
		}()
		d := <-got
		hole.Hold(proxy.Both)
		calls := map[string]func(context.Context) error{
			"publish": func(ctx context.Context) error {
				return conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: q, Value: 2})
			},
			"large publish": func(ctx context.Context) error {
				return conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: q, Body: make([]byte, 1<<20)})
			},
			"declare": func(ctx context.Context) error {
				return conn.Declare(ctx, gombu.Topology{
					Exchanges: []gombu.Exchange{{Name: q}}, Queues: []gombu.Queue{{Name: q}},
					Bindings: []gombu.Binding{{Exchange: q, Queue: q, Key: "k"}},
				})
			},
			"inspect": func(ctx context.Context) error { _, err := conn.Inspect(ctx, q); return err },
			"purge":   func(ctx context.Context) error { _, err := conn.Purge(ctx, q); return err },
			"delete":  func(ctx context.Context) error { return conn.Delete(ctx, topo, nil) },
		}
		var wg sync.WaitGroup
		for what, call := range calls {
			for range 20 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), deadline)
					defer cancel()
					start := time.Now()
					err := call(ctx)
					if took := time.Since(start); took > deadline+room {
						t.Errorf("%s took %v", what, took)
					}
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%s: %v", what, err)
					}
					known := errors.Is(err, gombu.ErrUncertain) || errors.Is(err, gombu.ErrNotSent) || errors.Is(err, gombu.ErrUnavailable) || errors.Is(err, gombu.ErrBlocked)
					if !known {
						t.Errorf("%s does not say what is known: %v", what, err)
					}
				})
			}
		}
		wg.Wait()
		// An ack is written, or the session ends: it returns either way.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_ = d.Ack(ctx)
		if took := time.Since(start); took > time.Second+room {
			t.Errorf("ack took %v", took)
		}
		stop()
		start = time.Now()
		err = conn.Close()
		if took := time.Since(start); took > time.Second+3*room {
			t.Errorf("close took %v: %v", took, err)
		}
		select {
		case <-over:
		case <-time.After(5 * time.Second):
			t.Error("Run did not return")
		}
	})
}

// A peer that takes connections and never answers: the attempt ends by the
// connect timeout, the call by its context.
func TestPeerThatNeverAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	for _, scheme := range []string{"amqp", "amqps", "redis", "rediss"} {
		conn, err := gombu.Open(fmt.Sprintf("%s://%s?connect_timeout=0.2", scheme, l.Addr()), nil)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		start := time.Now()
		err = conn.Ready(ctx)
		cancel()
		if took := time.Since(start); took > time.Second+room || !errors.Is(err, gombu.ErrUnavailable) {
			t.Errorf("%s: after %v: %v", scheme, took, err)
		}
		start = time.Now()
		must(t, conn.Close())
		if took := time.Since(start); took > 2*room {
			t.Errorf("%s: close took %v", scheme, took)
		}
	}
}

package interop

import (
	"context"
	"errors"
	"sync"
	"testing"

	"github.com/gombu/gombu"
)

// Opened, used and closed again and again: nothing is left. In exact time, with
// alarms, the root's tests do that ten thousand times.
func TestOpenAndClose(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		q := name(t, "q")
		topo := gombu.Topology{Queues: []gombu.Queue{{Name: q}}}
		drop(t, b, topo)
		cycle := func() {
			conn, err := gombu.Open(b.url, nil)
			must(t, err)
			must(t, conn.Declare(t.Context(), topo))
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q, Body: []byte("x")}))
			take(t, conn, q, 1, nil)
			must(t, conn.Close())
		}
		cycle()
		before := holding(t)
		for range 200 {
			cycle()
		}
		noMoreThan(t, before)
	})
}

// A hundred goroutines close a Conn at once that others publish and consume on:
// all return, and nothing is left.
func TestHundredClosersAtOnce(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		q := name(t, "q")
		topo := gombu.Topology{Queues: []gombu.Queue{{Name: q}}}
		drop(t, b, topo)
		var before held
		for round := range 6 {
			if round == 1 {
				before = holding(t)
			}
			conn, err := gombu.Open(b.url, nil)
			must(t, err)
			must(t, conn.Declare(t.Context(), topo))
			var users, closers sync.WaitGroup
			handled := make(chan struct{}, 1)
			for i := range 100 {
				users.Go(func() {
					if i%10 == 0 {
						err := conn.Run(t.Context(), gombu.ConsumerConfig{Queues: []string{q}, Workers: 2}, func(context.Context, *gombu.Delivery) error {
							select {
							case handled <- struct{}{}:
							default:
							}
							return nil
						})
						if err != nil && !errors.Is(err, gombu.ErrClosed) {
							t.Error("run:", err)
						}
						return
					}
					var err error
					for p := conn.Producer(nil); err == nil; {
						err = p.Publish(t.Context(), &gombu.Message{Queue: q, Body: []byte("x")})
					}
					if !errors.Is(err, gombu.ErrClosed) {
						t.Error("publish:", err)
					}
				})
			}
			<-handled
			for range 100 {
				closers.Go(func() {
					if err := conn.Close(); err != nil {
						t.Error("close:", err)
					}
				})
			}
			closers.Wait()
			users.Wait()
		}
		noMoreThan(t, before)
	})
}

package interop

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
)

// Cut sockets, again and again, under load: what was published is handled, a
// per-session queue comes back under a fresh name, nobody is told. On Redis a
// consuming session, and its queues, outlive the socket.
func TestCutSockets(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		direct := b
		b, through := through(t, b)
		conn := open(t, b, "")
		q, e, reply := name(t, "q"), name(t, "e"), name(t, "reply")
		topo := gombu.Topology{
			Exchanges: []gombu.Exchange{{Name: e}},
			Queues:    []gombu.Queue{{Name: q}, {Name: reply, PerSession: true, Exclusive: true}},
			Bindings:  []gombu.Binding{{Exchange: e, Queue: q, Key: "k"}, {Exchange: e, Queue: reply, Key: "reply"}},
		}
		must(t, conn.Declare(t.Context(), topo))
		drop(t, direct, gombu.Topology{Exchanges: topo.Exchanges, Queues: topo.Queues[:1]})
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var mu sync.Mutex
		seen := map[int]int{}
		more := make(chan struct{}, 1)
		k := conn.Consumer(gombu.ConsumerConfig{Queues: []string{q, reply}, Workers: 4})
		over := make(chan error, 1)
		go func() {
			over <- k.Run(ctx, gombu.Typed(func(_ context.Context, v int, _ *gombu.Delivery) error {
				mu.Lock()
				defer mu.Unlock()
				seen[v]++
				select {
				case more <- struct{}{}:
				default:
				}
				return nil
			}))
		}()
		must(t, k.Ready(ctx))
		p := conn.Producer(&gombu.ProducerConfig{Exchange: e, Resend: true})
		const n = 2000
		names := map[string]bool{}
		for i := range n {
			must(t, p.Publish(ctx, &gombu.Message{Key: "k", Value: i}))
			if i%400 == 399 {
				names[conn.BrokerName(reply)] = true
				if through.Cut() == 0 {
					t.Fatal("nothing goes through the proxy")
				}
			}
		}
		must(t, k.Ready(ctx))
		names[conn.BrokerName(reply)] = true
		must(t, p.Publish(ctx, &gombu.Message{Key: "reply", Value: n}))
		for {
			mu.Lock()
			got := len(seen)
			mu.Unlock()
			if got == n+1 {
				break
			}
			select {
			case <-more:
			case <-ctx.Done():
				t.Fatalf("handled %d of %d", got, n+1)
			}
		}
		if b.name == "redis" && len(names) != 1 || b.name != "redis" && len(names) < 3 {
			t.Errorf("the per-session queue had only the names %v", names)
		}
		cancel()
		must(t, <-over)
	})
}

package interop

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
)

// cutter dials, and cuts what it dialed.
type cutter struct {
	mu    sync.Mutex
	conns []net.Conn
}

func (c *cutter) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, network, addr)
	if err == nil {
		c.mu.Lock()
		c.conns = append(c.conns, conn)
		c.mu.Unlock()
	}
	return conn, err
}

func (c *cutter) cut() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := len(c.conns)
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.conns = nil
	return n
}

// Cut sockets, again and again, under load: what was published is handled, a
// per-session queue comes back under a fresh name, nobody is told. On Redis a
// consuming session, and its queues, outlive the socket.
func TestCutSockets(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		c := &cutter{}
		conn, err := gombu.Open(b.url, &gombu.Config{Dial: driver.DialConfig{Dial: c.dial}})
		must(t, err)
		t.Cleanup(func() { must(t, conn.Close()) })
		q, e, reply := name(t, "q"), name(t, "e"), name(t, "reply")
		topo := gombu.Topology{
			Exchanges: []gombu.Exchange{{Name: e}},
			Queues:    []gombu.Queue{{Name: q}, {Name: reply, PerSession: true, Exclusive: true}},
			Bindings:  []gombu.Binding{{Exchange: e, Queue: q, Key: "k"}, {Exchange: e, Queue: reply, Key: "reply"}},
		}
		must(t, conn.Declare(t.Context(), topo))
		drop(t, b, gombu.Topology{Exchanges: topo.Exchanges, Queues: topo.Queues[:1]})
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
				if c.cut() == 0 {
					t.Fatal("no socket was dialed by the hook")
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

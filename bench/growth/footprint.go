package growth

import (
	"context"
	"errors"
	"fmt"
	"net"
	"runtime"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu"
)

// inUse is the memory of what lives, in bytes.
func inUse() float64 {
	runtime.GC()
	runtime.GC() // what the first one left to finalizers and pools
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc + m.StackInuse)
}

// footprint is the memory of idle consumers, a queue each, and of connections,
// each with a session to publish and one with a consumer.
func (c *Config) footprint(ctx context.Context, b *broker, tell func(Row) error) error {
	var inside, consumer, library, connection float64
	err := b.with(func(conn *gombu.Conn) (err error) {
		if b.remote() {
			if inside, err = c.channels(ctx, b, conn); err != nil {
				return err
			}
		}
		consumer, err = c.consumers(ctx, b, conn)
		return err
	})
	switch {
	case err != nil || b.s == nil:
	case b.remote():
		library, err = c.links(ctx, b.s.URL())
	default:
		library, err = c.clients(b.s.Addr())
	}
	if err == nil {
		connection, err = c.connections(ctx, b)
	}
	if err != nil {
		return fmt.Errorf("footprint: %w", err)
	}
	for _, r := range []Row{beyond("an idle consumer", consumer, inside, 20), beyond("a connection", connection, library, 256)} {
		r.Table, r.Broker, r.Unit = "memory", b.name, "KiB"
		if err := tell(r); err != nil {
			return err
		}
	}
	return nil
}

// beyond is what we take over what the client library does.
func beyond(at string, all, library, limit float64) Row {
	r := Row{At: at, Value: (all - library) / 1024, Limit: limit}
	if library > 0 {
		r.Note = fmt.Sprintf("beyond %.0f of the client library", library/1024)
	}
	return r
}

// consumers is what one idle consumer more takes, of many: its Run, and the
// goroutine that it is called on.
func (c *Config) consumers(ctx context.Context, b *broker, conn *gombu.Conn) (grown float64, err error) {
	queues := names(c.Many + 1)
	if err := b.declared(ctx, conn, queues); err != nil {
		return 0, err
	}
	ks := make([]*gombu.Consumer, len(queues))
	for i, q := range queues {
		ks[i] = conn.Consumer(gombu.ConsumerConfig{Queues: []string{q}})
	}
	h := func(context.Context, *gombu.Delivery) error { return nil }
	err = consuming(ctx, ks[:1], h, func(ctx context.Context) error { // the session is not theirs
		before := inUse()
		return consuming(ctx, ks[1:], h, func(ctx context.Context) error {
			err := pause(ctx, 200*time.Millisecond) // until they sleep
			grown = (inUse() - before) / float64(c.Many)
			return err
		})
	})
	return grown, err
}

// connections is what one connection takes, of some.
func (c *Config) connections(ctx context.Context, b *broker) (grown float64, err error) {
	before := inUse()
	conns := make([]*gombu.Conn, max(10, c.Many/10))
	ks := make([]*gombu.Consumer, len(conns))
	queues := names(len(conns))
	defer func() {
		for _, conn := range conns {
			if conn != nil {
				err = errors.Join(err, conn.Close())
			}
		}
	}()
	for i := range conns {
		if conns[i], err = b.open(); err != nil {
			return 0, err
		}
		if err := b.declared(ctx, conns[i], queues[i:i+1]); err != nil {
			return 0, err
		}
		ks[i] = conns[i].Consumer(gombu.ConsumerConfig{Queues: queues[i : i+1]})
	}
	got := make(chan struct{}, len(conns))
	handler := func(context.Context, *gombu.Delivery) error { got <- struct{}{}; return nil }
	err = consuming(ctx, ks, handler, func(ctx context.Context) error {
		for i, conn := range conns {
			if err := conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: queues[i], Body: []byte("x")}); err != nil {
				return err
			}
		}
		for range conns {
			select {
			case <-got:
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		err := pause(ctx, 200*time.Millisecond)
		grown = (inUse() - before) / float64(len(conns))
		return err
	})
	return grown, err
}

// clients is what two clients of the library take, as Gombu configures it.
func (c *Config) clients(addr string) (float64, error) {
	n := max(10, c.Many/10)
	before := inUse()
	var all []rueidis.Client
	defer func() {
		for _, c := range all {
			c.Close()
		}
	}()
	for range 2 * n {
		k, err := rueidis.NewClient(rueidis.ClientOption{
			InitAddress: []string{addr}, ForceSingleClient: true, PipelineMultiplex: -1, AlwaysPipelining: true, DisableRetry: true, DisableCache: true,
			OnInvalidations: func([]rueidis.RedisMessage) {},
			Dialer:          net.Dialer{KeepAlive: -1}, RingScaleEachConn: 10, ReadBufferEachConn: 64 << 10, WriteBufferEachConn: 64 << 10,
		})
		if err != nil {
			return 0, err
		}
		all = append(all, k)
	}
	return (inUse() - before) / float64(n), nil
}

// start is the time from Open to the first message in a handler.
func (c *Config) start(ctx context.Context, b *broker, tell func(Row) error) error {
	var took []float64
	for i := range max(3, 3*c.Rounds) {
		began := time.Now()
		err := b.with(func(conn *gombu.Conn) error {
			queues := []string{fmt.Sprintf("growth-start-%d", i)}
			if err := b.declared(ctx, conn, queues); err != nil {
				return err
			}
			got := make(chan time.Duration, 1)
			handler := func(context.Context, *gombu.Delivery) error { got <- time.Since(began); return nil }
			ks := []*gombu.Consumer{conn.Consumer(gombu.ConsumerConfig{Queues: queues})}
			return consuming(ctx, ks, handler, func(ctx context.Context) error {
				if err := conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: queues[0], Body: []byte("x")}); err != nil {
					return err
				}
				select {
				case d := <-got:
					took = append(took, float64(d.Nanoseconds())/1e6)
					return nil
				case <-time.After(time.Minute):
					return errors.New("start: the first message does not come")
				}
			})
		})
		if err != nil {
			return err
		}
	}
	return tell(Row{Table: "start", Broker: b.name, At: "Open to the first message", Value: median(took), Unit: "ms", Limit: 50})
}

package growth

import (
	"context"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gombu/gombu"
)

// consuming runs consumers while f runs.
func consuming(ctx context.Context, ks []*gombu.Consumer, h gombu.Handler, f func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for _, k := range ks {
		wg.Go(func() {
			if err := k.Run(ctx, h); err != nil {
				cancel(err)
			}
		})
	}
	err := func() error {
		for _, k := range ks {
			if err := k.Ready(ctx); err != nil {
				return err
			}
		}
		return f(ctx)
	}()
	cancel(nil)
	wg.Wait()
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// idle counts the commands of consumers that have nothing to do, and times
// messages that come to them.
func (c *Config) idle(ctx context.Context, b *broker, tell func(Row) error) error {
	var woken []Row
	for _, consumers := range c.Consumers {
		for _, queues := range c.IdleQueues {
			at := fmt.Sprintf("%d × %d queues", consumers, queues)
			commands, which, took, err := c.idleOnce(ctx, b, consumers, names(queues))
			if err != nil {
				return fmt.Errorf("idle, %s: %w", at, err)
			}
			if b.ask != nil {
				if err := tell(Row{Table: "idle consumers", Broker: b.name, At: at, Value: commands, Unit: "commands/s", Limit: 5, Note: which}); err != nil {
					return err
				}
			}
			slices.Sort(took)
			micros := func(d time.Duration) float64 { return float64(d.Nanoseconds()) / 1e3 }
			woken = append(woken, Row{Table: "a message to idle consumers", Broker: b.name, At: at, Value: micros(took[len(took)/2]), Unit: "p50 µs",
				Note: fmt.Sprintf("p99 %.0f µs", micros(took[len(took)*99/100]))})
			if err := b.clean(ctx); err != nil {
				return err
			}
		}
	}
	for _, r := range woken {
		if err := tell(r); err != nil {
			return err
		}
	}
	return nil
}

// idleOnce counts first, then another connection publishes, one at a time.
func (c *Config) idleOnce(ctx context.Context, b *broker, consumers int, queues []string) (commands float64, which string, took []time.Duration, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		if err := b.declared(ctx, conn, queues); err != nil {
			return err
		}
		began := time.Now()
		handled := make(chan time.Duration, 1)
		handler := func(_ context.Context, d *gombu.Delivery) error {
			handled <- time.Since(began) - time.Duration(binary.BigEndian.Uint64(d.Body))
			return nil
		}
		ks := make([]*gombu.Consumer, consumers)
		for i := range ks {
			ks[i] = conn.Consumer(gombu.ConsumerConfig{Queues: queues})
		}
		return consuming(ctx, ks, handler, func(ctx context.Context) error {
			if b.ask != nil {
				if commands, which, err = c.commandsASecond(ctx, b); err != nil {
					return err
				}
			}
			other := conn // in memory nobody else reaches it
			if b.s != nil {
				if other, err = b.open(); err != nil {
					return err
				}
				defer func() { _ = other.Close() }() // it has published what it had to
			}
			took, err = c.wakes(ctx, other, queues, began, handled)
			return err
		})
	})
	return commands, which, took, err
}

// commandsASecond returns how many commands there are a second, and of which
// there are most.
func (c *Config) commandsASecond(ctx context.Context, b *broker) (float64, string, error) {
	if err := pause(ctx, time.Second); err != nil { // until all of them sleep
		return 0, "", err
	}
	from, err := b.commands(ctx)
	if err != nil {
		return 0, "", err
	}
	start := time.Now()
	if err := pause(ctx, c.Watch); err != nil {
		return 0, "", err
	}
	to, err := b.commands(ctx)
	span := time.Since(start).Seconds()
	sum, which := 0, []string{}
	for _, name := range slices.SortedFunc(maps.Keys(to), func(x, y string) int { return (to[y] - from[y]) - (to[x] - from[x]) }) {
		n := to[name] - from[name]
		if sum += n; n > 0 {
			which = append(which, fmt.Sprintf("%s %.1f", name, float64(n)/span))
		}
	}
	return float64(sum) / span, strings.Join(which, ", "), err
}

func (c *Config) wakes(ctx context.Context, conn *gombu.Conn, queues []string, began time.Time, handled <-chan time.Duration) ([]time.Duration, error) {
	p := conn.Producer(nil)
	var took []time.Duration
	for i := range c.Wakes + 5 { // the first ones connect
		m := &gombu.Message{Queue: queues[i*7%len(queues)], Body: binary.BigEndian.AppendUint64(nil, uint64(time.Since(began)))}
		if err := p.Publish(ctx, m); err != nil {
			return nil, err
		}
		select {
		case d := <-handled:
			if i >= 5 {
				took = append(took, d)
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil { // they sleep again
			return nil, err
		}
	}
	return took, nil
}

package growth

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/bench/contender"
)

const (
	body  = 256 // bytes, where size is not what grows
	batch = 100
)

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("growth-%d", i)
	}
	return all
}

func declared(ctx context.Context, conn *gombu.Conn, queues []string) error {
	var t gombu.Topology
	for _, q := range queues {
		t.Queues = append(t.Queues, gombu.Queue{Name: q})
	}
	return conn.Declare(ctx, t)
}

// with does f on a connection of its own.
func (b *broker) with(f func(*gombu.Conn) error) error {
	conn, err := b.open()
	if err != nil {
		return err
	}
	return errors.Join(f(conn), conn.Close())
}

// publishing publishes n messages in batches; to says where the i-th goes.
func publishing(ctx context.Context, conn *gombu.Conn, n int, to func(i int) gombu.Message, flow func() bool) error {
	p := conn.Producer(nil)
	ms := make([]*gombu.Message, 0, batch)
	for i := 0; i < n; {
		ms = ms[:0]
		for len(ms) < batch && i < n {
			if flow != nil && !flow() {
				return nil
			}
			m := to(i)
			ms = append(ms, &m)
			i++
		}
		if err := p.PublishBatch(ctx, ms, nil); err != nil {
			return err
		}
	}
	return nil
}

func toQueues(queues []string, payload []byte) func(int) gombu.Message {
	return func(i int) gombu.Message { return gombu.Message{Queue: queues[i%len(queues)], Body: payload} }
}

func (b *broker) meter(n int) *contender.Meter {
	return contender.NewMeter(contender.Job{Work: contender.EndToEnd, Messages: n, ServerPIDs: b.pids()})
}

// endToEnd publishes n messages while a consumer handles n.
func (b *broker) endToEnd(ctx context.Context, conn *gombu.Conn, n int, queues []string, to func(int) gombu.Message) (contender.Figures, error) {
	m, flow := b.meter(n), contender.NewFlow()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	k := conn.Consumer(gombu.ConsumerConfig{Queues: queues, Prefetch: 100})
	over := make(chan error, 2)
	var wg sync.WaitGroup
	wg.Go(func() {
		over <- k.Run(ctx, func(context.Context, *gombu.Delivery) error {
			flow.Done(1)
			m.Add(1)
			return nil
		})
	})
	err := k.Ready(ctx)
	if err == nil {
		err = m.Start()
	}
	if err == nil {
		wg.Go(func() {
			if err := publishing(ctx, conn, n, to, func() bool { return flow.Take(m) }); err != nil {
				over <- err
			}
		})
		select {
		case <-m.Finished():
			err = m.Stop()
		case err = <-over:
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
	}
	m.Add(n) // whoever waits for the consumer goes home
	cancel()
	wg.Wait()
	return m.Figures(), err
}

func manyQueues(ctx context.Context, b *broker, x, n int) (f contender.Figures, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		queues := names(x)
		if err := declared(ctx, conn, queues); err != nil {
			return err
		}
		f, err = b.endToEnd(ctx, conn, n, queues, toQueues(queues, make([]byte, body)))
		return err
	})
	return f, err
}

// measured publishes n messages that nobody consumes.
func (b *broker) measured(ctx context.Context, conn *gombu.Conn, n int, to func(int) gombu.Message) (contender.Figures, error) {
	if err := publishing(ctx, conn, batch, to, nil); err != nil { // the first ones connect
		return contender.Figures{}, err
	}
	m := b.meter(n)
	if err := m.Start(); err != nil {
		return contender.Figures{}, err
	}
	if err := publishing(ctx, conn, n, to, nil); err != nil {
		return contender.Figures{}, err
	}
	m.Add(n)
	err := m.Stop()
	return m.Figures(), err
}

func manyQueuesPublish(ctx context.Context, b *broker, x, n int) (f contender.Figures, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		queues := names(x)
		if err := declared(ctx, conn, queues); err != nil {
			return err
		}
		f, err = b.measured(ctx, conn, n, toQueues(queues, make([]byte, body)))
		return err
	})
	return f, err
}

// manyBindings has x keys bound, to ten queues, and publishes to all of them in
// turn; each message reaches one queue.
func manyBindings(kind string) func(context.Context, *broker, int, int) (contender.Figures, error) {
	return func(ctx context.Context, b *broker, x, n int) (f contender.Figures, err error) {
		err = b.with(func(conn *gombu.Conn) error {
			t := gombu.Topology{Exchanges: []gombu.Exchange{{Name: "growth", Type: kind}}}
			queues := names(10)
			for _, q := range queues {
				t.Queues = append(t.Queues, gombu.Queue{Name: q})
			}
			keys := make([]string, x)
			for i := range keys {
				keys[i] = fmt.Sprintf("site%d.sensor", i)
				key := keys[i]
				if kind == gombu.Topic {
					key = fmt.Sprintf("site%d.*", i)
				}
				t.Bindings = append(t.Bindings, gombu.Binding{Exchange: "growth", Queue: queues[i%len(queues)], Key: key})
			}
			if err := conn.Declare(ctx, t); err != nil {
				return err
			}
			payload := make([]byte, body)
			f, err = b.measured(ctx, conn, n, func(i int) gombu.Message {
				return gombu.Message{Exchange: "growth", Key: keys[i%x], Body: payload}
			})
			return err
		})
		return f, err
	}
}

// manyPublishers publish one by one, at once.
func manyPublishers(ctx context.Context, b *broker, x, n int) (f contender.Figures, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		queues := names(1)
		if err := declared(ctx, conn, queues); err != nil {
			return err
		}
		p, to, m := conn.Producer(nil), toQueues(queues, make([]byte, body)), b.meter(n)
		if err := publishing(ctx, conn, 1, to, nil); err != nil {
			return err
		}
		if err := m.Start(); err != nil {
			return err
		}
		var wg sync.WaitGroup
		var next atomic.Int64
		errs := make([]error, x)
		for i := range errs {
			wg.Go(func() {
				for errs[i] == nil && next.Add(1) <= int64(n) {
					message := to(0)
					errs[i] = p.Publish(ctx, &message)
				}
			})
		}
		wg.Wait()
		m.Add(n)
		if err := m.Stop(); err != nil {
			return err
		}
		f = m.Figures()
		return errors.Join(errs...)
	})
	return f, err
}

// manyWaiting has x messages in the queue before, and as many afterwards.
func manyWaiting(ctx context.Context, b *broker, x, n int) (f contender.Figures, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		queues := names(1)
		if err := declared(ctx, conn, queues); err != nil {
			return err
		}
		to := toQueues(queues, make([]byte, body))
		if err := publishing(ctx, conn, x, to, nil); err != nil {
			return err
		}
		f, err = b.endToEnd(ctx, conn, n, queues, to)
		return err
	})
	return f, err
}

func manyBytes(ctx context.Context, b *broker, x, n int) (f contender.Figures, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		queues := names(1)
		if err := declared(ctx, conn, queues); err != nil {
			return err
		}
		f, err = b.endToEnd(ctx, conn, n, queues, toQueues(queues, make([]byte, x)))
		return err
	})
	return f, err
}

package growth

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/bench/contender"
)

const (
	body     = 256 // bytes, where size is not what grows
	batch    = 100
	underWay = 32 << 20 // bytes

	// retryLook is how long RabbitMQ takes to say that a queue has no retry queue.
	retryLook = 2 * time.Millisecond
)

func names(n int) []string {
	all := make([]string, n)
	for i := range all {
		all[i] = fmt.Sprintf("growth-%d", i)
	}
	return all
}

func (b *broker) declared(ctx context.Context, conn *gombu.Conn, queues []string) error {
	b.used = max(b.used, len(queues))
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

// publishing publishes in batches while more says so; to says where the i-th
// message goes, done is told of each batch. RabbitMQ is not to wait for its disk.
func (b *broker) publishing(ctx context.Context, conn *gombu.Conn, cfg *gombu.ProducerConfig, size int, to func(i int) gombu.Message, more func() bool, done func(int)) error {
	p := conn.Producer(cfg)
	ms := make([]*gombu.Message, 0, size)
	for i := 0; ; {
		for len(ms) < size && more() {
			m := to(i)
			if b.remote() {
				m.DeliveryMode = gombu.Transient
			}
			ms = append(ms, &m)
			i++
		}
		if len(ms) == 0 {
			return nil
		}
		if err := p.PublishBatch(ctx, ms, nil); err != nil {
			return err
		}
		done(len(ms))
		clear(ms)
		ms = ms[:0]
	}
}

// fill publishes n messages, to one queue.
func (b *broker) fill(ctx context.Context, conn *gombu.Conn, queue string, n int, to func(i int) gombu.Message) error {
	left := n
	more := func() bool { left--; return left >= 0 }
	if !b.remote() {
		return b.publishing(ctx, conn, nil, batch, to, more, func(int) {})
	}
	// Confirms would take longer than all that is measured.
	if err := b.publishing(ctx, conn, &gombu.ProducerConfig{NoConfirm: true}, batch, to, more, func(int) {}); err != nil {
		return err
	}
	for {
		if info, err := conn.Inspect(ctx, queue); err != nil || info.Ready >= n {
			return err
		}
		if err := pause(ctx, 10*time.Millisecond); err != nil {
			return err
		}
	}
}

func toQueues(queues []string, payload []byte) func(int) gombu.Message {
	return func(i int) gombu.Message { return gombu.Message{Queue: queues[i%len(queues)], Body: payload} }
}

// publish measures publishing what nobody consumes.
func (b *broker) publish(ctx context.Context, conn *gombu.Conn, length time.Duration, to func(int) gombu.Message) (contender.Figures, error) {
	return b.window(ctx, length, nil, func(ctx context.Context, m *contender.Meter) error {
		return b.publishing(ctx, conn, nil, batch, to, func() bool { return !m.Over() }, m.Add)
	})
}

// endToEnd measures publishing while a consumer handles, which is never further
// behind than ahead messages.
func (b *broker) endToEnd(ctx context.Context, conn *gombu.Conn, length time.Duration, ahead int, queues []string, to func(int) gombu.Message) (contender.Figures, error) {
	flow := contender.NewFlowOf(ahead)
	k := conn.Consumer(gombu.ConsumerConfig{Queues: queues, Prefetch: 100})
	consume := func(ctx context.Context, m *contender.Meter) error {
		return k.Run(ctx, func(context.Context, *gombu.Delivery) error {
			flow.Done(1)
			m.Add(1)
			return nil
		})
	}
	ready := func(ctx context.Context) error {
		if err := k.Ready(ctx); err != nil || !b.remote() {
			return err
		}
		return pause(ctx, time.Duration(len(queues))*retryLook) // a start, not a message
	}
	return b.window(ctx, length, ready, consume, func(ctx context.Context, m *contender.Meter) error {
		if err := k.Ready(ctx); err != nil {
			return err
		}
		return b.publishing(ctx, conn, nil, max(1, ahead*batch/contender.Backlog), to, func() bool { return flow.Take(m) }, func(int) {})
	})
}

func manyQueues(ctx context.Context, b *broker, x int, length time.Duration) (f contender.Figures, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		queues := names(x)
		if err := b.declared(ctx, conn, queues); err != nil {
			return err
		}
		f, err = b.endToEnd(ctx, conn, length, contender.Backlog, queues, toQueues(queues, make([]byte, body)))
		return err
	})
	return f, err
}

func manyQueuesPublish(ctx context.Context, b *broker, x int, length time.Duration) (f contender.Figures, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		queues := names(x)
		if err := b.declared(ctx, conn, queues); err != nil {
			return err
		}
		f, err = b.publish(ctx, conn, length, toQueues(queues, make([]byte, body)))
		return err
	})
	return f, err
}

// manyBindings has x keys bound, to one queue, and publishes to all of them in
// turn. What several queues cost has a curve of its own.
func manyBindings(kind string) func(context.Context, *broker, int, time.Duration) (contender.Figures, error) {
	return func(ctx context.Context, b *broker, x int, length time.Duration) (f contender.Figures, err error) {
		err = b.with(func(conn *gombu.Conn) error {
			t := gombu.Topology{Exchanges: []gombu.Exchange{{Name: "growth", Type: kind}}}
			queue := names(1)[0]
			b.used = max(b.used, 1)
			t.Queues = []gombu.Queue{{Name: queue}}
			keys := make([]string, x)
			for i := range keys {
				keys[i] = fmt.Sprintf("site%d.sensor", i)
				key := keys[i]
				if kind == gombu.Topic {
					key = fmt.Sprintf("site%d.*", i)
				}
				t.Bindings = append(t.Bindings, gombu.Binding{Exchange: "growth", Queue: queue, Key: key})
			}
			if err := conn.Declare(ctx, t); err != nil {
				return err
			}
			payload := make([]byte, body)
			f, err = b.publish(ctx, conn, length, func(i int) gombu.Message {
				return gombu.Message{Exchange: "growth", Key: keys[i%x], Body: payload}
			})
			return err
		})
		return f, err
	}
}

// manyPublishers publish one by one, at once.
func manyPublishers(ctx context.Context, b *broker, x int, length time.Duration) (f contender.Figures, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		queues := names(1)
		if err := b.declared(ctx, conn, queues); err != nil {
			return err
		}
		p, to := conn.Producer(nil), toQueues(queues, make([]byte, body))
		tasks := make([]task, x)
		for i := range tasks {
			tasks[i] = func(ctx context.Context, m *contender.Meter) error {
				for !m.Over() {
					message := to(0)
					message.DeliveryMode = gombu.Transient
					if err := p.Publish(ctx, &message); err != nil {
						return err
					}
					m.Add(1)
				}
				return nil
			}
		}
		f, err = b.window(ctx, length, nil, tasks...)
		return err
	})
	return f, err
}

// manyWaiting has x messages in the queue before, and as many afterwards.
func manyWaiting(ctx context.Context, b *broker, x int, length time.Duration) (f contender.Figures, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		queues := names(1)
		if err := b.declared(ctx, conn, queues); err != nil {
			return err
		}
		to := toQueues(queues, make([]byte, body))
		if err := b.fill(ctx, conn, queues[0], x, to); err != nil {
			return err
		}
		f, err = b.endToEnd(ctx, conn, length, contender.Backlog, queues, to)
		return err
	})
	return f, err
}

// manyBytes keeps no more than some MB under way.
func manyBytes(ctx context.Context, b *broker, x int, length time.Duration) (f contender.Figures, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		queues := names(1)
		if err := b.declared(ctx, conn, queues); err != nil {
			return err
		}
		ahead := min(contender.Backlog, max(20, underWay/x))
		f, err = b.endToEnd(ctx, conn, length, ahead, queues, toQueues(queues, make([]byte, x)))
		return err
	})
	return f, err
}

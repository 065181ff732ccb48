package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gombu/gombu/bench/contender"
)

// raw is github.com/rabbitmq/amqp091-go as its own examples use it: a connection
// to publish and one to consume, a confirm for each message, an ack for each
// delivery.
var raw = client{name: "raw", publisher: newRawPublisher, consumer: newRawConsumer}

type rawPublisher struct {
	job      *contender.Job
	conn     *amqp.Connection
	ch       *amqp.Channel
	window   confirmWindow
	returned sync.WaitGroup
}

func newRawPublisher(_ context.Context, job *contender.Job) (publisher, error) {
	c, err := amqp.Dial(job.URL)
	if err != nil {
		return nil, err
	}
	p := &rawPublisher{job: job, conn: c, window: confirmWindow{size: job.Window}}
	if p.ch, err = c.Channel(); err != nil {
		return nil, err
	}
	if !job.Confirm {
		return p, nil
	}
	returns := p.ch.NotifyReturn(make(chan amqp.Return, 16))
	p.returned.Go(func() {
		for range returns { // the queue is there: none comes
		}
	})
	return p, p.ch.Confirm(false)
}

func (p *rawPublisher) send(ctx context.Context, body []byte) error {
	m := amqp.Publishing{ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: amqp.Transient, Body: body}
	if !p.job.Confirm {
		return p.ch.PublishWithContext(ctx, "", p.job.Queues[0], false, false, m)
	}
	m.DeliveryMode = amqp.Persistent
	d, err := p.ch.PublishWithDeferredConfirmWithContext(ctx, "", p.job.Queues[0], true, false, m)
	if err != nil {
		return err
	}
	return p.window.add(ctx, d)
}

func (p *rawPublisher) flush(ctx context.Context) error { return p.window.drain(ctx) }

func (p *rawPublisher) close() error {
	err := p.conn.Close()
	p.returned.Wait()
	return err
}

// A confirmWindow is the confirms of one goroutine that are to come, oldest first.
type confirmWindow struct {
	size int
	ring []*amqp.DeferredConfirmation
	next int
}

// add takes one more and waits for the oldest when there is no room; with a
// size of 1 for this one.
func (w *confirmWindow) add(ctx context.Context, d *amqp.DeferredConfirmation) error {
	if w.size <= 1 {
		return confirmed(ctx, d)
	}
	if len(w.ring) < w.size {
		w.ring = append(w.ring, d)
		return nil
	}
	oldest := w.ring[w.next]
	w.ring[w.next] = d
	w.next = (w.next + 1) % w.size
	return confirmed(ctx, oldest)
}

func (w *confirmWindow) drain(ctx context.Context) error {
	for _, d := range w.ring {
		if err := confirmed(ctx, d); err != nil {
			return err
		}
	}
	w.ring, w.next = nil, 0
	return nil
}

func confirmed(ctx context.Context, d *amqp.DeferredConfirmation) error {
	ok, err := d.WaitContext(ctx)
	if err == nil && !ok {
		err = fmt.Errorf("message %d was refused", d.DeliveryTag)
	}
	return err
}

// A rawConsumer has a channel and a goroutine for each queue.
type rawConsumer struct {
	job  *contender.Job
	conn *amqp.Connection
	chs  []*amqp.Channel
	wg   sync.WaitGroup
	errs chan error // of the loops
}

func newRawConsumer(_ context.Context, job *contender.Job) (consumer, error) {
	c, err := amqp.Dial(job.URL)
	if err != nil {
		return nil, err
	}
	k := &rawConsumer{job: job, conn: c, errs: make(chan error, len(job.Queues))}
	for range job.Queues {
		ch, err := c.Channel()
		if err != nil {
			return nil, err
		}
		if err := ch.Qos(job.Prefetch, 0, false); err != nil {
			return nil, err
		}
		k.chs = append(k.chs, ch)
	}
	return k, nil
}

func (k *rawConsumer) start(_ context.Context, handle func([]byte) error) error {
	for i, ch := range k.chs {
		deliveries, err := ch.Consume(k.job.Queues[i], "", false, false, false, false, nil)
		if err != nil {
			return err
		}
		k.wg.Go(func() { k.errs <- consumeRaw(deliveries, handle) })
	}
	return nil
}

func consumeRaw(deliveries <-chan amqp.Delivery, handle func([]byte) error) error {
	for d := range deliveries {
		if err := handle(d.Body); err != nil {
			return err
		}
		if err := d.Ack(false); err != nil {
			if errors.Is(err, amqp.ErrClosed) {
				return nil
			}
			return err
		}
	}
	return nil
}

func (k *rawConsumer) close() error {
	errs := []error{k.conn.Close()}
	k.wg.Wait()
	close(k.errs)
	for err := range k.errs {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

package rabbitmq

import (
	"context"
	"errors"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	wamqp "github.com/ThreeDotsLabs/watermill-amqp/v3/pkg/amqp"
	"github.com/ThreeDotsLabs/watermill/message"

	"github.com/gombu/gombu/bench/contender"
)

// watermillAMQP is github.com/ThreeDotsLabs/watermill with its durable queues.
// It confirms one by one, whatever the window.
var watermillAMQP = client{name: "watermill-amqp", publisher: newWatermillPublisher, consumer: newWatermillConsumer}

type watermillPublisher struct {
	job *contender.Job
	p   *wamqp.Publisher
}

func newWatermillPublisher(_ context.Context, job *contender.Job) (publisher, error) {
	cfg := wamqp.NewDurableQueueConfig(job.URL)
	cfg.Marshaler = wamqp.DefaultMarshaler{NotPersistentDeliveryMode: !job.Confirm}
	cfg.Publish.ConfirmDelivery, cfg.Publish.Mandatory = job.Confirm, job.Confirm
	cfg.Publish.ChannelPoolSize = 1
	p, err := wamqp.NewPublisher(cfg, watermill.NopLogger{})
	return &watermillPublisher{job: job, p: p}, err
}

func (p *watermillPublisher) send(_ context.Context, body []byte) error {
	return p.p.Publish(p.job.Queues[0], message.NewMessage(watermill.NewUUID(), body))
}

func (p *watermillPublisher) flush(context.Context) error { return nil }
func (p *watermillPublisher) close() error                { return p.p.Close() }

type watermillConsumer struct {
	job    *contender.Job
	s      *wamqp.Subscriber
	cancel context.CancelFunc
	wg     sync.WaitGroup
	err    error // of the handler
}

func newWatermillConsumer(_ context.Context, job *contender.Job) (consumer, error) {
	cfg := wamqp.NewDurableQueueConfig(job.URL)
	cfg.Consume.Qos.PrefetchCount = job.Prefetch
	s, err := wamqp.NewSubscriber(cfg, watermill.NopLogger{})
	return &watermillConsumer{job: job, s: s}, err
}

func (k *watermillConsumer) start(ctx context.Context, handle func([]byte) error) error {
	ctx, k.cancel = context.WithCancel(ctx)
	messages, err := k.s.Subscribe(ctx, k.job.Queues[0])
	if err != nil {
		return err
	}
	k.wg.Go(func() {
		for m := range messages {
			if k.err == nil {
				k.err = handle(m.Payload)
			}
			m.Ack()
		}
	})
	return nil
}

func (k *watermillConsumer) close() error {
	k.cancel()
	err := k.s.Close()
	k.wg.Wait()
	return errors.Join(k.err, err)
}

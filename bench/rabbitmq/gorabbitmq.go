package rabbitmq

import (
	"context"
	"sync"

	gorabbitmq "github.com/wagslane/go-rabbitmq"

	"github.com/gombu/gombu/bench/contender"
)

// goRabbitMQ is github.com/wagslane/go-rabbitmq.
var goRabbitMQ = client{name: "go-rabbitmq", publisher: newGoPublisher, consumer: newGoConsumer}

// silent is a logger that says nothing.
type silent struct{}

func (silent) Fatalf(string, ...any) {}
func (silent) Errorf(string, ...any) {}
func (silent) Warnf(string, ...any)  {}
func (silent) Infof(string, ...any)  {}
func (silent) Debugf(string, ...any) {}

type goPublisher struct {
	job     *contender.Job
	conn    *gorabbitmq.Conn
	p       *gorabbitmq.Publisher
	options []func(*gorabbitmq.PublishOptions)
	window  confirmWindow
}

func newGoPublisher(_ context.Context, job *contender.Job) (publisher, error) {
	c, err := gorabbitmq.NewConn(job.URL, gorabbitmq.WithConnectionOptionsLogger(silent{}))
	if err != nil {
		return nil, err
	}
	p := &goPublisher{job: job, conn: c, window: confirmWindow{size: job.Window}, options: []func(*gorabbitmq.PublishOptions){
		gorabbitmq.WithPublishOptionsContentType("application/json"), gorabbitmq.WithPublishOptionsContentEncoding("utf-8"),
	}}
	options := []func(*gorabbitmq.PublisherOptions){gorabbitmq.WithPublisherOptionsLogger(silent{})}
	if job.Confirm {
		options = append(options, gorabbitmq.WithPublisherOptionsConfirm)
		p.options = append(p.options, gorabbitmq.WithPublishOptionsPersistentDelivery, gorabbitmq.WithPublishOptionsMandatory)
	}
	if p.p, err = gorabbitmq.NewPublisher(c, options...); err != nil {
		return nil, err
	}
	if job.Confirm {
		p.p.NotifyReturn(func(gorabbitmq.Return) {}) // the queue is there: none comes
	}
	return p, nil
}

func (p *goPublisher) send(ctx context.Context, body []byte) error {
	if !p.job.Confirm {
		return p.p.PublishWithContext(ctx, body, p.job.Queues, p.options...)
	}
	confirms, err := p.p.PublishWithDeferredConfirmWithContext(ctx, body, p.job.Queues, p.options...)
	if err != nil {
		return err
	}
	return p.window.add(ctx, confirms[0])
}

func (p *goPublisher) flush(ctx context.Context) error { return p.window.drain(ctx) }

func (p *goPublisher) close() error {
	p.p.Close()
	return p.conn.Close()
}

type goConsumer struct {
	conn *gorabbitmq.Conn
	k    *gorabbitmq.Consumer
	wg   sync.WaitGroup
	err  error // of Run
}

func newGoConsumer(_ context.Context, job *contender.Job) (consumer, error) {
	c, err := gorabbitmq.NewConn(job.URL, gorabbitmq.WithConnectionOptionsLogger(silent{}))
	if err != nil {
		return nil, err
	}
	k, err := gorabbitmq.NewConsumer(c, job.Queues[0],
		gorabbitmq.WithConsumerOptionsLogger(silent{}), gorabbitmq.WithConsumerOptionsQueueDurable,
		gorabbitmq.WithConsumerOptionsQOSPrefetch(job.Prefetch))
	return &goConsumer{conn: c, k: k}, err
}

func (k *goConsumer) start(_ context.Context, handle func([]byte) error) error {
	k.wg.Go(func() {
		k.err = k.k.Run(func(d gorabbitmq.Delivery) gorabbitmq.Action {
			if handle(d.Body) != nil {
				return gorabbitmq.NackDiscard
			}
			return gorabbitmq.Ack
		})
	})
	return nil
}

func (k *goConsumer) close() error {
	k.k.Close()
	_ = k.conn.Close() // it may have acknowledged on the channel that it closed before: the broker complains
	k.wg.Wait()
	return k.err
}

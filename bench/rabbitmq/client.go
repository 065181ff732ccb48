package rabbitmq

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gombu/gombu/bench/contender"
)

// A publisher sends bodies to the job's queue, as the job says. One goroutine
// uses it.
type publisher interface {
	// send returns when the message is on its way, or confirmed when the window
	// is 1; with a larger window it waits for room.
	send(ctx context.Context, body []byte) error
	// flush waits for the confirms to come.
	flush(ctx context.Context) error
	close() error
}

// A consumer takes bodies from the job's queue and acknowledges each.
type consumer interface {
	// start subscribes, and from then on hands out bodies, one at a time.
	start(ctx context.Context, handle func(body []byte) error) error
	close() error
}

// A client is a library, connected for a job.
type client struct {
	name      string
	publisher func(ctx context.Context, job *contender.Job) (publisher, error)
	consumer  func(ctx context.Context, job *contender.Job) (consumer, error)
}

// contender is c with encoding/json, at work.
func (c client) contender() contender.Contender {
	return contender.Contender{Name: c.name, Run: func(ctx context.Context, job contender.Job, m *contender.Meter) error {
		if err := declare(&job); err != nil {
			return err
		}
		w := &work{client: &c, job: &job, m: m, body: contender.NewBody(job.Size), raw: contender.JSON(job.Size), failed: make(chan error, 2)}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		switch job.Work {
		case contender.Publish:
			return w.publish(ctx)
		case contender.Consume:
			return w.consume(ctx)
		case contender.EndToEnd, contender.Latency:
			return w.both(ctx)
		case contender.Idle:
			return w.idle(ctx)
		default:
			return fmt.Errorf("%s does not do %q", c.name, job.Work)
		}
	}}
}

// declare makes the queues as Gombu and Kombu do.
func declare(job *contender.Job) error {
	c, err := amqp.Dial(job.URL)
	if err != nil {
		return err
	}
	ch, err := c.Channel()
	for i := 0; err == nil && i < len(job.Queues); i++ {
		_, err = ch.QueueDeclare(job.Queues[i], true, false, false, false, nil)
	}
	return errors.Join(err, c.Close())
}

// A work is one job of a client's.
type work struct {
	client *client
	job    *contender.Job
	m      *contender.Meter
	flow   *contender.Flow // of EndToEnd
	body   contender.Body
	raw    []byte
	failed chan error
}

func (w *work) publish(ctx context.Context) error {
	p, err := w.client.publisher(ctx, w.job)
	if err != nil {
		return err
	}
	if err := w.m.Start(); err != nil {
		return err
	}
	for n := 0; !w.m.Over(); n++ {
		if err := w.send(ctx, p, n); err != nil {
			return err
		}
		w.m.Add(1)
	}
	return errors.Join(p.flush(ctx), w.m.Stop(), p.close())
}

// send encodes the n-th message and sends it.
func (w *work) send(ctx context.Context, p publisher, n int) error {
	if w.job.Raw {
		return p.send(ctx, w.raw)
	}
	body := w.body
	body.Seq = int64(n)
	if w.job.Work == contender.Latency {
		body.Sent = time.Now().UnixNano()
	}
	text, err := json.Marshal(body)
	if err != nil {
		return err
	}
	return p.send(ctx, text)
}

func (w *work) consume(ctx context.Context) error {
	k, err := w.client.consumer(ctx, w.job)
	if err != nil {
		return err
	}
	if err := w.m.Start(); err != nil {
		return err
	}
	if err := k.start(ctx, w.handle); err != nil {
		return err
	}
	return errors.Join(w.await(ctx), w.m.Stop(), k.close())
}

// handle decodes a body.
func (w *work) handle(text []byte) error {
	if !w.job.Raw {
		var body contender.Body
		if err := json.Unmarshal(text, &body); err != nil {
			w.fail(err)
			return err
		}
		if w.job.Work == contender.Latency {
			w.m.Took(time.Duration(time.Now().UnixNano() - body.Sent))
		}
	}
	if w.flow != nil {
		w.flow.Done(1)
	}
	w.m.Add(1)
	return nil
}

func (w *work) fail(err error) {
	select {
	case w.failed <- err:
	default: // one is enough
	}
}

func (w *work) await(ctx context.Context) error {
	select {
	case <-w.m.Finished():
		return nil
	case err := <-w.failed:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// idle has consumers for which nothing comes.
func (w *work) idle(ctx context.Context) error {
	k, err := w.client.consumer(ctx, w.job)
	if err != nil {
		return err
	}
	if err := k.start(ctx, w.handle); err != nil {
		return err
	}
	if err := w.m.Start(); err != nil {
		return err
	}
	return errors.Join(w.await(ctx), w.m.Stop(), k.close())
}

// both publishes and consumes at once, at a rate when the job has one.
func (w *work) both(ctx context.Context) error {
	p, err := w.client.publisher(ctx, w.job)
	if err != nil {
		return err
	}
	k, err := w.client.consumer(ctx, w.job)
	if err != nil {
		return err
	}
	send := w.paced
	if w.job.Work == contender.EndToEnd {
		w.flow, send = contender.NewFlow(), w.flowing
	}
	if err := k.start(ctx, w.handle); err != nil {
		return err
	}
	if err := w.standing(ctx); err != nil {
		return err
	}
	if err := w.m.Start(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := send(ctx, p); err != nil {
			w.fail(err)
		}
	})
	err = errors.Join(w.await(ctx), w.m.Stop())
	wg.Wait()
	return errors.Join(err, p.close(), k.close())
}

// standing waits until the broker knows of the consumer: not every library says.
func (w *work) standing(ctx context.Context) error {
	c, err := amqp.Dial(w.job.URL)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // it was only asked
	ch, err := c.Channel()
	if err != nil {
		return err
	}
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for {
		q, err := ch.QueueDeclarePassive(w.job.Queues[0], true, false, false, false, nil)
		if err != nil || q.Consumers > 0 {
			return err
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func (w *work) flowing(ctx context.Context, p publisher) error {
	for n := 0; w.flow.Take(w.m); n++ {
		if err := w.send(ctx, p, n); err != nil {
			return err
		}
	}
	return p.flush(ctx)
}

func (w *work) paced(ctx context.Context, p publisher) error {
	tick := time.NewTicker(time.Second / time.Duration(w.job.Rate))
	defer tick.Stop()
	for n := 0; !w.m.Over(); n++ {
		select {
		case <-tick.C:
		case <-w.m.Finished():
			return p.flush(ctx)
		}
		if err := w.send(ctx, p, n); err != nil {
			return err
		}
	}
	return p.flush(ctx)
}

package ours

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu"

	"github.com/gombu/gombu/bench/contender"
)

// publish publishes for the time of the job, from as many goroutines as it says.
func (b *bench) publish(ctx context.Context) error {
	p := b.producer()
	// The first one connects.
	first := b.message(0)
	if err := p.Publish(ctx, &first); err != nil {
		return err
	}
	if err := b.m.Start(); err != nil {
		return err
	}
	err := b.callers(ctx, p, nil)
	if err == nil {
		err = p.Flush(ctx)
	}
	return errors.Join(err, b.m.Stop())
}

// callers publishes until the meter is over. With a flow, its consumers count.
func (b *bench) callers(ctx context.Context, p *gombu.Producer, flow *contender.Flow) error {
	var wg sync.WaitGroup
	var seq atomic.Int64
	errs := make([]error, max(b.job.Callers, 1))
	for i := range errs {
		wg.Go(func() { errs[i] = b.caller(ctx, p, flow, &seq, len(errs)) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (b *bench) caller(ctx context.Context, p *gombu.Producer, flow *contender.Flow, seq *atomic.Int64, callers int) error {
	w := window{ctx: ctx, size: b.job.Window / callers}
	switch {
	case !b.job.Confirm:
		w.size = fireWindow / callers // nobody waits for a broker: only for the write
	case w.size == 0 && callers == 1:
		w.size = 1
	}
	if flow == nil {
		w.done = b.m.Add
	}
	publish := func() error { return b.single(ctx, p, flow, seq, &w) }
	if b.job.Batch > 0 {
		publish = func() error { return b.batch(ctx, p, flow, seq, &w) }
	}
	for !b.m.Over() {
		if err := publish(); err != nil {
			return err
		}
	}
	return w.drain()
}

// single publishes one message, if the flow lets it.
func (b *bench) single(ctx context.Context, p *gombu.Producer, flow *contender.Flow, seq *atomic.Int64, w *window) error {
	if flow != nil && !flow.Take(b.m) {
		return nil
	}
	m := b.message(int(seq.Add(1)))
	if w.size > 1 {
		return w.add(p.PublishAsync(ctx, &m))
	}
	err := p.Publish(ctx, &m)
	if w.done != nil {
		w.done(1)
	}
	return err
}

// batch publishes a batch, as large as the flow lets it.
func (b *bench) batch(ctx context.Context, p *gombu.Producer, flow *contender.Flow, seq *atomic.Int64, w *window) error {
	var ms []*gombu.Message
	for len(ms) < b.job.Batch && (flow == nil || flow.Take(b.m)) {
		m := b.message(int(seq.Add(1)))
		ms = append(ms, &m)
	}
	if len(ms) == 0 {
		return nil
	}
	err := p.PublishBatch(ctx, ms, nil)
	if w.done != nil {
		w.done(len(ms))
	}
	return err
}

// fireWindow is how many messages that nobody confirms a caller hands over
// before it asks what became of the first of them.
const fireWindow = 1000

// A window is the publishes of one goroutine without an outcome, oldest first.
type window struct {
	ctx  context.Context
	size int
	done func(int) // told of each outcome
	ring []*gombu.Pending
	next int
}

// add takes what PublishAsync returned, and waits for the oldest when it is full.
func (w *window) add(p *gombu.Pending, err error) error {
	if err != nil {
		return err
	}
	if len(w.ring) < w.size {
		w.ring = append(w.ring, p)
		return nil
	}
	oldest := w.ring[w.next]
	w.ring[w.next] = p
	w.next = (w.next + 1) % w.size
	return w.wait(oldest)
}

func (w *window) wait(p *gombu.Pending) error {
	err := p.Wait(w.ctx)
	if err == nil && w.done != nil {
		w.done(1)
	}
	return err
}

// drain waits for all that is left.
func (w *window) drain() error {
	var errs []error
	for i := range w.ring {
		errs = append(errs, w.wait(w.ring[(w.next+i)%len(w.ring)]))
	}
	w.ring, w.next = nil, 0
	return errors.Join(errs...)
}

// endToEnd publishes and consumes at once.
func (b *bench) endToEnd(ctx context.Context) error {
	p, flow := b.producer(), contender.NewFlow()
	if err := b.warm(ctx); err != nil {
		return err
	}
	handle := func(d *gombu.Delivery) error {
		if err := b.handle(d); err != nil {
			return err
		}
		flow.Done(1)
		return nil
	}
	return b.consuming(ctx, true, handle, func(ctx context.Context) error {
		return ignoreEnd(ctx, b.callers(ctx, p, flow))
	})
}

// warm makes the connection that publishes, with a message that nobody counts.
func (b *bench) warm(ctx context.Context) error {
	m := b.message(0)
	if err := b.conn.Producer(nil).Publish(ctx, &m); err != nil {
		return err
	}
	_, err := b.conn.Purge(ctx, b.queue(0))
	return err
}

// latency publishes at the job's rate and consumes.
func (b *bench) latency(ctx context.Context) error {
	p := b.producer()
	if err := b.warm(ctx); err != nil {
		return err
	}
	return b.consuming(ctx, true, nil, func(ctx context.Context) error {
		tick := time.NewTicker(time.Second / time.Duration(b.job.Rate))
		defer tick.Stop()
		for n := 0; ; n++ {
			select {
			case <-tick.C:
			case <-b.m.Finished():
				return nil
			case <-ctx.Done():
				return nil
			}
			m := b.message(n)
			if err := p.Publish(ctx, &m); err != nil {
				return ignoreEnd(ctx, err)
			}
		}
	})
}

// ignoreEnd is err, unless ctx ended: the measuring is over then.
func ignoreEnd(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

package bench

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu"
)

// publish has all producers publish for a time, or until the queue has what it
// may hold; 0: until then. It returns when every outcome is known.
func (b *bench) publish(ctx context.Context, length time.Duration) (time.Duration, error) {
	p := b.conn.Producer(&gombu.ProducerConfig{NoConfirm: b.cfg.Unsafe})
	start := time.Now()
	var end time.Time
	if length > 0 {
		end = start.Add(length)
	}
	var left atomic.Int64 // messages that may still be published
	left.Store(int64(b.cfg.Messages))
	if b.work == EndToEnd || b.work == Latency {
		left.Store(1 << 62)
	}
	producers := b.cfg.Producers
	if b.work == Latency {
		producers = 1
	}
	errs := make([]error, producers)
	var wg sync.WaitGroup
	for i := range producers {
		wg.Go(func() { errs[i] = b.produce(ctx, p, end, &left) })
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return time.Since(start), nil
}

// produce is one producer.
func (b *bench) produce(ctx context.Context, p *gombu.Producer, end time.Time, left *atomic.Int64) error {
	window := make([]*gombu.Pending, 0, b.cfg.Window)
	next := 0 // the oldest of window, once that is full
	settle := func(w *gombu.Pending) {
		if err := w.Wait(ctx); err != nil {
			b.failed.Add(1)
			b.mu.Lock()
			b.last = err
			b.mu.Unlock()
			return
		}
		b.published.Add(1)
	}
	var tick <-chan time.Time
	if b.work == Latency {
		t := time.NewTicker(time.Second / time.Duration(b.cfg.Rate))
		defer t.Stop()
		tick = t.C
	}
	for ctx.Err() == nil && left.Add(-1) >= 0 && (end.IsZero() || time.Now().Before(end)) {
		if tick != nil {
			select {
			case <-tick:
			case <-ctx.Done():
				continue
			}
		}
		if !b.belowLimit(ctx) {
			continue
		}
		w, err := p.PublishAsync(ctx, b.message())
		if err != nil {
			return err
		}
		if len(window) < cap(window) {
			window = append(window, w)
			continue
		}
		settle(window[next])
		window[next] = w
		next = (next + 1) % len(window)
	}
	for i := range window {
		settle(window[(next+i)%len(window)])
	}
	return ctx.Err()
}

// belowLimit waits until the queue holds fewer messages than it may; false when
// ctx ends first.
func (b *bench) belowLimit(ctx context.Context) bool {
	if b.work == Publish || b.work == Consume || b.published.Load()-b.consumed.Load() < int64(b.cfg.Messages) {
		return true // what these publish is counted
	}
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for b.published.Load()-b.consumed.Load() >= int64(b.cfg.Messages) {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// stamp is the time at which a message was published, in front of its body.
const stamp = 8

func (b *bench) message() *gombu.Message {
	body := bytes.Repeat([]byte("gombu"), b.cfg.Size/5+1)[:b.cfg.Size]
	if len(body) >= stamp {
		binary.BigEndian.PutUint64(body, uint64(time.Now().UnixNano()))
	}
	m := &gombu.Message{Queue: b.queue, Body: body}
	if b.cfg.Unsafe {
		m.DeliveryMode = gombu.Transient
	}
	return m
}

// consume handles messages: all that are there, or those that meanwhile
// publishes, until it has returned and nothing is left. It returns how long that
// took, from the first handler or the beginning of meanwhile.
func (b *bench) consume(ctx context.Context, meanwhile func(context.Context) error) (time.Duration, error) {
	run, stop := context.WithCancel(ctx)
	defer stop()
	var all atomic.Int64 // how many there are; -1: not known yet
	all.Store(-1)
	if meanwhile == nil {
		all.Store(b.published.Load())
	}
	var once sync.Once
	var start time.Time
	begin := func() { once.Do(func() { start = time.Now() }) }
	k := b.conn.Consumer(gombu.ConsumerConfig{Queues: []string{b.queue}, Prefetch: b.cfg.Prefetch, Workers: b.cfg.Workers})
	var wg sync.WaitGroup
	defer wg.Wait()
	var failed error
	if meanwhile != nil {
		wg.Go(func() {
			if failed = k.Ready(run); failed == nil {
				begin()
				failed = meanwhile(run)
			}
			all.Store(b.published.Load())
			if failed != nil || b.consumed.Load() >= all.Load() {
				stop()
			}
		})
	}
	var missing error
	wg.Go(func() {
		if n := b.stalled(run, &all); n > 0 {
			missing = fmt.Errorf("%d of %d messages did not come within %v", n, all.Load(), patience)
			stop()
		}
	})
	err := k.Run(run, func(_ context.Context, d *gombu.Delivery) error {
		begin()
		if b.work == Latency {
			b.took(d.Body)
		}
		if n, all := b.consumed.Add(1), all.Load(); all >= 0 && n >= all {
			stop()
		}
		return nil
	})
	took := time.Since(start)
	stop()
	wg.Wait()
	if err == nil {
		err = errors.Join(failed, missing)
	}
	if err == nil {
		err = ctx.Err()
	}
	return took, err
}

// patience is how long nothing may come while something is missing.
const patience = 10 * time.Second

// stalled returns how many of all are missing once none has come for that long;
// 0 when ctx ends.
func (b *bench) stalled(ctx context.Context, all *atomic.Int64) int64 {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	last, since := int64(-1), time.Now()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0
		}
		n := b.consumed.Load()
		if all := all.Load(); n != last || all < 0 {
			last, since = n, time.Now()
		} else if n < all && time.Since(since) > patience {
			return all - n
		}
	}
}

// took notes how old a message is.
func (b *bench) took(body []byte) {
	if len(body) < stamp {
		return
	}
	d := time.Duration(time.Now().UnixNano() - int64(binary.BigEndian.Uint64(body)))
	b.mu.Lock()
	b.waits = append(b.waits, d)
	b.mu.Unlock()
}

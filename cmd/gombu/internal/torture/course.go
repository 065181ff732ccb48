package torture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/gombutest/ledger"
)

// A producer keeps a quarter of its messages, or what it sends in tailTime,
// until all faults are over: they show that everybody is back.
const tailTime = 4 * time.Second

// tail is how many of its messages a producer keeps.
func (r *run) tail(count int) int {
	tail := count / 4
	if r.cfg.Rate > 0 {
		tail = min(tail, r.cfg.Rate*int(tailTime/time.Second)/r.cfg.Producers)
	}
	return tail
}

// The faults strike while this part of all messages, in percent, is handled.
const (
	firstStrike = 10
	lastStrike  = 55
)

// torture is the course of a run, from the first message to the last.
func (r *run) torture(ctx context.Context) error {
	for i, at := range r.moments() {
		f := r.strike(i)
		if f.quiet {
			continue
		}
		r.reached(ctx, f, at)
		if err := r.inject(ctx, f); err != nil {
			return err
		}
	}
	if err := r.gate(ctx); err != nil {
		return err
	}
	for i := range len(r.cfg.Faults) * r.cfg.Times {
		if f := r.strike(i); f.quiet {
			if err := r.quiesce(ctx); err != nil {
				return err
			}
			if err := r.inject(ctx, f); err != nil {
				return err
			}
		}
	}
	r.logf("going on to the end")
	r.passed = true
	for _, a := range r.producers {
		a.order(orderGo)
	}
	for _, a := range r.producers {
		if err := r.finished(ctx, a); err != nil {
			return err
		}
	}
	r.drain(ctx)
	if err := r.bury(ctx); err != nil {
		return err
	}
	r.report = r.led.Report()
	return r.stopConsumers(ctx)
}

// strike is the i-th fault of the run.
func (r *run) strike(i int) *fault {
	name := r.cfg.Faults[i%len(r.cfg.Faults)]
	return &faults[slices.IndexFunc(faults, func(f fault) bool { return f.name == name })]
}

// moments are how many messages will have been handled when each fault strikes.
func (r *run) moments() []int {
	at := make([]int, len(r.cfg.Faults)*r.cfg.Times)
	for i := range at {
		at[i] = r.cfg.Messages * (firstStrike*100 + r.dice.IntN((lastStrike-firstStrike)*100)) / 10_000
	}
	slices.Sort(at)
	return at
}

func (r *run) inject(ctx context.Context, f *fault) error {
	pause(ctx, time.Duration(r.dice.IntN(20_000))*time.Microsecond)
	sent, handled, due := r.led.Progress()
	r.logf("%s (%d sent, %d handled, %d due)", f.name, sent, handled, due)
	if err := f.inject(ctx, r); err != nil {
		return fmt.Errorf("fault %s: %w", f.name, err)
	}
	return ctx.Err()
}

// reached returns when n messages were sent, or handled for a fault of consumers,
// or when nothing happens any more.
func (r *run) reached(ctx context.Context, f *fault, n int) {
	r.while(ctx, func() bool {
		sent, handled, _ := r.led.Progress()
		if f.consuming {
			return handled < n
		}
		return sent < n
	})
}

// while waits as long as a condition holds and something is handled within the
// patience; false: nothing was.
func (r *run) while(ctx context.Context, holds func() bool) bool {
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	last, since := -1, time.Now()
	for holds() {
		if _, handled, _ := r.led.Progress(); handled != last {
			last, since = handled, time.Now()
		}
		if time.Since(since) > r.cfg.Patience {
			return false
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// gate waits until every producer has its outcomes and waits.
func (r *run) gate(ctx context.Context) error {
	for _, a := range r.producers {
		err := r.await(ctx, a, a.gate, "to the gate")
		if err != nil && (!closed(a.over) || a.why() != nil) { // its predecessor had sent all
			return err
		}
	}
	return nil
}

// The queues that gombu keeps beside another.
const (
	retryPrefix = "gombu.retry."
	deadPrefix  = "gombu.dead."
)

// quiet is how long nothing happens, once nothing is going on.
const quiet = time.Second

// quiesce waits until everything is handled, the queue is empty, and nothing has
// happened for a while: nothing is claimed then.
func (r *run) quiesce(ctx context.Context) error {
	var last ledger.Report
	since := time.Now()
	if !r.while(ctx, func() bool {
		now := r.led.Report()
		if now.Lost > 0 || now.Starts != last.Starts || now.Acked != last.Acked || !r.empty(ctx) {
			last, since = now, time.Now()
		}
		return time.Since(since) < quiet
	}) {
		return errors.Join(errors.New("the queue does not become empty"), ctx.Err())
	}
	return nil
}

// empty says whether the broker knows of nothing in the queues, claimed or not.
func (r *run) empty(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	for _, q := range []string{r.queue, retryPrefix + r.queue} {
		info, err := r.admin.Inspect(ctx, q)
		if errors.Is(err, gombu.ErrNotFound) && q != r.queue {
			continue
		}
		if err != nil || info.Ready > 0 || info.Unsettled > 0 {
			return false
		}
	}
	return true
}

// bury enters the dead letters: a message that was started too often is not
// lost.
func (r *run) bury(ctx context.Context) error {
	dead := deadPrefix + r.queue
	info, err := r.admin.Inspect(ctx, dead)
	if errors.Is(err, gombu.ErrNotFound) || err == nil && info.Ready == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, r.cfg.Patience)
	defer cancel()
	return r.admin.Run(ctx, gombu.ConsumerConfig{Queues: []string{dead}}, gombu.Typed(func(_ context.Context, b body, _ *gombu.Delivery) error {
		if id, err := ledger.ParseID(b.ID); err == nil {
			r.led.Removed(id)
			r.logf("%v is a dead letter", id)
		}
		if info.Ready--; info.Ready == 0 {
			cancel()
		}
		return nil
	}))
}

// finished waits for a producer to have sent all, and its outcomes to be known.
func (r *run) finished(ctx context.Context, a *actor) error {
	r.while(ctx, func() bool { return !closed(a.over) })
	if !closed(a.over) {
		r.blamef("%s has no outcome of its last messages after %v without any progress", a.name, r.cfg.Patience)
		return errors.Join(a.kill(), ctx.Err())
	}
	if err := a.why(); err != nil {
		r.blamef("%v", err)
	}
	return ctx.Err()
}

// drain waits until everything confirmed was handled and the queue is empty, and
// then for what may still come twice.
func (r *run) drain(ctx context.Context) {
	if !r.while(ctx, func() bool { _, _, due := r.led.Progress(); return due > 0 }) {
		r.logf("giving up: nothing was handled for %v", r.cfg.Patience)
		return
	}
	if err := r.quiesce(ctx); err != nil {
		r.logf("%v", err)
	}
}

// stopConsumers ends the consumers in order.
func (r *run) stopConsumers(ctx context.Context) error {
	for _, a := range r.consumers {
		a.order(orderStop)
	}
	for _, a := range r.consumers {
		if err := r.await(ctx, a, a.over, "to its end"); err != nil {
			r.blamef("%v", err)
			continue
		}
		if err := a.why(); err != nil {
			r.blamef("%v", err)
		}
	}
	return ctx.Err()
}

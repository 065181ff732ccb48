package gombu

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/codec"
	"github.com/gombu/gombu/driver"
)

// afterGrace is how long a handler may take to notice that its context ended.
const afterGrace = 500 * time.Millisecond

// A run is one Run of a Consumer. Workers belong to it, not to a session.
type run struct {
	k      *Consumer
	c      *Conn
	cfg    *ConsumerConfig
	h      Handler
	accept codec.AcceptSet

	jobs   jobs
	held   held
	twins  twins
	parked sync.Map // queues, with the reason, whose dead letters were logged

	intake     context.Context // ends when nothing new is to be taken
	stopIntake context.CancelCauseFunc
	work       context.Context // of the handlers; ends when their grace is over
	kill       context.CancelCauseFunc
	hands      context.Context // ends when the handlers have ended after that, or were left behind
	leave      context.CancelCauseFunc
	life       context.Context // of settles and closes; ends when all must be over
	end        context.CancelCauseFunc

	gathering gathering

	mu      sync.Mutex
	sources map[string]*source
	begun   bool // sources may be added: what the run declares is there
	fatal   error

	limit   chan context.Context // cap 1: of a Shutdown
	busy    atomic.Int32         // handlers running
	workers sync.WaitGroup
	aux     sync.WaitGroup // sources, settlers, the holder
	done    chan struct{}
	err     error // valid after done
}

func newRun(ctx context.Context, k *Consumer, h Handler, accept codec.AcceptSet) *run {
	r := &run{k: k, c: k.c, cfg: &k.cfg, h: h, accept: accept, sources: map[string]*source{},
		limit: make(chan context.Context, 1), done: make(chan struct{}), twins: newTwins(k.cfg.Workers)}
	r.gathering.began = time.Now()
	r.jobs.init(k.cfg.Workers, func(i int) { r.workers.Go(func() { r.worker(i) }) })
	r.held.wake = make(chan struct{}, 1)
	base := context.WithoutCancel(k.c.ctx)
	// A child of Run's context: when a handler ends that, nothing begins after it.
	r.intake, r.stopIntake = context.WithCancelCause(ctx)
	r.work, r.kill = context.WithCancelCause(base)
	r.hands, r.leave = context.WithCancelCause(base)
	r.life, r.end = context.WithCancelCause(base)
	return r
}

// stop is the end of a run; err is begin's.
func (r *run) stop(err error) error {
	defer r.c.unregister(r)
	defer r.k.detach()
	defer close(r.done)
	defer r.end(ErrClosed)
	if !r.begun {
		return err
	}
	r.drain()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = errors.Join(r.fatal, r.err)
	return r.err
}

// apart runs f and waits for it. What f does leaves a goroutine that sleeps for
// as long as a consumer lives with the smallest of stacks.
func apart(f func()) {
	var wg sync.WaitGroup
	wg.Go(f)
	wg.Wait()
}

// begin declares, and starts sources and workers. If it cannot, there is no intake.
func (r *run) begin() error {
	if err := r.c.declareOnce(r.intake, r.cfg.Declare); err != nil {
		if r.intake.Err() != nil {
			return nil
		}
		r.stopIntake(ErrClosed)
		return err
	}
	r.mu.Lock()
	r.begun = true // from here on Add adds; what it did before is in the list
	r.mu.Unlock()
	r.k.mu.Lock()
	queues := append([]string(nil), r.k.queues...)
	r.k.mu.Unlock()
	for _, q := range queues {
		r.add(q)
	}
	r.k.standing("", false) // wakes Ready: Run is on
	return nil
}

// fail ends the run with an error that waiting cannot help.
func (r *run) fail(err error) {
	r.mu.Lock()
	if r.fatal == nil {
		r.fatal = err
	}
	r.mu.Unlock()
	r.stopIntake(err)
}

// shutdown asks the run to stop, with ctx as its limit, also when it is stopping.
func (r *run) shutdown(ctx context.Context) {
	r.limit <- ctx // there is one Shutdown of a Conn
	r.stopIntake(ErrClosed)
}

// wait returns when the run is over, or with ctx.
func (r *run) wait(ctx context.Context) error {
	select {
	case <-r.done:
		if errors.Is(r.err, ErrAbandoned) {
			return r.err
		}
		return nil
	case <-ctx.Done():
		return ended(ctx, "shutdown", "", ErrAbandoned)
	}
}

// drain is the ordered stop: sources stop intake and give back what has not
// begun, handlers finish within their grace, settles are flushed.
func (r *run) drain() {
	began, grace := time.Now(), r.cfg.Grace
	r.jobs.close()
	ended := make(chan struct{})
	r.aux.Go(func() { r.workers.Wait(); close(ended) })
	var over <-chan struct{} = ended
	timer := time.NewTimer(max(grace, 0))
	defer timer.Stop()
	idle := r.allSettled()
	for over != nil || idle != nil {
		select {
		case <-over:
			over = nil
		case <-idle:
			idle = nil
		case limit := <-r.limit:
			defer context.AfterFunc(limit, func() { r.end(context.Cause(limit)) })()
			if d, ok := limit.Deadline(); ok {
				left := time.Until(d)
				grace = min(grace, time.Since(began)+left-min(left/10, afterGrace))
				timer.Reset(max(grace-time.Since(began), 0))
			}
		case <-timer.C:
			r.kill(&Error{Op: "run", Kind: ErrClosed, Err: fmt.Errorf("the grace of %v is over", grace)})
			r.abandon(over)
			over, idle = nil, nil
		}
	}
	r.kill(ErrClosed)
	r.leave(ErrClosed)
	last := time.AfterFunc(afterGrace, func() { r.end(ErrClosed) })
	defer last.Stop()
	r.waitSources()
}

// allSettled is closed when every source has settled what it took.
func (r *run) allSettled() chan struct{} {
	done := make(chan struct{})
	r.mu.Lock()
	sources := make([]*source, 0, len(r.sources))
	for _, s := range r.sources {
		sources = append(sources, s)
	}
	r.mu.Unlock()
	r.aux.Go(func() {
		defer close(done)
		for _, s := range sources {
			<-s.done
		}
	})
	return done
}

// abandon waits a little for handlers whose context has ended, and counts
// those that ignore it.
func (r *run) abandon(over <-chan struct{}) {
	if over == nil {
		return
	}
	select {
	case <-over:
	case <-time.After(afterGrace):
		n := r.busy.Load()
		r.c.log.Error("gombu: handlers ignored their context and are left behind", "handlers", n)
		r.mu.Lock()
		r.err = &Error{Op: "run", Kind: ErrAbandoned, Err: fmt.Errorf("%d handlers ignored their context", n)}
		r.mu.Unlock()
	}
}

func (r *run) waitSources() {
	r.mu.Lock()
	sources := make([]*source, 0, len(r.sources))
	for _, s := range r.sources {
		sources = append(sources, s)
	}
	r.mu.Unlock()
	for _, s := range sources {
		<-s.done
	}
	r.gathering.stop()
	r.end(ErrClosed)
}

func (r *run) worker(i int) {
	for had := false; ; had = true {
		it, ok := r.next(had)
		if !ok {
			return
		}
		d := it.d
		if it.pull != nil {
			if d = it.pull.pull(true); d == nil {
				continue
			}
		}
		t := d.turn
		switch {
		case t != nil:
			if d = t.pull(); d == nil {
				continue
			}
		case d.rec.over.Load() || d.rec.sess.hold(r.intake) != nil && r.intake.Err() == nil:
			continue // its session is lost and the broker delivers it again
		case r.intake.Err() != nil:
			r.unstarted(d)
			return
		}
		r.occupy(i, d)
		r.handle(d)
		r.vacate(i, d)
		if t != nil {
			close(t.ended)
		}
	}
}

// next is what a worker is to do; nothing when the consumer stops. An iterator's
// takes nothing before its loop wants it: a start would be counted, a copy
// taken, for nobody.
func (r *run) next(had bool) (job, bool) {
	if idle := r.k.idle; idle != nil {
		select {
		case <-idle:
			idle <- struct{}{}
		case <-r.intake.Done():
		}
	}
	return r.jobs.pop(had)
}

func (r *run) handle(d *Delivery) {
	ctx := d.rec.ctx
	if d.dead != nil {
		r.bury(ctx, d, d.dead)
	} else if err := d.check(); err != nil {
		r.bad(ctx, d, d.try-1, err)
	} else if r.admit(ctx, d) {
		r.finish(ctx, d, r.call(ctx, d, nil))
	}
}

// call runs the handler, or with bad the hook for undecodable messages.
func (r *run) call(ctx context.Context, d *Delivery, bad error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = newPanic(p)
			r.c.log.Error("gombu: handler panicked", "queue", d.Queue, "panic", p, "stack", string(err.(*panicError).stack))
		}
	}()
	if bad != nil {
		return r.cfg.OnUndecodable(ctx, d, bad)
	}
	return r.h(ctx, d)
}

// errUnstarted is returned by a handler of ours that has not begun.
var errUnstarted = errors.New("not begun")

// unstarted returns d to the head of what waits, to be given back with the
// rest, in order; once the rest has gone back, d goes too: it comes before them.
func (r *run) unstarted(d *Delivery) {
	if !r.jobs.putBack(d) {
		r.settle(d, stRequeued, d.given(driver.Release), 0)
	}
}

// finish settles d as the handler's error says.
func (r *run) finish(ctx context.Context, d *Delivery, err error) {
	v, decided := errors.AsType[*verdict](err)
	d.done = err == nil && (d.state.Load() == stOpen || d.state.Load() == stAcked) || decided && v.state == stAcked
	switch {
	case d.Settled() || r.cfg.NoAck || d.state.Load() == stDetached:
		if err != nil {
			r.c.log.Warn("gombu: handler returned an error for what is settled already", "queue", d.Queue, "err", err)
		}
	case err == nil:
		r.settle(d, stAcked, driver.Ack, 0)
	case errors.Is(err, errUnstarted):
		r.unstarted(d)
	case d.undecodable(err):
		d.fault = err
		r.bad(ctx, d, d.try, err)
	case decided:
		r.c.log.Info("gombu: handler decided", "queue", d.Queue, "verdict", stateWord[v.state], "err", err)
		r.decide(ctx, d, v)
	default:
		r.failed(ctx, d, deliveryLimit, err)
	}
}

func (r *run) decide(ctx context.Context, d *Delivery, v *verdict) {
	switch {
	case v.state == stRequeued && r.last(ctx, d, deliveryLimit, v):
	case v.state == stAcked:
		r.settle(d, stAcked, driver.Ack, 0)
	case v.state == stRejected:
		r.settle(d, stRejected, driver.Reject, 0)
	case v.after > 0 && d.rec.features.Delay:
		r.settle(d, stRequeued, driver.Delay, v.after)
	case v.after > 0:
		r.hold(heldItem{d: d, then: r.retry}, v.after)
	default:
		r.retry(d)
	}
}

func (r *run) requeue(d *Delivery) { r.settle(d, stRequeued, driver.Requeue, 0) }

// settle settles for the handler, and waits for the end of what came back: see
// suspects.
func (r *run) settle(d *Delivery, to uint32, o driver.Outcome, after time.Duration) {
	if r.cfg.NoAck || !d.claim(to) {
		return
	}
	d.one[0] = driver.Settlement{Tag: d.tag, Outcome: o, After: after}
	if !d.Redelivered || to == stRequeued {
		d.rec.settleLater(d)
	} else if err := d.rec.settle(r.life, d); err != nil {
		d.rec.complain(d, err)
	}
}

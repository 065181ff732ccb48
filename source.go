package gombu

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/driver"
)

// A source is one queue of a run: a goroutine that keeps a subscription
// standing through lost sessions.
type source struct {
	run    *run
	queue  string
	ctx    context.Context // ends when nothing more is to be taken from it
	stop   context.CancelCauseFunc
	resume chan struct{} // cap 1: the prefetch is no longer zero
	done   chan struct{}
	before *source // of the same queue, cancelled and not done yet; nil: none

	moving     chan struct{} // cap 1: holds a token while copies are published or taken; made with the retrier
	unreadable atomic.Bool   // the retry queue: reading it is denied
	suspects   suspects

	mu    sync.Mutex
	rec   *reception // of the subscription that stands
	retry *retrier   // nil: attempts are not counted in copies
}

func (r *run) add(queue string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.sources[queue]
	if before != nil && before.ctx.Err() == nil || !r.begun || r.intake.Err() != nil {
		return
	}
	s := &source{run: r, queue: queue, resume: make(chan struct{}, 1), done: make(chan struct{}), before: before}
	s.ctx, s.stop = context.WithCancelCause(r.intake)
	r.sources[queue] = s
	r.aux.Go(s.loop)
}

func (r *run) source(queue string) *source {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.sources[queue]
}

func (r *run) cancel(ctx context.Context, queue string) error {
	s := r.source(queue)
	if s == nil {
		return nil
	}
	s.stop(ErrClosed)
	select {
	case <-s.done:
	case <-ctx.Done():
		return ended(ctx, "cancel", queue, ErrAbandoned)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.sources[queue] == s {
		delete(r.sources, queue)
	}
	return nil
}

func (r *run) setPrefetch(ctx context.Context, queue string, n int) error {
	s := r.source(queue)
	if s == nil {
		return nil
	}
	select {
	case s.resume <- struct{}{}:
	default:
	}
	s.nudge()
	s.mu.Lock()
	rec := s.rec
	s.mu.Unlock()
	if rec == nil {
		return nil // the next subscription starts with it
	}
	if err := rec.rx.SetPrefetch(ctx, n); err != nil && !rec.over.Load() {
		return r.c.sessionError(ctx, "prefetch", err)
	}
	return nil
}

// loop subscribes, receives until that ends, and subscribes again.
func (s *source) loop() {
	defer close(s.done)
	defer s.joinRetries()
	if s.before != nil {
		<-s.before.done // it gives back what is first in the queue
		s.before = nil
	}
	for first, tries := true, 0; s.ctx.Err() == nil; {
		rec, err := s.subscribe(first)
		if rec == nil {
			s.unsubscribed(err, &tries)
			continue
		}
		first = false
		began := time.Now()
		if rec.pull != nil {
			err = s.stand(rec)
		} else {
			err = s.receive(rec)
		}
		s.left(rec, err, began, &tries)
	}
}

// unsubscribed waits before the next try, after err; nil: there is none to wait for.
func (s *source) unsubscribed(err error, tries *int) {
	if err == nil {
		return
	}
	*tries++
	s.run.c.log.Debug("gombu: subscribing", "queue", s.queue, "err", err)
	s.rest(*tries)
}

// left clears up after a subscription that stood since began.
func (s *source) left(rec *reception, err error, began time.Time, tries *int) {
	s.leave()
	if s.ctx.Err() != nil {
		s.drain(rec)
		return
	}
	s.lose(rec, err)
	if *tries++; time.Since(began) >= steady {
		*tries = 0
	}
	if *tries > 1 {
		s.rest(*tries - 1)
	}
}

// rest is the wait after so many tries.
func (s *source) rest(tries int) { _ = pause(s.ctx, (&RetryPolicy{}).wait(tries)) }

// subscribe makes the subscription that stands; nil without an error when there
// is to be none, or not yet. An error is worth another try. Apart from loop, whose
// stack sleeps for as long as the consumer does.
func (s *source) subscribe(first bool) (*reception, error) {
	r := s.run
	sess, err := r.c.consume.get(s.ctx, "consume")
	if err != nil {
		if s.ctx.Err() == nil {
			r.fail(err) // which ends s too
		}
		return nil, nil
	}
	rc := s.config(sess)
	if rc.Prefetch == 0 { // paused, maybe while there was no session: brokers take 0 for no limit
		select {
		case <-s.resume:
		case <-s.ctx.Done():
		}
		return nil, nil
	}
	rx, err := sess.OpenReceiver(s.ctx, rc)
	if err != nil && s.ctx.Err() == nil && first && sess.ctx.Err() == nil && (final(err) || errors.Is(err, ErrConflict)) {
		r.fail(err)
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return s.enter(sess, rx, rc.Prefetch), nil
}

func (s *source) config(sess *session) driver.ReceiverConfig {
	c := s.run.cfg
	rc := driver.ReceiverConfig{
		Queue: sess.name(s.queue), Prefetch: s.run.k.prefetch(s.queue),
		NoAck: c.NoAck, Exclusive: c.Exclusive, Priority: c.Priority, Args: c.Args,
	}
	if c.TagPrefix != "" {
		rc.Tag = c.TagPrefix + "-" + tagSuffix()
	}
	return rc
}

// tagSuffix makes a consumer tag unique.
func tagSuffix() string { return strings.ToLower(rand.Text()) }

// enter makes rx the subscription that stands; it was opened with that prefetch.
func (s *source) enter(sess *session, rx driver.Receiver, prefetch int) *reception {
	rec := s.reception(sess, rx, prefetch)
	if rec.counts = s.countingOf(sess, rx); rec.counts == countMoved {
		s.watchRetries()
	}
	s.mu.Lock()
	s.rec = rec
	s.mu.Unlock()
	if n := s.run.k.prefetch(s.queue); n != prefetch { // set while it was being opened
		_ = rx.SetPrefetch(s.ctx, n)
	}
	s.run.k.standing(s.queue, true)
	return rec
}

func (s *source) reception(sess *session, rx driver.Receiver, prefetch int) *reception {
	rec := &reception{src: s, sess: sess, rx: rx, features: rx.Features(), enough: min(prefetch/4, maxBatch)}
	rec.try, _ = rx.(driver.TrySettler)
	rec.ctx, rec.end = context.WithCancelCause(s.run.work)
	if !s.run.cfg.FinishLost {
		rec.unhook = context.AfterFunc(sess.ctx, func() { rec.lost(context.Cause(sess.ctx)) })
	}
	rec.pull = newPuller(rec)
	return rec
}

func (s *source) leave() {
	s.mu.Lock()
	s.rec = nil
	s.mu.Unlock()
	s.run.k.standing(s.queue, false)
}

// slabSize is how many deliveries are allocated at once: few enough that one
// which is kept long does not hold much memory.
const slabSize = 16

// receive hands deliveries to the workers until the subscription or s ends.
func (s *source) receive(rec *reception) error {
	most := min(max(s.run.k.prefetch(s.queue), 1), maxBatch)
	dst := make([]driver.Incoming, 1) // an idle consumer needs no more
	for {
		n, err := rec.rx.Receive(s.ctx, dst)
		if n > 0 {
			b := baskets.Get().(*basket)
			ds := b.fill(dst[:n], rec)
			rec.took(n)
			if !s.run.jobs.push(rec, ds, nil) {
				rec.settleAll(ds, driver.Release)
			}
			clear(ds)
			baskets.Put(b)
		}
		if n == len(dst) && n < most {
			dst = make([]driver.Incoming, min(4*n, most))
		}
		if err != nil {
			return err
		}
		if s.ctx.Err() != nil {
			return context.Cause(s.ctx)
		}
	}
}

// lose ends a subscription that the broker or the network ended.
func (s *source) lose(rec *reception, err error) {
	s.run.c.log.Info("gombu: subscription ended; subscribing again", "queue", s.queue, "err", err)
	rec.abandon(err)
	if errors.Is(err, ErrNotFound) { // the session stands: do not spin while the queue is missing
		_ = pause(s.ctx, (&RetryPolicy{NoJitter: true}).wait(1))
	}
}

// drain stops intake, gives back what has not begun, waits for the handlers of
// this queue, and closes the subscription.
func (s *source) drain(rec *reception) {
	r := s.run
	ctx, cancel := context.WithTimeout(r.life, time.Second)
	if err := rec.rx.SetPrefetch(ctx, 0); err != nil {
		r.c.log.Debug("gombu: stopping intake", "queue", s.queue, "err", err)
	}
	cancel()
	rec.settleAll(r.jobs.extract(rec), driver.Release)
	rec.settleAll(r.held.extract(rec), driver.Requeue)
	rec.settleAll(r.twins.extract(rec), driver.Release)
	rec.wait(r.hands)
	rec.flushed(r.life)
	rec.over.Store(true)
	if rec.unhook != nil {
		rec.unhook()
	}
	if err := rec.rx.Close(r.life); err != nil {
		r.c.log.Debug("gombu: closing a subscription", "queue", s.queue, "err", err)
	}
	rec.end(ErrClosed)
}

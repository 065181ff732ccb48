package gombu

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
)

// How often a retry queue is looked at: one that is missing, and one that is
// empty. In this process moves tell at once.
const (
	missingFirst, missingMost = 15 * time.Second, 4 * time.Minute
	emptyFirst, emptyMost     = time.Second, 15 * time.Second
)

// A retrier is the retry queue of a source. It has a goroutine while that is there,
// or is being looked for; in between, a timer.
type retrier struct {
	src  *source
	wake chan struct{} // cap 1: there is reason to look

	mu    sync.Mutex
	done  chan struct{} // closed when the goroutine ends; nil: there is none
	wait  time.Duration // before it is looked for again
	timer *time.Timer   // nil: never needed
	over  bool          // nothing starts the goroutine any more
}

// lookSpread is within what time the retry queues of many consumers that start
// together are first looked for: all at once would take more memory than they
// need ever after.
const lookSpread = 40 * time.Millisecond

// watchRetries has the retrier of s look soon, which it makes when there is none.
func (s *source) watchRetries() {
	s.mu.Lock()
	if s.retry == nil {
		s.moving = make(chan struct{}, 1)
		s.retry = &retrier{src: s, wake: make(chan struct{}, 1)}
	}
	q := s.retry
	s.mu.Unlock()
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.done == nil {
		q.wait = missingFirst / 2
		q.later(rand.N(lookSpread))
	}
}

// nudge tells the retrier of s, if it has one, to look.
func (s *source) nudge() {
	s.mu.Lock()
	q := s.retry
	s.mu.Unlock()
	if q == nil {
		return
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.done == nil {
		q.wait = missingFirst
		q.start()
		return
	}
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// later has it look after d; the caller holds mu.
func (q *retrier) later(d time.Duration) {
	if q.timer == nil {
		q.timer = time.AfterFunc(d, q.again)
	} else {
		q.timer.Reset(d)
	}
}

// start starts the goroutine, of which there is none; the caller holds mu.
func (q *retrier) start() {
	if !q.over {
		q.done = make(chan struct{})
		q.src.run.aux.Go(q.loop)
	}
}

// again is the timer's.
func (q *retrier) again() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.done == nil {
		q.wait = min(2*q.wait, missingMost)
		q.start()
	}
}

// joinRetries ends the retrier of s.
func (s *source) joinRetries() {
	q := s.retry
	if q == nil {
		return
	}
	q.mu.Lock()
	q.over = true
	if q.timer != nil {
		q.timer.Stop()
	}
	done := q.done
	q.mu.Unlock()
	if done != nil {
		<-done
	}
}

// loop keeps looking for copies until there are none to be had for a while.
func (q *retrier) loop() {
	for more := true; more; {
		more = q.goesOn(q.look())
	}
}

// goesOn says whether there is reason to look at once; if not, the goroutine has
// ended, and the timer starts another one unless it is all over.
func (q *retrier) goesOn(missing bool) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.src.ctx.Err() == nil {
		select {
		case <-q.wake:
			missing = false
		default:
		}
		if !missing {
			q.wait = missingFirst
			return true
		}
		q.later(q.wait)
	}
	close(q.done)
	q.done = nil
	return false
}

// look takes copies while it can, and says whether the queue is missing: then
// there is no need to look soon.
func (q *retrier) look() (missing bool) {
	s := q.src
	sess, err := s.run.c.consume.get(s.ctx, "consume")
	if err != nil {
		return true // the source says so
	}
	rx, err := sess.Conn.(driver.Puller).OpenPuller(s.ctx, retryPrefix+s.queue)
	if err == nil {
		rec := s.reception(sess, rx, 1)
		rec.counts = countMoved
		err = q.serve(rec)
		if s.ctx.Err() != nil {
			s.drain(rec)
			return true
		}
		rec.abandon(err)
	}
	if errors.Is(err, ErrDenied) { // what is put there would stay there
		s.unreadable.Store(true)
		s.uncounted(err)
	}
	s.run.c.log.Debug("gombu: looking for copies", "queue", s.queue, "err", err)
	if !final(err) {
		_ = pause(s.ctx, (&RetryPolicy{}).wait(3))
		return false
	}
	return true
}

// sleep waits d at most, or for the session's end, and says whether it was woken.
func (q *retrier) sleep(d time.Duration, sess *session) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-q.wake:
		return true
	case <-t.C:
	case <-sess.Done():
	case <-q.src.ctx.Done():
	}
	return false
}

// A turn stands in the line of jobs until a worker comes to take a copy.
type turn struct {
	rec   *reception
	taken chan taken // cap 1; gets one result when a worker came
	ended chan struct{}
}

type taken struct {
	got  bool
	solo bool // a suspect
	err  error
}

// serve offers turns until the session or the source ends. A suspect is taken
// alone: see suspects.
func (q *retrier) serve(rec *reception) error {
	s, r := q.src, q.src.run
	for wait := emptyFirst; s.ctx.Err() == nil; {
		if r.k.prefetch(s.queue) == 0 {
			q.sleep(missingMost, rec.sess)
			if rec.sess.over() {
				return rec.sess.Err()
			}
			continue
		}
		t := &turn{rec: rec, taken: make(chan taken, 1), ended: make(chan struct{})}
		if !r.jobs.offer(&Delivery{rec: rec, turn: t}) {
			break
		}
		var got taken
		select {
		case got = <-t.taken:
		case <-rec.sess.Done():
			return q.recall(t, rec.sess.Err())
		case <-s.ctx.Done():
			return q.recall(t, context.Cause(s.ctx))
		}
		switch {
		case got.err != nil:
			return got.err
		case got.solo:
			alone := time.NewTimer(aloneFor)
			select {
			case <-t.ended:
			case <-alone.C:
			case <-rec.sess.Done():
				return rec.sess.Err()
			case <-s.ctx.Done():
			}
			alone.Stop()
			fallthrough
		case got.got:
			wait = emptyFirst
		case q.sleep(wait, rec.sess):
			wait = emptyFirst
		default:
			wait = min(2*wait, emptyMost)
		}
	}
	return context.Cause(s.ctx)
}

// recall takes a turn back, or waits for the worker that has come for it.
func (q *retrier) recall(t *turn, err error) error {
	var back []*Delivery
	offered := false
	for _, d := range q.src.run.jobs.extract(t.rec) {
		if d.turn == t {
			offered = true
		} else {
			back = append(back, d)
		}
	}
	if !offered {
		<-t.taken
	}
	if !t.rec.over.Load() {
		t.rec.settleAll(back, driver.Requeue)
	}
	return err
}

// pull takes the next copy for the worker that is here to run it; nil when
// there is none for it.
func (t *turn) pull() *Delivery {
	var in [1]driver.Incoming
	rec := t.rec
	s, r := rec.src, rec.src.run
	if s.ctx.Err() != nil || rec.over.Load() {
		t.taken <- taken{}
		return nil
	}
	select {
	case s.moving <- struct{}{}: // no copy is taken whose original is not acked
	default:
		t.taken <- taken{} // a nudge follows
		return nil
	}
	ctx, cancel := context.WithTimeout(s.ctx, stepTimeout)
	n, err := rec.rx.Receive(ctx, in[:])
	cancel()
	<-s.moving
	if err == nil {
		s.unreadable.Store(false)
	}
	if n == 0 {
		t.taken <- taken{err: err}
		return nil
	}
	rec.took(1)
	d := &Delivery{}
	d.fill(&in[0], rec)
	d.fromRetry()
	t.taken <- taken{got: true, solo: d.suspect()}
	if r.twins.hold(d) {
		close(t.ended)
		return nil
	}
	return d
}

package gombu

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
)

// Where a broker does not count starts (RabbitMQ), a copy does, in a queue of
// its own beside each queue. On the queue itself a redelivered message may have
// been started or only prefetched; nobody can tell. So it is moved: a copy that
// names its next attempt is published and confirmed, and then the original is
// acked. Copies are taken from the retry queue one at a time, each by a worker
// that is there to run it: what comes back from there was started.

const (
	// retryPrefix begins the names of retry queues.
	retryPrefix = "gombu.retry."
	// headerTry is the number of the attempt that a copy is for.
	headerTry = "x-gombu-try"
	// headerOrigin is a table of what the copy's own place would hide.
	headerOrigin = "x-gombu-origin"
)

// How often a retry queue is looked at: one that is missing, and one that is
// empty. In this process moves tell at once.
const (
	missingFirst, missingMost = 15 * time.Second, 4 * time.Minute
	emptyFirst, emptyMost     = time.Second, 15 * time.Second
)

// forward moves d to the retry queue, for its attempt d.try.
func (rec *reception) forward(d *Delivery) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.moves = append(rec.moves, d)
	if !rec.moving {
		rec.moving = true
		rec.src.run.aux.Go(rec.mover)
	}
}

// mover moves what is to be moved, in batches, until there is nothing.
func (rec *reception) mover() {
	s := rec.src
	for {
		rec.mu.Lock()
		rec.moving = len(rec.moves) > 0
		more := rec.moving
		rec.mu.Unlock()
		if !more {
			return
		}
		s.moving <- struct{}{}
		rec.mu.Lock()
		ds := rec.moves
		rec.moves = nil
		rec.mu.Unlock()
		rec.moveAll(ds)
		<-s.moving
		s.nudge() // whoever came for a copy meanwhile went without
	}
}

// moveAll publishes copies and acks the originals. What the broker refuses to
// take is run as it is; what cannot be known now is tried again later.
func (rec *reception) moveAll(ds []*Delivery) {
	s, r := rec.src, rec.src.run
	errs := rec.publishCopies(ds)
	acks := make(chan error, len(ds))
	moved := 0
	for i, d := range ds {
		switch err := errs[i]; {
		case rec.over.Load():
			d.drop()
		case err == nil:
			if d.claim(stAcked) {
				d.one[0] = driver.Settlement{Tag: d.tag}
				rec.enqueue(settling{d, acks})
				moved++
			}
		case s.ctx.Err() != nil:
			r.requeue(d)
		case refused(err):
			s.uncounted(err)
			r.rerun(d)
		default:
			r.c.log.Debug("gombu: could not move to the retry queue; will try again", "queue", s.queue, "err", err)
			d.tries++
			r.hold(heldItem{d: d, then: rec.forward}, backOff(d.tries))
		}
	}
	for range moved {
		if err := <-acks; err != nil {
			r.c.log.Warn("gombu: could not ack what was moved; it comes twice", "queue", s.queue, "err", err)
		}
	}
}

// refused says that a copy will not be taken as things are. A broker in alarm
// takes none until its queues are consumed: waiting for it may be for ever.
func refused(err error) bool {
	return errors.Is(err, ErrRefused) || errors.Is(err, ErrDenied) || errors.Is(err, ErrInvalid) || errors.Is(err, ErrTooLarge) ||
		errors.Is(err, ErrUnsupported) || errors.Is(err, ErrBlocked) || missing(err)
}

// uncounted says, once a queue, that attempts are not counted.
func (s *source) uncounted(err error) {
	c := s.run.c
	if _, said := c.warned.LoadOrStore(retryPrefix+s.queue, true); !said {
		c.log.Warn("gombu: redelivered messages run with their attempts uncounted: the retry queue takes no copies (said once per queue)",
			"queue", s.queue, "err", err)
		c.hooks.send(Event{Kind: driver.Warning, Entity: s.queue, Detail: "attempts are not counted: " + err.Error()})
	}
}

// movable says why nothing is to be published to the retry queue now.
func (s *source) movable() error {
	sess := s.run.c.publish.peek()
	switch {
	case s.ctx.Err() != nil:
		return ErrClosed
	case s.unreadable.Load():
		return ErrDenied
	case sess != nil && sess.blocked.Load():
		return ErrBlocked
	}
	return nil
}

// publishCopies returns the outcome of each copy.
func (rec *reception) publishCopies(ds []*Delivery) []error {
	r, errs := rec.src.run, make([]error, len(ds))
	if err := rec.src.movable(); err != nil {
		for i := range errs {
			errs[i] = err
		}
		return errs
	}
	ctx, cancel := context.WithTimeout(r.life, stepTimeout) // not the source's: what is published must be acked
	defer cancel()
	defer context.AfterFunc(rec.sess.ctx, cancel)()
	queue := retryPrefix + rec.src.queue
	ms := make([]*Message, len(ds))
	for i, d := range ds {
		ms[i] = d.toRetry(queue)
	}
	p := r.c.Producer(nil)
	if p.PublishBatch(ctx, ms, errs) == nil || !slices.ContainsFunc(errs, missing) {
		return errs
	}
	err := r.make(ctx, queue)
	for i, m := range ms {
		switch {
		case !missing(errs[i]):
		case err != nil:
			errs[i] = err
		default:
			errs[i] = p.Publish(ctx, m)
		}
	}
	return errs
}

// toRetry is the copy of d for its attempt d.try.
func (d *Delivery) toRetry(queue string) *Message {
	origin := Headers{{Key: "exchange", Value: d.Exchange}, {Key: "key", Value: d.Key}}
	if d.ended {
		origin = append(origin, Header{Key: "ended", Value: true})
	}
	if d.UserID != "" {
		origin = append(origin, Header{Key: "user-id", Value: d.UserID})
	}
	if d.Expiration != 0 {
		origin = append(origin, Header{Key: "expiration", Value: int64(d.Expiration)})
	}
	if cc, ok := d.Headers.Lookup("CC"); ok {
		origin = append(origin, Header{Key: "cc", Value: cc})
	}
	return d.copy(queue, d.Headers.With(headerTry, int64(d.try)).With(headerOrigin, origin))
}

// fromRetry makes d, a copy, look as its original did.
func (d *Delivery) fromRetry() {
	n, _ := d.Headers.Get(headerTry).(int64)
	if d.try = max(int(n), 2); d.Redelivered {
		d.try++ // that one was begun
	} else {
		d.Redelivered, d.counted = true, true
	}
	d.Attempt = d.try
	origin := table(d.Headers.Get(headerOrigin))
	d.Headers = d.Headers.Without(headerTry).Without(headerOrigin).Without("x-delivery-count")
	if len(d.Headers) == 0 {
		d.Headers = nil
	}
	if origin == nil {
		return // somebody else's
	}
	d.ended = origin.Get("ended") == true && d.counted
	d.Exchange, _ = origin.Get("exchange").(string)
	d.Key, _ = origin.Get("key").(string)
	d.UserID, _ = origin.Get("user-id").(string)
	expiration, _ := origin.Get("expiration").(int64)
	d.Expiration = time.Duration(expiration)
	if cc, ok := origin.Lookup("cc"); ok {
		d.Headers = d.Headers.With("CC", cc)
	}
}

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

// watchRetries has the retrier of s look, which it makes when there is none.
func (s *source) watchRetries() {
	s.mu.Lock()
	if s.retry == nil {
		s.retry = &retrier{src: s, wake: make(chan struct{}, 1)}
	}
	s.mu.Unlock()
	s.nudge()
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
		switch {
		case !missing:
			q.wait = missingFirst
			return true
		case q.timer == nil:
			q.timer = time.AfterFunc(q.wait, q.again)
		default:
			q.timer.Reset(q.wait)
		}
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

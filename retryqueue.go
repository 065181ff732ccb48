package gombu

import (
	"context"
	"errors"
	"slices"
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

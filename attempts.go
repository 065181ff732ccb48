package gombu

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/gombu/gombu/driver"
)

// An attempt is the start of a handler. Starts are counted before they happen,
// and only from the second delivery on: the first one writes nothing, and what
// comes back is taken as started once.

// A counting is where the starts of a subscription are counted.
type counting uint8

const (
	countHere  counting = iota // with the claim, in this process
	countStore                 // in the queue's store: driver.Counter
	countMoved                 // in a header of copies, see retryqueue.go
)

// defaultAttempts is ConsumerConfig.MaxAttempts of zero.
const defaultAttempts = 5

// countingOf finds where starts are counted for a receiver of s. A queue that
// ends with its users leaves no claims to anybody else.
func (s *source) countingOf(sess *session, rx driver.Receiver) counting {
	r, f := s.run, rx.Features()
	_, counts := rx.(driver.Counter)
	_, pulls := sess.Conn.(driver.Puller)
	switch {
	case r.cfg.NoAck:
		return countHere
	case counts && f.Counts == driver.CountStarts:
		return countStore
	case pulls && f.Requeue && !f.AckPrefix && !r.c.topo.passing(s.queue) && r.deadQueue(s.queue) != "":
		return countMoved
	}
	return countHere
}

// attempts is how many starts a message of queue has; 0: no limit.
func (r *run) attempts(queue string) int {
	switch {
	case r.cfg.MaxAttempts < 0 || r.deadQueue(queue) == "":
		return 0
	case r.cfg.MaxAttempts == 0:
		return defaultAttempts
	}
	return r.cfg.MaxAttempts
}

// spent says whether a message with n known starts gets no other one. The start
// that a redelivered message is taken to have had may have been none: it alone
// is no reason.
func (r *run) spent(queue string, n int) bool {
	limit := r.attempts(queue)
	return limit > 0 && n >= max(limit, 2)
}

var errUnfinished = errors.New("no attempt came to an end: the consumer died, or lost its claim")

// admit counts the start that d is about to have. False: d is not to be run
// now, and has been seen to.
func (r *run) admit(ctx context.Context, d *Delivery) bool {
	if !d.Redelivered || d.counted {
		return true
	}
	if d.rec.counts == countHere {
		return true
	}
	if n := d.try - 1; r.spent(d.Queue, n) {
		r.bury(ctx, d, &death{deliveryLimit, n, errUnfinished})
		return false
	}
	if d.rec.counts == countStore {
		if !d.rec.src.suspects.enter(d) {
			r.hold(heldItem{d: d, then: r.again}, askedSoon)
			return false
		}
		return r.count(ctx, d)
	}
	if r.attempts(d.Queue) == 0 {
		return true
	}
	d.rec.forward(d)
	return false
}

// stepTimeout bounds counting one start, and moving one message.
const stepTimeout = 15 * time.Second

// count has the store count a start. Until that has worked d is held, as long
// as its claim stands.
func (r *run) count(ctx context.Context, d *Delivery) bool {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	start := []driver.Start{{Tag: d.tag, Attempt: d.try}}
	err := d.rec.rx.(driver.Counter).Begin(ctx, start)
	if err == nil {
		err = start[0].Err
	}
	switch {
	case err == nil && !start[0].Moved:
		d.counted = true
		return true
	case err == nil || errors.Is(err, ErrLeaseLost):
		d.drop()
	default:
		r.c.log.Warn("gombu: could not count an attempt; will try again", "queue", d.Queue, "err", err)
		r.holdAgain(d)
	}
	return false
}

// drop forgets a delivery whose claim is no longer ours.
func (d *Delivery) drop() {
	d.claim(stRequeued)
	d.rec.gave(1)
}

// failed is what follows a handler's error: a dead letter when that was the
// last attempt, else another one after a back-off.
func (r *run) failed(ctx context.Context, d *Delivery, reason string, err error) {
	if r.last(ctx, d, reason, err) {
		return
	}
	wait := backOff(d.try)
	r.c.log.Warn("gombu: handler failed; the message is retried", "queue", d.Queue, "attempt", d.try, "after", wait, "err", err)
	room := 0
	if r.attempts(d.Queue) > 0 { // without one, giving back early would go on for ever
		room = max(r.k.prefetch(d.Queue)/2, 1)
	}
	r.hold(heldItem{d: d, then: r.retry, room: room}, wait)
}

// last buries d when it has no attempt left.
func (r *run) last(ctx context.Context, d *Delivery, reason string, err error) bool {
	limit := r.attempts(d.Queue)
	switch {
	case d.rec.over.Load(): // whoever gets it judges
		r.requeue(d)
		return true
	case limit > 0 && d.try >= limit:
		r.bury(ctx, d, &death{reason, d.try, err})
		return true
	}
	return false
}

// retry leads d to its next attempt.
func (r *run) retry(d *Delivery) {
	d.try++
	d.ended = true
	if d.rec.counts == countMoved && r.attempts(d.Queue) > 0 {
		d.rec.forward(d)
	} else {
		r.rerun(d)
	}
}

// rerun runs d once more under the same claim: given back, it could not be told
// from one whose consumer died.
func (r *run) rerun(d *Delivery) {
	if e := d.anew(); e != nil {
		r.again(e)
	}
}

// again lets a worker try once more, or gives d back when none does.
func (r *run) again(d *Delivery) {
	if !r.jobs.again(d) {
		r.requeue(d)
	}
}

// holdAgain tries again, later, what could not be done with d.
func (r *run) holdAgain(d *Delivery) {
	d.tries++
	r.hold(heldItem{d: d, then: r.again}, backOff(d.tries))
}

// The back-off of a failing message.
const (
	holdFirst = time.Second
	holdMost  = time.Minute
)

// backOff is the wait after n failures (n >= 1).
func backOff(n int) time.Duration { return min(holdFirst<<min(n-1, 10), holdMost) }

// deadPrefix begins the names of dead-letter queues.
const deadPrefix = "gombu.dead."

// deadQueue is where the dead letters of queue go; empty when it is a
// dead-letter queue itself: from there they have nowhere to go.
func (r *run) deadQueue(queue string) string {
	switch {
	case queue == r.cfg.DeadLetter || strings.HasPrefix(queue, deadPrefix):
		return ""
	case r.cfg.DeadLetter != "":
		return r.cfg.DeadLetter
	}
	return deadPrefix + queue
}

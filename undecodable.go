package gombu

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"

	"github.com/gombu/gombu/driver"
)

// parkPrefix begins the names of the queues that undecodable messages go to.
const parkPrefix = "gombu.undecodable."

// The headers of a parked message where the transport keeps headers.
const (
	headerError = "x-gombu-error"
	headerQueue = "x-gombu-queue"
)

func tagSuffix() string { return strings.ToLower(rand.Text()) }

// bad is what happens to a message that cannot be decoded: the hook settles
// it, or it is parked. It is never dropped. A message of a parking queue has
// nowhere else to go: its handler gets it as it is.
func (r *run) bad(ctx context.Context, d *Delivery, err error) {
	switch {
	case r.cfg.OnUndecodable != nil:
		herr := r.call(ctx, d, err)
		if herr != nil && d.undecodable(herr) {
			wait := r.failed.fail(d)
			r.hold(d, wait, r.requeue)
			return
		}
		r.finish(ctx, d, herr)
	case r.cfg.NoAck:
		r.c.log.Error("gombu: an undecodable message is lost: NoAck leaves nothing to park", "queue", d.Queue, "err", err)
	case strings.HasPrefix(d.Queue, parkPrefix):
		herr := r.call(ctx, d, nil)
		if herr != nil && d.undecodable(herr) {
			r.hold(d, r.failed.fail(d), r.requeue)
			return
		}
		r.finish(ctx, d, herr)
	default:
		r.park(ctx, d, err)
	}
}

// park moves d to its queue's parking queue: in one step where the transport
// can, else by a confirmed publish and an ack. Until that has worked it keeps
// the claim and tries again.
func (r *run) park(ctx context.Context, d *Delivery, why error) {
	queue := parkPrefix + d.Queue
	var err error
	if m, ok := d.rec.rx.(driver.Mover); ok {
		err = r.move(ctx, m, d, queue, why)
	} else {
		err = r.republish(ctx, d, queue, why)
	}
	switch {
	case err == nil:
		if _, said := r.parked.LoadOrStore(d.Queue, true); !said {
			r.c.log.Error("gombu: undecodable message parked (said once per queue)", "queue", d.Queue, "parked", queue, "err", why)
		}
		r.c.hooks.send(Event{Kind: driver.Parked, Entity: d.Queue, Detail: why.Error()})
	case errors.Is(err, ErrLeaseLost):
		d.claim(stRequeued)
		d.rec.gave(1)
	default:
		r.c.log.Error("gombu: could not park an undecodable message; will try again", "queue", d.Queue, "err", err)
		r.hold(d, r.failed.fail(d), r.again)
	}
}

// again lets a worker try once more, or gives d back when none does.
func (r *run) again(d *Delivery) {
	if !r.jobs.again(d) {
		r.requeue(d)
	}
}

// move parks in one step.
func (r *run) move(ctx context.Context, m driver.Mover, d *Delivery, queue string, why error) error {
	mv := []driver.Move{{Tag: d.tag, Verbatim: true, To: driver.Outgoing{Key: queue, Props: Properties{Headers: parkHeaders(nil, d, why)}}}}
	if err := m.Move(ctx, mv); err != nil {
		return err
	}
	if mv[0].Err != nil {
		return mv[0].Err
	}
	d.claim(stAcked)
	d.rec.gave(1)
	return nil
}

// republish parks by a confirmed publish, then acks. A crash between the two
// parks the message twice, never loses it.
func (r *run) republish(ctx context.Context, d *Delivery, queue string, why error) error {
	if err := r.c.declareOnce(ctx, &Topology{Queues: []Queue{{Name: queue}}}); err != nil {
		return err
	}
	m := &Message{Queue: queue, Body: d.Body, Properties: d.Properties}
	if m.Body == nil {
		m.Body = []byte{}
	}
	m.UserID = "" // the broker refuses a foreign one
	m.Expiration = 0
	m.Headers = parkHeaders(m.Headers, d, why)
	if err := r.c.Producer(nil).Publish(ctx, m); err != nil {
		return err
	}
	r.settle(d, stAcked, driver.Ack, 0)
	return nil
}

func parkHeaders(h Headers, d *Delivery, why error) Headers {
	return h.With(headerError, why.Error()).With(headerQueue, d.Queue)
}

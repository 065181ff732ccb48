package gombu

import (
	"cmp"
	"context"
	"errors"
	"strings"
	"time"

	"github.com/gombu/gombu/driver"
)

// The reasons in x-death. The first is RabbitMQ's word.
const (
	deliveryLimit = "delivery_limit"
	undecodable   = "undecodable"
)

// A death is why a message becomes a dead letter.
type death struct {
	reason   string
	attempts int // handler starts
	err      error
}

// maxDeathError bounds the error's text in a header, in bytes: AMQP's headers
// must fit one frame.
const maxDeathError = 1 << 10

// headerUser keeps the user id of a copy: RabbitMQ refuses a foreign one.
const headerUser = "x-gombu-user-id"

// bad is what happens to a message that cannot be decoded: the hook settles
// it, or it is a dead letter. It is never dropped. In a dead-letter queue its
// handler gets it as it is. It had so many starts.
func (r *run) bad(ctx context.Context, d *Delivery, starts int, err error) {
	hook := r.cfg.OnUndecodable != nil
	switch {
	case hook && !r.admit(ctx, d):
	case hook || r.deadQueue(d.Queue) == "":
		if !hook {
			err = nil
		}
		herr := r.call(ctx, d, err)
		if herr != nil && d.undecodable(herr) && d.state.Load() == stOpen && !r.cfg.NoAck {
			r.failed(ctx, d, undecodable, herr)
			return
		}
		r.finish(ctx, d, herr)
	case r.cfg.NoAck:
		r.c.log.Error("gombu: an undecodable message is lost: NoAck leaves no claim to move", "queue", d.Queue, "err", err)
	default:
		r.bury(ctx, d, &death{undecodable, starts, err})
	}
}

// bury moves d to the dead-letter queue. Until that has worked it keeps the
// claim and tries again.
func (r *run) bury(ctx context.Context, d *Delivery, why *death) {
	d.dead = why
	queue := r.deadQueue(d.Queue)
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	err := r.transfer(ctx, d, queue, why)
	switch {
	case err == nil:
		d.done = true
		if _, said := r.parked.LoadOrStore(d.Queue+"\x00"+why.reason, true); !said {
			r.c.log.Error("gombu: a message became a dead letter (said once per queue and reason)", "queue", d.Queue, "to", queue,
				"reason", why.reason, "attempts", why.attempts, "err", why.err)
		}
		r.c.hooks.send(Event{Kind: driver.Parked, Entity: d.Queue, Detail: why.reason + ": " + why.err.Error()})
	case errors.Is(err, ErrLeaseLost):
		d.drop()
	default:
		r.c.log.Error("gombu: could not move a dead letter; will try again", "queue", d.Queue, "to", queue, "err", err)
		r.c.hooks.send(Event{Kind: driver.Warning, Entity: d.Queue, Detail: "could not move a dead letter to " + queue + ": " + err.Error()})
		r.holdAgain(d)
	}
}

// transfer moves d in one step where the transport can, else by a confirmed
// publish and an ack: a crash between the two leaves two, never none. The queue
// is declared when it is missing, so that it may be the user's own.
func (r *run) transfer(ctx context.Context, d *Delivery, queue string, why *death) error {
	put := func() error { return r.republish(ctx, d, queue, why) }
	if m, ok := d.rec.rx.(driver.Mover); ok {
		put = func() error { return r.move(ctx, m, d, queue, why) }
	}
	err := put()
	if !missing(err) {
		return err
	}
	if err := r.make(ctx, queue); err != nil {
		return err
	}
	return put()
}

func missing(err error) bool { return errors.Is(err, ErrUnroutable) || errors.Is(err, ErrNotFound) }

// make declares a queue of ours. One that somebody made in his own way will do.
func (r *run) make(ctx context.Context, queue string) error {
	err := r.c.Declare(ctx, Topology{Queues: []Queue{{Name: queue}}})
	if errors.Is(err, ErrConflict) {
		return nil
	}
	return err
}

// move is transfer in one step. What cannot be decoded goes as it is stored.
func (r *run) move(ctx context.Context, m driver.Mover, d *Delivery, queue string, why *death) error {
	to := driver.Outgoing{Key: queue, Props: d.Properties, Body: d.Body}
	to.Props.Headers, to.Props.Expiration = why.headers(d), 0
	mv := []driver.Move{{Tag: d.tag, Verbatim: why.reason == undecodable, To: to}}
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

func (r *run) republish(ctx context.Context, d *Delivery, queue string, why *death) error {
	m := d.copy(queue, why.headers(d))
	if d.UserID != "" {
		m.Headers = m.Headers.With(headerUser, d.UserID)
	}
	if err := r.c.Producer(nil).Publish(ctx, m); err != nil {
		return err
	}
	r.settle(d, stAcked, driver.Ack, 0)
	return nil
}

// copy is d as a message for queue. What a broker would act upon is left out:
// the expiration, a foreign user id, further routing keys (RabbitMQ's CC and
// BCC), and the count that a quorum queue adds to each delivery.
func (d *Delivery) copy(queue string, h Headers) *Message {
	m := &Message{Queue: queue, Body: d.Body, Properties: d.Properties, asIs: true}
	if m.Body == nil {
		m.Body = []byte{}
	}
	m.UserID, m.Expiration = "", 0
	m.Headers = h.Without("CC").Without("BCC").Without("x-delivery-count")
	return m
}

// headers are d's with this death in them, as RabbitMQ writes it
// (rabbitmq.com/docs/dlx#effects), and with what RabbitMQ does not know: the
// last time, the attempts and the error.
func (w *death) headers(d *Delivery) Headers {
	now := time.Now().UTC().Truncate(time.Second) // AMQP keeps no more
	text := strings.ToValidUTF8(w.err.Error(), "\uFFFD")
	if len(text) > maxDeathError {
		text = strings.ToValidUTF8(text[:maxDeathError], "")
	}
	keys := []any{d.Key}
	if cc, ok := d.Headers.Get("CC").([]any); ok {
		keys = append(keys, cc...)
	}
	count, first := int64(1), any(now)
	var others []any
	deaths, _ := d.Headers.Get("x-death").([]any)
	for _, v := range deaths {
		e := table(v)
		if e.Get("queue") == d.Queue && e.Get("reason") == w.reason {
			n, _ := e.Get("count").(int64)
			count, first = n+1, cmp.Or(e.Get("time"), first)
		} else {
			others = append(others, v)
		}
	}
	entry := Headers{
		{Key: "queue", Value: d.Queue},
		{Key: "reason", Value: w.reason},
		{Key: "count", Value: count},
		{Key: "exchange", Value: d.Exchange},
		{Key: "routing-keys", Value: keys},
		{Key: "time", Value: first},
		{Key: "last-time", Value: now},
		{Key: "attempts", Value: int64(w.attempts)},
		{Key: "error", Value: text},
	}
	h := d.Headers.With("x-death", append([]any{entry}, others...))
	if _, again := h.Lookup("x-first-death-reason"); !again {
		h = h.With("x-first-death-queue", d.Queue).With("x-first-death-reason", w.reason).With("x-first-death-exchange", d.Exchange)
	}
	return h
}

// table is a header table in either form.
func table(v any) Headers {
	switch v := v.(type) {
	case Headers:
		return v
	case map[string]any:
		h := make(Headers, 0, len(v))
		for k, e := range v {
			h = append(h, Header{Key: k, Value: e})
		}
		return h
	}
	return nil
}

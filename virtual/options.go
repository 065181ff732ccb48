package virtual

import (
	"context"
	"errors"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/wire/kombu"
)

// A store brings the optional abilities of its receivers by implementing
// driver.Leaser and driver.Counter itself, with tags of its own, and by
// Info.Atomic, which makes a Mover. One type for each combination, because a
// receiver must not claim what its store cannot do.
func (r *receiver) withOptions() driver.Receiver {
	if r.watch != nil {
		return struct {
			*receiver
			counter
			mover
			inline
		}{r, counter{r}, mover{r}, inline{r}}
	}
	_, leases := r.c.store.(driver.Leaser)
	_, counts := r.c.store.(driver.Counter)
	switch l, n, m := (extender{r}), (counter{r}), (mover{r}); {
	case leases && counts && r.c.info.Atomic:
		return struct {
			*receiver
			extender
			counter
			mover
		}{r, l, n, m}
	case leases && counts:
		return struct {
			*receiver
			extender
			counter
		}{r, l, n}
	case leases && r.c.info.Atomic:
		return struct {
			*receiver
			extender
			mover
		}{r, l, m}
	case counts && r.c.info.Atomic:
		return struct {
			*receiver
			counter
			mover
		}{r, n, m}
	case leases:
		return struct {
			*receiver
			extender
		}{r, l}
	case counts:
		return struct {
			*receiver
			counter
		}{r, n}
	case r.c.info.Atomic:
		return struct {
			*receiver
			mover
		}{r, m}
	}
	return r
}

// stored returns the store's tag of a delivery. For a broadcast there is none.
func (r *receiver) stored(op string, t driver.Tag) (tag driver.Tag, fan bool, err error) {
	over := r.c.over()
	r.mu.Lock()
	defer r.mu.Unlock()
	o := r.slots.get(t)
	if o == nil || over || r.closed {
		return driver.Tag{}, false, r.lost(op)
	}
	return o.store, o.fan, nil
}

func isLeaseLost(err error) bool { return errors.Is(err, driver.ErrLeaseLost) }

type extender struct{ r *receiver }

func (e extender) Extend(ctx context.Context, l []driver.Lease, d time.Duration) error {
	out, of := make([]driver.Lease, 0, len(l)), make([]int, 0, len(l))
	for i := range l {
		tag, fan, err := e.r.stored("extend", l[i].Tag)
		if l[i].Err = err; err == nil && !fan {
			out, of = append(out, driver.Lease{Tag: tag}), append(of, i)
		}
	}
	if len(out) == 0 {
		return nil
	}
	err := e.r.c.store.(driver.Leaser).Extend(ctx, out, d)
	for i := range out {
		l[of[i]].Err = out[i].Err
	}
	return err
}

type counter struct{ r *receiver }

func (n counter) Begin(ctx context.Context, s []driver.Start) error {
	out, of := make([]driver.Start, 0, len(s)), make([]int, 0, len(s))
	for i := range s {
		tag, fan, err := n.r.stored("begin", s[i].Tag)
		if s[i].Err = err; err == nil && !fan {
			start := s[i]
			start.Tag = tag
			out, of = append(out, start), append(of, i)
		}
	}
	if len(out) == 0 {
		return nil
	}
	err := n.r.c.store.(driver.Counter).Begin(ctx, out)
	for i := range out {
		tag := s[of[i]].Tag
		s[of[i]] = out[i]
		s[of[i]].Tag = tag
		if isLeaseLost(out[i].Err) {
			n.r.free(tag)
		}
	}
	return err
}

type mover struct{ r *receiver }

// Move routes each message as a publish would be and lets the store put the
// copies and end the claim in one step. A message that leads nowhere leaves its
// claim as it is.
func (m mover) Move(ctx context.Context, moves []driver.Move) error {
	var failed error
	for i := range moves {
		if failed != nil || ctx.Err() != nil {
			return errors.Join(failed, context.Cause(ctx))
		}
		failed = m.move(ctx, &moves[i])
	}
	return failed
}

func (m mover) move(ctx context.Context, mv *driver.Move) error {
	r := m.r
	tag, fan, err := r.stored("move", mv.Tag)
	if err != nil {
		mv.Err = err
		return nil
	}
	s := []Settlement{{Settlement: driver.Settlement{Tag: tag, Outcome: driver.Ack}}}
	if mv.Verbatim {
		s[0].Verbatim = mv.To.Key
		if !r.c.info.Bytes { // there is no text: the headers go with the message
			s[0].Put = []Item{{Queue: mv.To.Key, Msg: &mv.To}}
		}
	} else if s[0].Put, err = m.items(ctx, &mv.To); err != nil {
		mv.Err = err
		return nil
	}
	if fan {
		return m.moveBroadcast(ctx, mv, s[0].Put)
	}
	err = r.c.store.Settle(ctx, s)
	if mv.Err = s[0].Err; mv.Err == nil && err == nil || isLeaseLost(mv.Err) {
		r.free(mv.Tag)
	}
	return err
}

// items are the copies of m for every queue it routes to.
func (m mover) items(ctx context.Context, out *driver.Outgoing) ([]Item, error) {
	p := post{c: m.r.c}
	to := *out
	to.NoMandatory = false
	if err := p.add(ctx, []driver.Outgoing{to}, 0, envelope{}); err != nil {
		return nil, err
	}
	if len(p.cast.items) > 0 {
		return nil, m.r.c.fail("move", out.Exchange, driver.ErrUnsupported, "a broadcast is no part of one step")
	}
	return p.items, nil
}

// moveBroadcast pushes in place of a message that the store never held.
func (m mover) moveBroadcast(ctx context.Context, mv *driver.Move, put []Item) error {
	if mv.Verbatim {
		m.r.mu.Lock()
		put = []Item{{Queue: mv.To.Key, ID: m.r.c.NewID(), Raw: m.r.slots.get(mv.Tag).raw}}
		m.r.mu.Unlock()
		var in driver.Incoming
		if kombu.Decode(put[0].Raw, &in) == nil {
			put[0].Priority, put[0].TTL = in.Props.Priority, in.Props.Expiration
		}
	}
	err := m.r.c.store.Push(ctx, put)
	for i := range put {
		if put[i].Err != nil {
			mv.Err = put[i].Err
		}
	}
	if err == nil && mv.Err == nil {
		m.r.free(mv.Tag)
	}
	return err
}

// free ends a delivery and returns its credit.
func (r *receiver) free(t driver.Tag) {
	r.mu.Lock()
	r.slots.drop(t)
	r.mu.Unlock()
	r.roomChanged()
}

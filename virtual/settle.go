package virtual

import (
	"context"

	"github.com/gombu/gombu/driver"
)

// settling is the scratch space of one Settle.
type settling struct {
	out []Settlement
	of  []int // which of the caller's each is
}

func release(t driver.Tag) Settlement {
	return Settlement{Settlement: driver.Settlement{Tag: t, Outcome: driver.Release}}
}

func (r *receiver) lost(op string) error {
	return r.c.fail(op, r.queue, driver.ErrLeaseLost, "no such claim: settled, or its receiver or session is gone")
}

// Settle translates tags and frees credit. A claim keeps its slot while its
// outcome is open, so that a settle that failed can be repeated.
func (r *receiver) Settle(ctx context.Context, s []driver.Settlement) error {
	w := r.translate(s)
	var err error
	if len(w.out) > 0 {
		err = r.c.store.Settle(ctx, w.out)
	}
	r.mu.Lock()
	before := r.room()
	for i := range w.out {
		o := &s[w.of[i]]
		if o.Err = w.out[i].Err; o.Err == nil && err == nil || isLeaseLost(o.Err) {
			r.slots.drop(o.Tag)
		}
	}
	freed := len(s) > len(w.out) || before == 0 || r.claimer != nil && !r.busy
	clear(w.out)
	r.scratch = w
	r.mu.Unlock()
	if freed {
		r.roomChanged()
	}
	return err
}

func (r *receiver) translate(s []driver.Settlement) *settling {
	over := r.c.over()
	r.mu.Lock()
	defer r.mu.Unlock()
	w := r.scratch
	if r.scratch = nil; w == nil {
		w = &settling{}
	}
	w.out, w.of = w.out[:0], w.of[:0]
	for i := range s {
		s[i].Err = nil
		o := r.slots.get(s[i].Tag)
		switch {
		case o == nil || over || r.closed:
			s[i].Err = r.lost("settle")
		case o.fan:
			r.slots.drop(s[i].Tag)
		case s[i].Outcome == driver.Delay && !r.c.info.Queue.Delay:
			s[i].Err = r.c.fail("settle", r.queue, driver.ErrUnsupported, "this queue cannot delay")
		default:
			w.out = append(w.out, Settlement{Settlement: s[i]})
			w.out[len(w.out)-1].Tag = o.store
			w.of = append(w.of, i)
		}
	}
	return w
}

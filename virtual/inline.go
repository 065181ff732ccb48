package virtual

import (
	"context"

	"github.com/gombu/gombu/driver"
)

// receiveInline waits for what tryReceive would find.
func (r *receiver) receiveInline(ctx context.Context, dst []driver.Incoming) (int, error) {
	for {
		if ctx.Err() != nil {
			r.watch.Leave() // what it was woken for is another's
			return 0, context.Cause(ctx)
		}
		n, err := r.tryReceive(dst)
		if n > 0 {
			r.watch.Leave() // who knows when it comes back
		}
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
		}
	}
}

// inline makes a driver.TryReceiver of a receiver over an inline store.
type inline struct{ r *receiver }

func (i inline) Notify(ready func(error)) { i.r.ready.Store(&ready) }

func (i inline) TryReceive(dst []driver.Incoming) (int, error) { return i.r.tryReceive(dst) }

func (r *receiver) tryReceive(dst []driver.Incoming) (int, error) {
	r.mu.Lock()
	if r.over != nil {
		r.mu.Unlock()
		return 0, r.over
	}
	room := min(len(dst), r.room())
	r.starved, r.busy = room == 0, room > 0
	r.mu.Unlock()
	if room == 0 {
		r.watch.Leave()
		return 0, nil
	}
	n, empty, err := r.watch.Claim(dst[:room], maxClaim, r.cfg.NoAck)
	over, again := r.took(dst, n, empty)
	switch {
	case over != nil: // Close gives back what was taken
		return 0, over
	case isNotFound(err):
		r.vanish(err)
	case again:
		r.rouse(nil)
	}
	return n, err
}

// took counts what was claimed for dst. again says that nobody will say when it
// is time for the next try, for it is now.
func (r *receiver) took(dst []driver.Incoming, n int, empty bool) (over error, again bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range dst[:n] {
		in := &dst[i]
		if !r.cfg.NoAck {
			in.Tag = r.slots.put(in.Tag, false, nil)
		}
		in.Queue, in.ConsumerTag = r.queue, r.cfg.Tag
	}
	r.rest()
	if !empty && n < len(dst) {
		r.starved = r.room() == 0
		again = !r.starved
	}
	return r.over, again
}

// rouse says that tryReceive is worth a try, or that it never will be again.
func (r *receiver) rouse(err error) {
	if ready := r.ready.Load(); ready != nil {
		(*ready)(err)
	} else {
		signal(r.wake)
	}
}

package gombu

import (
	"bytes"
	"sync"
	"sync/atomic"

	"github.com/gombu/gombu/driver"
)

// twins are redelivered messages whose first run goes on here, its claim lost.
// They wait for its end: what that handled is acked, the rest gets its turn.
// They are held under claims of their own, so prefetch bounds them.
type twins struct {
	running []atomic.Pointer[Delivery] // by worker
	waiting atomic.Int32               // or about to: who ends a run looks only then

	mu sync.Mutex
	of map[*Delivery][]*Delivery // by the first run
}

func newTwins(workers int) twins {
	return twins{running: make([]atomic.Pointer[Delivery], workers), of: map[*Delivery][]*Delivery{}}
}

// hold keeps d while the message runs here; false when it does not. Only the
// message id, with the body, tells that two deliveries are one message.
func (t *twins) hold(d *Delivery) bool {
	if !d.Redelivered || d.MessageID == "" {
		return false
	}
	t.waiting.Add(1) // before looking: see ended
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.running {
		first := t.running[i].Load()
		if first != nil && first.Queue == d.Queue && first.MessageID == d.MessageID && bytes.Equal(first.Body, d.Body) {
			t.of[first] = append(t.of[first], d)
			return true
		}
	}
	t.waiting.Add(-1)
	return false
}

// ended returns those that wait for first, which runs no more.
func (t *twins) ended(first *Delivery) []*Delivery {
	if t.waiting.Load() == 0 {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	ds := t.of[first]
	delete(t.of, first)
	t.waiting.Add(int32(-len(ds)))
	return ds
}

// extract takes out what belongs to rec.
func (t *twins) extract(rec *reception) []*Delivery {
	t.mu.Lock()
	defer t.mu.Unlock()
	var out []*Delivery
	for first, ds := range t.of {
		kept := ds[:0]
		for _, d := range ds {
			if d.rec == rec {
				out = append(out, d)
			} else {
				kept = append(kept, d)
			}
		}
		t.of[first] = kept
	}
	t.waiting.Add(int32(-len(out)))
	return out
}

// occupy notes that a worker runs d.
func (r *run) occupy(worker int, d *Delivery) {
	r.busy.Add(1)
	d.rec.begin()
	r.twins.running[worker].Store(d)
}

// vacate is the end of that, and of what waited for it.
func (r *run) vacate(worker int, d *Delivery) {
	r.twins.running[worker].Store(nil)
	for _, twin := range r.twins.ended(d) {
		if d.done {
			r.settle(twin, stAcked, driver.Ack, 0)
		} else {
			r.again(twin)
		}
	}
	if d.Redelivered {
		d.rec.src.suspects.leave(d)
	}
	d.rec.gave(1)
	r.busy.Add(-1)
}

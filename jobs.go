package gombu

import (
	"slices"
	"sync"
	"time"
)

// jobs is the deliveries that wait for a worker, in order. Prefetch bounds it.
type jobs struct {
	mu     sync.Mutex
	more   sync.Cond // L is &mu
	list   []*Delivery
	head   int
	closed bool
}

func (j *jobs) init() { j.more.L = &j.mu }

// push adds the deliveries of a slab; false when no worker takes any more.
func (j *jobs) push(slab []Delivery) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return false
	}
	if j.head > 0 && len(j.list)+len(slab) > cap(j.list) {
		n := copy(j.list, j.list[j.head:])
		clear(j.list[n:])
		j.list, j.head = j.list[:n], 0
	}
	for i := range slab {
		j.list = append(j.list, &slab[i])
	}
	if len(slab) == 1 {
		j.more.Signal()
	} else {
		j.more.Broadcast()
	}
	return true
}

// again puts one delivery back at the end; false when no worker takes any more
// of its kind.
func (j *jobs) again(d *Delivery) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || d.rec.extracted {
		return false
	}
	j.list = append(j.list, d)
	j.more.Signal()
	return true
}

// pop waits for a delivery; nil when the consumer stops.
func (j *jobs) pop() *Delivery {
	j.mu.Lock()
	defer j.mu.Unlock()
	for j.head == len(j.list) && !j.closed {
		j.more.Wait()
	}
	if j.closed {
		return nil
	}
	d := j.list[j.head]
	j.list[j.head] = nil
	if j.head++; j.head == len(j.list) {
		j.list, j.head = j.list[:0], 0
	}
	return d
}

// putBack returns d to the head; false when its reception has been extracted.
func (j *jobs) putBack(d *Delivery) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if d.rec.extracted {
		return false
	}
	j.list = slices.Insert(j.list, j.head, d)
	return true
}

// close lets the workers end; what waits stays for extract.
func (j *jobs) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	j.more.Broadcast()
}

// extract takes out what belongs to rec.
func (j *jobs) extract(rec *reception) []*Delivery {
	j.mu.Lock()
	defer j.mu.Unlock()
	rec.extracted = true
	var out []*Delivery
	j.list = slices.DeleteFunc(slices.Delete(j.list, 0, j.head), func(d *Delivery) bool {
		if d.rec == rec {
			out = append(out, d)
		}
		return d.rec == rec
	})
	j.head = 0
	return out
}

// held is the deliveries that wait for their back-off to end. One goroutine of
// the run serves it while there are any.
type held struct {
	mu      sync.Mutex
	list    []heldItem // soonest first
	running bool
	wake    chan struct{} // cap 1
}

type heldItem struct {
	d    *Delivery
	due  time.Time
	then func(*Delivery)
}

// hold keeps d for a while, then calls then on the run's goroutine. When the
// subscription of d is ending, it goes back at once.
func (r *run) hold(d *Delivery, after time.Duration, then func(*Delivery)) {
	if !r.held.add(r, d, after, then) {
		r.requeue(d)
	}
}

// add is hold's part under the lock; false when what was held has been given back.
func (h *held) add(r *run, d *Delivery, after time.Duration, then func(*Delivery)) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.rec.released {
		return false
	}
	it := heldItem{d, time.Now().Add(after), then}
	i, _ := slices.BinarySearchFunc(h.list, it, func(a, b heldItem) int { return a.due.Compare(b.due) })
	h.list = slices.Insert(h.list, i, it)
	if !h.running {
		h.running = true
		r.aux.Go(r.holdLoop)
	}
	select {
	case h.wake <- struct{}{}:
	default:
	}
	return true
}

func (r *run) holdLoop() {
	h := &r.held
	for {
		h.mu.Lock()
		if len(h.list) == 0 {
			h.running = false
			h.mu.Unlock()
			return
		}
		first := h.list[0]
		wait := time.Until(first.due)
		if wait <= 0 {
			h.list = slices.Delete(h.list, 0, 1)
		}
		h.mu.Unlock()
		if wait <= 0 {
			first.then(first.d)
			continue
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-h.wake:
		}
		t.Stop()
	}
}

// extract takes out what belongs to rec; nothing of it is held any more.
func (h *held) extract(rec *reception) []*Delivery {
	h.mu.Lock()
	defer h.mu.Unlock()
	rec.released = true
	var out []*Delivery
	h.list = slices.DeleteFunc(h.list, func(it heldItem) bool {
		if it.d.rec == rec {
			out = append(out, it.d)
		}
		return it.d.rec == rec
	})
	select {
	case h.wake <- struct{}{}:
	default:
	}
	return out
}

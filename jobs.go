package gombu

import (
	"slices"
	"sync"
	"time"
)

// A job is a delivery that waits for a worker, or a place at which the worker
// is to pull: one of the two.
type job struct {
	d    *Delivery
	pull *puller
}

func (it job) rec() *reception {
	if it.pull != nil {
		return it.pull.rec
	}
	return it.d.rec
}

// jobs is what waits for a worker, in order. Prefetch bounds it.
type jobs struct {
	mu     sync.Mutex
	more   sync.Cond // L is &mu
	list   []job
	head   int
	closed bool

	most    int       // workers; fixed
	hire    func(int) // starts the n-th worker, under mu; fixed
	workers int       // hired
	busy    int       // of these, with a job
}

func (j *jobs) init(workers int, hire func(int)) {
	j.more.L, j.most, j.hire = &j.mu, workers, hire
}

// called wakes workers for n jobs that were added; the caller holds mu. Nobody
// is hired before there is something to do.
func (j *jobs) called(n int) {
	for j.workers < j.most && j.workers-j.busy < len(j.list)-j.head {
		j.hire(j.workers)
		j.workers++
	}
	if n == 1 {
		j.more.Signal()
	} else {
		j.more.Broadcast()
	}
}

// push adds deliveries of rec, and then its place, unless that is nil; false when
// no worker takes any more of them.
func (j *jobs) push(rec *reception, ds []*Delivery, place *puller) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || rec.extracted {
		return false
	}
	n := len(ds)
	if place != nil {
		n++
	}
	if j.head > 0 && len(j.list)+n > cap(j.list) {
		left := copy(j.list, j.list[j.head:])
		clear(j.list[left:])
		j.list, j.head = j.list[:left], 0
	}
	for _, d := range ds {
		j.list = append(j.list, job{d: d})
	}
	if place != nil {
		j.list = append(j.list, job{pull: place})
	}
	j.called(n)
	return true
}

// again puts one delivery back at the end; false when no worker takes any more
// of its kind.
func (j *jobs) again(d *Delivery) bool { return j.push(d.rec, []*Delivery{d}, nil) }

// offer puts a turn of a retry queue in line, behind whoever is next, so that
// neither the queue nor its copies wait for all of the other; false when no
// worker takes any more of its kind.
func (j *jobs) offer(d *Delivery) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || d.rec.extracted {
		return false
	}
	j.list = slices.Insert(j.list, min(j.head+1, len(j.list)), job{d: d})
	j.called(1)
	return true
}

// pop waits for a job, for a worker that had one before or not; none when the
// consumer stops.
func (j *jobs) pop(had bool) (it job, ok bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if had {
		j.busy--
	}
	for j.head == len(j.list) && !j.closed {
		j.more.Wait()
	}
	if j.closed {
		return job{}, false
	}
	it = j.list[j.head]
	j.list[j.head] = job{}
	if j.head++; j.head == len(j.list) {
		j.list, j.head = j.list[:0], 0
	}
	j.busy++
	return it, true
}

// putBack returns d to the head; false when its reception has been extracted.
func (j *jobs) putBack(d *Delivery) bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if d.rec.extracted {
		return false
	}
	j.list = slices.Insert(j.list, j.head, job{d: d})
	return true
}

// close lets the workers end; what waits stays for extract.
func (j *jobs) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	j.more.Broadcast()
}

// extract takes out what belongs to rec, and returns the deliveries.
func (j *jobs) extract(rec *reception) []*Delivery {
	j.mu.Lock()
	defer j.mu.Unlock()
	rec.extracted = true
	var out []*Delivery
	j.list = slices.DeleteFunc(slices.Delete(j.list, 0, j.head), func(it job) bool {
		if it.rec() != rec {
			return false
		}
		if it.d != nil {
			out = append(out, it.d)
		}
		return true
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
	then func(*Delivery) // on the run's goroutine, or on that of a further hold
	room int             // how many with such a bound one queue may have here; 0: no bound
}

// hold keeps a delivery for a while. When its subscription is ending, it goes
// back at once. When the bound of it is passed, the one due soonest is due.
func (r *run) hold(it heldItem, after time.Duration) {
	it.due = time.Now().Add(after)
	if !r.held.add(r, it) {
		r.requeue(it.d)
	} else if it.room > 0 {
		if first := r.held.excess(it.d.rec.src, it.room); first != nil {
			first.then(first.d)
		}
	}
}

// excess takes out the first of a queue's bounded ones when there are more than
// room; nil when not.
func (h *held) excess(s *source, room int) *heldItem {
	h.mu.Lock()
	defer h.mu.Unlock()
	n, first := 0, -1
	for i, it := range h.list {
		if it.room > 0 && it.d.rec.src == s {
			if n++; first < 0 {
				first = i
			}
		}
	}
	if n <= room {
		return nil
	}
	it := h.list[first]
	h.list = slices.Delete(h.list, first, first+1)
	return &it
}

// add is hold's part under the lock; false when what was held has been given back.
func (h *held) add(r *run, it heldItem) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if it.d.rec.released {
		return false
	}
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

package memory

import (
	"slices"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// waiter is a Claim that blocks, on ch, or a watch that is told by ready.
type waiter struct {
	ch    chan struct{} // capacity 1
	ready func()
	waits bool // a watch's: it is among its queue's waiters
}

// waiters is those of a queue, the longest waiting first.
type waiters struct {
	all  []*waiter
	head int
}

func (ws *waiters) len() int { return len(ws.all) - ws.head }

func (ws *waiters) push(w *waiter) {
	if ws.head > 0 && len(ws.all) == cap(ws.all) {
		n := copy(ws.all, ws.all[ws.head:])
		clear(ws.all[n:])
		ws.all, ws.head = ws.all[:n], 0
	}
	ws.all = append(ws.all, w)
}

func (ws *waiters) pop() *waiter {
	w := ws.all[ws.head]
	ws.all[ws.head] = nil
	if ws.head++; ws.head == len(ws.all) {
		ws.all, ws.head = ws.all[:0], 0
	}
	return w
}

func (ws *waiters) remove(w *waiter) {
	if i := slices.Index(ws.all, w); i >= 0 {
		ws.all = slices.Delete(ws.all, i, i+1)
	}
}

func (b *broker) waiter() *waiter {
	if n := len(b.spare); n > 0 {
		w := b.spare[n-1]
		b.spare = b.spare[:n-1]
		return w
	}
	return &waiter{ch: make(chan struct{}, 1)}
}

// retire keeps a waiter for the next Claim, with nothing in its channel.
func (b *broker) retire(w *waiter) {
	select {
	case <-w.ch:
	default:
	}
	if len(b.spare) < keepWaiters {
		b.spare = append(b.spare, w)
	}
}

const keepWaiters = 256

func (b *broker) await(w *waiter, wants []virtual.Want) {
	for i := range wants {
		if q := b.queues[wants[i].Queue]; q != nil {
			q.waiters.push(w)
		}
	}
}

func (b *broker) forget(w *waiter, wants []virtual.Want) {
	for i := range wants {
		if q := b.queues[wants[i].Queue]; q != nil {
			q.waiters.remove(w)
		}
	}
}

// passOn wakes the next in line for w, which was woken and leaves.
func (b *broker) passOn(w *waiter, wants []virtual.Want) {
	if len(w.ch) == 0 {
		return
	}
	for i := range wants {
		if q := b.queues[wants[i].Queue]; q != nil {
			b.wake(q)
		}
	}
}

// watch is one receiver's way to a queue.
type watch struct {
	waiter
	s    *session
	name string
	q    *queue // nil: not found yet
}

// Watch implements virtual.Watcher.
func (s *session) Watch(queue string, ready func()) virtual.Watch {
	return &watch{waiter: waiter{ready: ready}, s: s, name: queue}
}

func (w *watch) Claim(dst []driver.Incoming, maxBytes int, noAck bool) (n int, empty bool, err error) {
	var few [16]*item
	took := few[:0]
	w.s.b.mu.Lock()
	q, err := w.queue()
	if err != nil {
		w.s.b.mu.Unlock()
		return 0, false, err
	}
	w.s.mu.Lock()
	for size := 0; n < len(dst) && (n == 0 || size < maxBytes); n++ {
		it := w.s.b.take(q)
		if empty = it == nil; empty {
			break
		}
		size += len(it.body)
		took = append(took, it)
		in := &dst[n]
		in.Redelivered, in.Attempt, in.Tag = it.redelivered, it.starts+1, driver.Tag{}
		if !noAck {
			in.Tag = w.s.hold(q, it)
		}
	}
	w.s.mu.Unlock()
	if empty && !w.waits {
		w.waits = true
		q.waiters.push(&w.waiter)
	}
	w.s.b.mu.Unlock()
	for i, it := range took {
		it.read(&dst[i])
		if noAck {
			recycle(it)
		}
	}
	return n, empty, nil
}

// queue is the one that has the name now; the broker's lock is held.
func (w *watch) queue() (*queue, error) {
	if w.s.closed {
		return nil, errClosed()
	}
	if w.q == nil || w.q.dropped {
		w.q = w.s.b.queues[w.name]
	}
	if w.q == nil {
		return nil, notFound("receive", w.name)
	}
	return w.q, nil
}

func (w *watch) Leave() {
	w.s.b.mu.Lock()
	defer w.s.b.unlock()
	switch {
	case w.waits:
		w.waits = false
		w.q.waiters.remove(&w.waiter)
	case w.q != nil:
		w.s.b.wake(w.q)
	}
}

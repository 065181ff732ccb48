package memory

import (
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
)

// broker is the queues, under one lock. It has no goroutine. Messages are copied
// in and out without the lock.
type broker struct {
	mu     sync.Mutex
	queues map[string]*queue
	woken  []func()  // to be called once mu is free, see unlock
	spare  []*waiter // to be used again
}

func newBroker() *broker { return &broker{queues: map[string]*queue{}} }

// unlock frees mu and calls those who are to be woken.
func (b *broker) unlock() {
	var one func()
	var more []func()
	if n := len(b.woken); n > 0 {
		one = b.woken[0]
		if n > 1 {
			more = slices.Clone(b.woken[1:])
		}
		clear(b.woken)
		b.woken = b.woken[:0]
	}
	b.mu.Unlock()
	if one != nil {
		one()
	}
	for _, ready := range more {
		ready()
	}
}

// items are those to be used again.
var items = sync.Pool{New: func() any { return &item{} }}

// keepBody is the longest body that is kept with its item.
const keepBody = 4 << 10

func recycle(it *item) {
	if cap(it.body) > keepBody || it.lent {
		return
	}
	*it = item{body: it.body[:0]}
	items.Put(it)
}

func notFound(op, queue string) error {
	return &driver.Error{Op: op, Transport: Scheme, Entity: queue, Kind: driver.ErrNotFound}
}

// admit says whether the queue takes one more; the error is ErrRefused.
func (b *broker) admit(q *queue, m *driver.Outgoing) error {
	if q.refuse && q.full(len(m.Body)) {
		return &driver.Error{Op: "publish", Transport: Scheme, Entity: q.name, Kind: driver.ErrRefused, Err: errFull}
	}
	return nil
}

// stored is a copy of a message.
func stored(m *driver.Outgoing) *item {
	it := items.Get().(*item)
	it.fill(m)
	return it
}

// push adds a message that was admitted, drops what is too much, and wakes one
// who waits.
func (b *broker) push(q *queue, it *item, ttl time.Duration) {
	it.expires = q.expiry(ttl)
	q.add(it)
	b.trim(q)
	b.wake(q)
}

// trim drops from the head what is expired and what is above the limits.
func (b *broker) trim(q *queue) {
	for q.length >= 0 && q.ready > q.length || q.size >= 0 && q.bytes > q.size {
		recycle(q.pop())
	}
	if !q.mortal {
		return
	}
	for i := len(q.rings) - 1; i >= 0; i-- {
		for r := &q.rings[i]; r.n > 0 && (*r.at(0)).expired(); {
			it := r.pop()
			q.ready--
			q.bytes -= len(it.body)
			recycle(it)
		}
	}
}

// take pops the next item that is alive.
func (b *broker) take(q *queue) *item {
	for {
		it := q.pop()
		if it == nil || !it.expired() {
			return it
		}
		recycle(it)
	}
}

// restore puts a claimed item back in its place.
func (b *broker) restore(q *queue, it *item) {
	it.redelivered = true
	if q.dropped {
		recycle(it)
		return
	}
	q.put(it)
	b.wake(q)
}

// wake tells who has waited longest to look.
func (b *broker) wake(q *queue) {
	if q.waiters.len() > 0 && q.ready > 0 {
		b.tell(q.waiters.pop())
	}
}

func (b *broker) tell(w *waiter) {
	if w.ready != nil {
		w.waits = false
		b.woken = append(b.woken, w.ready)
		return
	}
	select {
	case w.ch <- struct{}{}:
	default: // told already, by another queue
	}
}

func (b *broker) info(q *queue) driver.QueueInfo {
	b.trim(q)
	return driver.QueueInfo{Name: q.name, Ready: q.ready, Unsettled: int(q.claimed.Load()), Consumers: -1}
}

func (b *broker) all() []driver.QueueInfo {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]driver.QueueInfo, 0, len(b.queues))
	for _, name := range slices.Sorted(maps.Keys(b.queues)) {
		out = append(out, b.info(b.queues[name]))
	}
	return out
}

// drop deletes a queue; those who wait for it learn of it.
func (b *broker) drop(name string) {
	b.mu.Lock()
	defer b.unlock()
	q := b.queues[name]
	if q == nil {
		return
	}
	delete(b.queues, name)
	q.dropped = true
	b.purge(q)
	for q.waiters.len() > 0 {
		b.tell(q.waiters.pop())
	}
}

func (b *broker) purge(q *queue) int {
	b.trim(q)
	n := q.ready
	for it := q.pop(); it != nil; it = q.pop() {
		recycle(it)
	}
	return n
}

package memory

import (
	"maps"
	"slices"
	"sync"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// broker is the queues, under one lock. It has no goroutine.
type broker struct {
	mu     sync.Mutex
	queues map[string]*queue
	free   []*item   // to be used again
	spare  []*waiter // likewise
}

const (
	keepItems = 4096    // at most so many unused items are kept,
	keepBody  = 4 << 10 // none with a longer body
)

func newBroker() *broker { return &broker{queues: map[string]*queue{}} }

func (b *broker) item() *item {
	if n := len(b.free); n > 0 {
		it := b.free[n-1]
		b.free = b.free[:n-1]
		return it
	}
	return &item{}
}

func (b *broker) recycle(it *item) {
	if len(b.free) >= keepItems || cap(it.body) > keepBody {
		return
	}
	*it = item{body: it.body[:0]}
	b.free = append(b.free, it)
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

// push adds a message that was admitted, drops what is too much, and wakes one
// who waits.
func (b *broker) push(q *queue, it *virtual.Item, headers driver.Headers) {
	expires := q.expiry(it.TTL)
	stored := b.item()
	stored.fill(it.Msg)
	stored.expires = expires
	for _, h := range headers {
		stored.props.Headers = stored.props.Headers.With(h.Key, h.Value)
	}
	q.add(stored)
	b.trim(q)
	b.wake(q)
}

// trim drops from the head what is expired and what is above the limits.
func (b *broker) trim(q *queue) {
	for q.length >= 0 && q.ready > q.length || q.size >= 0 && q.bytes > q.size {
		b.recycle(q.pop())
	}
	for i := len(q.rings) - 1; i >= 0; i-- {
		for r := &q.rings[i]; r.n > 0 && (*r.at(0)).expired(); {
			it := r.pop()
			q.ready--
			q.bytes -= len(it.body)
			b.recycle(it)
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
		b.recycle(it)
	}
}

// restore puts a claimed item back in its place.
func (b *broker) restore(q *queue, it *item) {
	it.redelivered = true
	if q.dropped {
		b.recycle(it)
		return
	}
	q.put(it)
	b.wake(q)
}

// wake tells the longest waiting Claim to look.
func (b *broker) wake(q *queue) {
	if len(q.waiters) > 0 && q.ready > 0 {
		w := q.waiters[0]
		q.waiters = slices.Delete(q.waiters, 0, 1)
		select {
		case w.ch <- struct{}{}:
		default: // told already, by another queue
		}
	}
}

func (b *broker) info(q *queue) driver.QueueInfo {
	b.trim(q)
	return driver.QueueInfo{Name: q.name, Ready: q.ready, Unsettled: q.claimed, Consumers: -1}
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
	defer b.mu.Unlock()
	q := b.queues[name]
	if q == nil {
		return
	}
	delete(b.queues, name)
	q.dropped = true
	b.purge(q)
	for _, w := range q.waiters {
		select {
		case w.ch <- struct{}{}:
		default:
		}
	}
	q.waiters = nil
}

func (b *broker) purge(q *queue) int {
	b.trim(q)
	n := q.ready
	for it := q.pop(); it != nil; it = q.pop() {
		b.recycle(it)
	}
	return n
}

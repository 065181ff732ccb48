package memory

import (
	"errors"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// item is one message in one queue. It belongs to the broker: what it holds is
// copied in and out, so that its memory can serve the next message.
type item struct {
	seq         uint64 // its place in the queue
	expires     time.Time
	starts      int // handler starts known; see session.Begin
	priority    uint8
	redelivered bool
	lent        bool // somebody may still read it

	exchange, key string
	props         driver.Properties
	body          []byte
}

// queue is a queue's ready items and who waits for one.
type queue struct {
	name    string
	dropped bool
	rings   []ring // by priority; one without x-max-priority
	ready   int
	bytes   int
	claimed atomic.Int64
	ttl     time.Duration // of every message; < 0: none
	length  int           // most ready items; < 0: no limit
	size    int           // most bytes of ready bodies; < 0: no limit
	refuse  bool          // x-overflow: refuse what is too much, else drop the head
	mortal  bool          // some message had an expiry
	waiters waiters
	lastSeq uint64
}

func newQueue(q *driver.Queue) (*queue, error) {
	out := &queue{name: q.Name, rings: make([]ring, 1), ttl: -1, length: -1, size: -1}
	for _, a := range q.Arguments() {
		var err error
		switch a.Key {
		case "x-max-priority":
			var n int64
			if n, err = limit(a.Value, 255); err == nil {
				out.rings = make([]ring, n+1)
			}
		case "x-message-ttl":
			var n int64
			if n, err = limit(a.Value, math.MaxInt64/int64(time.Millisecond)); err == nil {
				out.ttl = time.Duration(n) * time.Millisecond
			}
		case "x-max-length":
			var n int64
			n, err = limit(a.Value, math.MaxInt)
			out.length = int(n)
		case "x-max-length-bytes":
			var n int64
			n, err = limit(a.Value, math.MaxInt)
			out.size = int(n)
		case "x-expires": // the engine's
			_, err = limit(a.Value, math.MaxInt64/int64(time.Millisecond))
		case "x-overflow":
			switch a.Value {
			case "drop-head":
			case "reject-publish":
				out.refuse = true
			default:
				err = errors.New(`want "drop-head" or "reject-publish"`)
			}
		}
		if err != nil {
			return nil, &driver.Error{Op: "declare", Transport: Scheme, Entity: q.Name, Kind: driver.ErrInvalid, Err: fmt.Errorf("%s %v: %w", a.Key, a.Value, err)}
		}
	}
	return out, nil
}

// limit reads a whole number from 0 to most.
func limit(v any, most int64) (int64, error) {
	var n int64
	switch v := v.(type) {
	case int:
		n = int64(v)
	case int8:
		n = int64(v)
	case int16:
		n = int64(v)
	case int32:
		n = int64(v)
	case int64:
		n = v
	case uint8:
		n = int64(v)
	case uint16:
		n = int64(v)
	case uint32:
		n = int64(v)
	default:
		return 0, errors.New("want a whole number")
	}
	if n < 0 || n > most {
		return 0, fmt.Errorf("want 0 to %d", most)
	}
	return n, nil
}

// full says that one more body of n bytes is too much.
func (q *queue) full(n int) bool {
	return q.length >= 0 && q.ready+1 > q.length || q.size >= 0 && q.bytes+n > q.size
}

func (q *queue) level(it *item) *ring { return &q.rings[min(int(it.priority), len(q.rings)-1)] }

// add appends a new item.
func (q *queue) add(it *item) {
	q.lastSeq++
	it.seq = q.lastSeq
	q.mortal = q.mortal || !it.expires.IsZero()
	q.level(it).push(it)
	q.ready++
	q.bytes += len(it.body)
}

// put brings a claimed item back.
func (q *queue) put(it *item) {
	q.level(it).put(it)
	q.ready++
	q.bytes += len(it.body)
}

// pop takes the next item; nil when there is none.
func (q *queue) pop() *item {
	for i := len(q.rings) - 1; i >= 0 && q.ready > 0; i-- {
		if r := &q.rings[i]; r.n > 0 {
			it := r.pop()
			q.ready--
			q.bytes -= len(it.body)
			return it
		}
	}
	return nil
}

// expiry is when a message with this expiration ends its life here. One that
// expires at once lives only as long as somebody who waits needs to come.
func (q *queue) expiry(own time.Duration) time.Time {
	ttl := q.ttl
	if own < 0 {
		own = 0
	} else if own == 0 {
		own = -1
	}
	if own >= 0 && (ttl < 0 || own < ttl) {
		ttl = own
	}
	switch {
	case ttl < 0:
		return time.Time{}
	case ttl == 0 && q.waiters.len() > 0:
		ttl = handOver
	}
	return time.Now().Add(ttl)
}

// handOver is how long a consumer that waits may take to fetch a message that
// must be delivered at once or never.
const handOver = 50 * time.Millisecond

func (it *item) expired() bool { return !it.expires.IsZero() && !time.Now().Before(it.expires) }

// fill copies a message in.
func (it *item) fill(m *driver.Outgoing) {
	it.exchange, it.key, it.props = m.Exchange, m.Key, m.Props
	it.props.Headers, it.props.Extra = virtual.CloneHeaders(m.Props.Headers), virtual.CloneHeaders(m.Props.Extra)
	it.body = append(it.body[:0], m.Body...)
	it.priority = m.Props.Priority
	it.starts, it.redelivered = 0, false
}

// started counts the first start, of which nobody told.
func (it *item) started() { it.starts = max(it.starts, 1) }

// read copies it out.
func (it *item) read(in *driver.Incoming) {
	in.Exchange, in.Key, in.Props = it.exchange, it.key, it.props
	in.Props.Headers, in.Props.Extra = virtual.CloneHeaders(it.props.Headers), virtual.CloneHeaders(it.props.Extra)
	in.Body, in.Raw, in.DecodeErr = nil, nil, nil
	if len(it.body) > 0 {
		in.Body = append([]byte(nil), it.body...)
	}
}

package gombu

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/gombu/gombu/driver"
)

// A call is one message under way.
type call struct {
	p     *Producer
	out   driver.Outgoing
	own   []byte     // the copy that out.Body is
	done  chan error // gets the outcome once
	state callState  // guarded by lane.mu
	tries int
	err   error // why the session left it open
	maybe bool  // an earlier try may have arrived
	late  bool  // answered when its caller had gone

	prev, next *call // in the line
}

// call makes the call of m, which has a place in the room. It gives that back
// when m cannot be sent, also when a value of the caller's panics as it is encoded.
func (l *lane) call(p *Producer, m *Message) (*call, error) {
	k := l.free.Get().(*call)
	k.p, k.state, k.tries, k.err, k.maybe = p, waiting, 0, nil, false
	prepared := false
	defer func() {
		if !prepared {
			l.recycle(k)
			<-l.room
		}
	}()
	k.out.Body = k.own[:0]
	mine, err := p.prepare(m, &k.out)
	if err != nil {
		return nil, err
	}
	prepared = true
	if p.cfg.Resend && k.out.Props.MessageID == "" {
		k.out.Props.MessageID = rand.Text()
	}
	if mine {
		k.own = k.out.Body
	} else {
		k.own = append(k.own[:0], k.out.Body...)
		k.out.Body = k.own
	}
	k.out.Props.Headers = own(k.out.Props.Headers)
	k.out.Props.Extra = own(k.out.Props.Extra)
	return k, nil
}

// trim lets go of a large copy.
func (k *call) trim() {
	if cap(k.own) > 64<<10 {
		k.own = nil
	}
}

// unsent is what is known of a call that is not sent again.
func (k *call) unsent() error {
	if k.maybe {
		return ErrUncertain
	}
	return ErrNotSent
}

// outcome is what its caller is told when the last try ended with err: a failure
// says nothing of the tries before.
func (k *call) outcome(err error) error {
	switch {
	case err == nil || !k.maybe || errors.Is(err, ErrUncertain):
		return err
	case errors.Is(err, ErrNotSent):
		err = errors.New(err.Error()) // true of the last try alone
	}
	return &Error{Op: "publish", Entity: target(&k.out), Kind: ErrUncertain, Err: fmt.Errorf("an earlier try may have arrived; the last one: %w", err)}
}

// own copies a header table as deep as it goes: the caller may change his as
// soon as he has it back.
func own(h Headers) Headers {
	h = slices.Clone(h)
	for i := range h {
		h[i].Value = ownValue(h[i].Value)
	}
	return h
}

func ownValue(v any) any {
	switch v := v.(type) {
	case []byte:
		return bytes.Clone(v)
	case Headers:
		return own(v)
	case []any:
		v = slices.Clone(v)
		for i := range v {
			v[i] = ownValue(v[i])
		}
		return v
	case map[string]any:
		v = maps.Clone(v)
		for k := range v {
			v[k] = ownValue(v[k])
		}
		return v
	}
	return v
}

type callState uint8

const (
	waiting callState = iota // in the line
	sent                     // given to the driver
	over                     // answered, or withdrawn
	left                     // sent, and its caller has gone
)

// calls is a doubly linked list, so that a call can leave from anywhere.
type calls struct{ first, last *call }

func (c *calls) push(k *call) {
	k.prev, k.next = c.last, nil
	if c.last == nil {
		c.first = k
	} else {
		c.last.next = k
	}
	c.last = k
}

// restore returns a call that was taken: before what was taken after it, and
// before what never was, whose Seq is zero. Both sides of a lost session bring
// calls back, in either order.
func (c *calls) restore(k *call) {
	next := c.first
	for next != nil && next.out.Seq != 0 && next.out.Seq < k.out.Seq {
		next = next.next
	}
	if next == nil {
		c.push(k)
		return
	}
	k.prev, k.next = next.prev, next
	if next.prev == nil {
		c.first = k
	} else {
		next.prev.next = k
	}
	next.prev = k
}

func (c *calls) remove(k *call) {
	if k.prev == nil {
		c.first = k.next
	} else {
		k.prev.next = k.next
	}
	if k.next == nil {
		c.last = k.prev
	} else {
		k.next.prev = k.prev
	}
	k.prev, k.next = nil, nil
}

// decidable says whether every message up to the last open one has its receipt.
func (l *lane) decidable(open []*call) bool {
	var latest uint64
	known := make(map[uint64]bool, len(open))
	for _, k := range open {
		known[k.out.Seq] = true
		latest = max(latest, k.out.Seq)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for seq := range l.flight {
		if seq < latest && !known[seq] {
			return false
		}
	}
	return true
}

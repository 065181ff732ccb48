package redis

import (
	"cmp"
	"context"
	"encoding/json"
	"sync"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// A subscription buffers messages for one receiver. Redis pushes whether or
// not anybody reads, so that the oldest is dropped when it is full.
type subscription struct {
	s        *store
	queue    string
	patterns []string
	size     int
	wake     chan struct{} // holds one
	cancel   context.CancelFunc
	ready    chan struct{} // closed when the server has all patterns
	ended    chan struct{} // closed when the subscription is over
	err      error         // set before ended is closed

	mu     sync.Mutex
	left   map[string]struct{} // patterns that the server has not confirmed
	ring   []string            // of at most size texts, from head
	head   int
	closed bool
}

func newSubscription(s *store, queue string) *subscription {
	return &subscription{
		s: s, queue: queue, size: s.cfg.FanoutBuffer,
		wake: make(chan struct{}, 1), ready: make(chan struct{}), ended: make(chan struct{}),
	}
}

// confirm is told of each pattern that the server has.
func (u *subscription) confirm(c rueidis.PubSubSubscription) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.left == nil {
		u.left = make(map[string]struct{}, len(u.patterns))
		for _, p := range u.patterns {
			u.left[p] = struct{}{}
		}
	}
	if _, open := u.left[c.Channel]; open && c.Kind == "psubscribe" {
		if delete(u.left, c.Channel); len(u.left) == 0 {
			close(u.ready)
		}
	}
}

// first says whether p is the first of this subscription's patterns that the
// channel fits: the server sends the message once for each of them.
func (u *subscription) first(p, channel string) bool {
	for _, q := range u.patterns {
		if q == p {
			return true
		}
		if globMatch(q, channel) {
			return false
		}
	}
	return false
}

func (u *subscription) push(text string) {
	u.mu.Lock()
	dropped := 0
	switch {
	case u.closed:
	case len(u.ring) < u.size:
		u.ring = append(u.ring, text)
	default:
		u.ring[u.head] = text
		u.head = (u.head + 1) % u.size
		dropped = 1
	}
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
	if dropped > 0 {
		u.s.env.Notify(driver.Event{Kind: driver.Dropped, Entity: u.queue, Detail: "the receiver is too slow for its fan-out", N: dropped})
	}
}

// Receive returns what is buffered, waiting for at least one message. Text
// that is no JSON is reported and dropped, as Kombu does.
func (u *subscription) Receive(ctx context.Context, dst []virtual.Claim) (int, error) {
	for {
		n, over := u.pop(dst)
		switch {
		case n > 0 || len(dst) == 0:
			return n, nil
		case over:
			return 0, u.over()
		}
		select {
		case <-u.wake:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-u.s.done:
			return 0, u.s.Err()
		case <-u.ended:
			return 0, u.over()
		}
	}
}

// over says why there is nothing more to receive.
func (u *subscription) over() error {
	u.mu.Lock()
	closed := u.closed
	u.mu.Unlock()
	if closed {
		return &driver.Error{Op: "receive", Transport: Scheme, Entity: u.queue, Kind: driver.ErrClosed}
	}
	return u.s.failed("receive", u.queue, driver.ErrUnavailable, cmp.Or(u.err, driver.ErrClosed))
}

func (u *subscription) pop(dst []virtual.Claim) (n int, over bool) {
	u.mu.Lock()
	texts := make([]string, 0, len(dst))
	for len(u.ring) > 0 && len(texts) < len(dst) {
		if u.head > 0 { // straighten it: appending needs the free end
			u.ring = append(append(make([]string, 0, u.size), u.ring[u.head:]...), u.ring[:u.head]...)
			u.head = 0
		}
		k := min(len(u.ring), len(dst)-len(texts))
		texts = append(texts, u.ring[:k]...)
		u.ring = u.ring[:copy(u.ring, u.ring[k:])]
	}
	over = u.closed
	u.mu.Unlock()
	for _, text := range texts {
		if !json.Valid([]byte(text)) {
			u.s.env.Notify(driver.Event{Kind: driver.Warning, Entity: u.queue, Detail: "dropped a fan-out message that is no JSON"})
			continue
		}
		dst[n] = virtual.Claim{Queue: u.queue, Raw: []byte(text)}
		n++
	}
	if n == 0 && len(texts) > 0 { // only garbage: look again
		return u.pop(dst)
	}
	return n, over
}

// Close ends the subscription; Receive then returns ErrClosed.
func (u *subscription) Close(ctx context.Context) error {
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
	u.cancel()
	select {
	case <-u.ended:
		return nil
	case <-ctx.Done():
		return ended(ctx, "unsubscribe", driver.ErrUnavailable)
	}
}

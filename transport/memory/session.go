package memory

import (
	"context"
	"errors"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

var errFull = errors.New("the queue is full")

func errLost(op string) error {
	return &driver.Error{Op: op, Transport: Scheme, Kind: driver.ErrLeaseLost}
}

func errClosed() error {
	return &driver.Error{Op: "receive", Transport: Scheme, Kind: driver.ErrClosed}
}

// session is a broker as one session sees it. Its own lock, taken under the
// broker's where both are needed, guards the claims.
type session struct {
	b      *broker
	mu     sync.Mutex
	held   []claim // a claim's tag is its index and how often that was used
	unused []uint32
	closed bool // set under both locks
}

type claim struct {
	it   *item // nil: free
	q    *queue
	uses uint32
}

func (s *session) Info() virtual.Info {
	return virtual.Info{Atomic: true, Inline: true, Queue: driver.QueueFeatures{
		Requeue: true, Priority: true, Ordered: true, Counts: driver.CountStarts,
	}}
}

func (s *session) Done() <-chan struct{} { return nil }
func (s *session) Err() error            { return nil }

func (s *session) Create(_ context.Context, q *driver.Queue) error {
	made, err := newQueue(q)
	if err != nil {
		return err
	}
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if s.b.queues[q.Name] == nil {
		s.b.queues[q.Name] = made
	}
	return nil
}

func (s *session) Drop(_ context.Context, queue string) error {
	s.b.drop(queue)
	return nil
}

func (s *session) Purge(_ context.Context, queue string) (int, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	q := s.b.queues[queue]
	if q == nil {
		return 0, notFound("purge", queue)
	}
	return s.b.purge(q), nil
}

func (s *session) Stat(_ context.Context, queue string) (driver.QueueInfo, error) {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	q := s.b.queues[queue]
	if q == nil {
		return driver.QueueInfo{}, notFound("inspect", queue)
	}
	return s.b.info(q), nil
}

func (s *session) Queues(context.Context) ([]driver.QueueInfo, error) { return s.b.all(), nil }

func (s *session) Push(_ context.Context, items []virtual.Item) error {
	var few [8]*item
	copies := few[:0]
	for i := range items {
		copies = append(copies, stored(items[i].Msg))
	}
	s.b.mu.Lock()
	defer s.b.unlock()
	var q *queue
	for i, it := range copies {
		to := &items[i]
		if q == nil || q.name != to.Queue {
			q = s.b.queues[to.Queue]
		}
		if q == nil {
			to.Err = notFound("publish", to.Queue)
		} else {
			to.Err = s.b.admit(q, to.Msg)
		}
		if to.Err != nil {
			recycle(it)
			continue
		}
		s.b.push(q, it, to.TTL)
	}
	return nil
}

func (s *session) Claim(ctx context.Context, r virtual.ClaimRequest, dst []virtual.Claim) (int, error) {
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	s.b.mu.Lock()
	n, err := s.claim(&r, dst)
	if n > 0 || err != nil || r.Wait <= 0 {
		s.b.mu.Unlock()
		return n, err
	}
	w := s.b.waiter()
	var timeout <-chan time.Time
	if r.Wait < math.MaxInt64 {
		t := time.NewTimer(r.Wait)
		defer t.Stop()
		timeout = t.C
	}
	for {
		s.b.await(w, r.Wants)
		s.b.mu.Unlock()
		over := false
		select {
		case <-w.ch:
		case <-timeout:
			over = true
		case <-ctx.Done():
			over = true
		}
		s.b.mu.Lock()
		s.b.forget(w, r.Wants)
		if over {
			s.b.passOn(w, r.Wants)
		} else if n, err = s.claim(&r, dst); n > 0 || err != nil {
			over = true
		}
		if over {
			s.b.retire(w)
			s.b.unlock()
			if n == 0 && err == nil && ctx.Err() != nil {
				err = context.Cause(ctx)
			}
			return n, err
		}
	}
}

// claim takes what is there; the broker's lock is held.
func (s *session) claim(r *virtual.ClaimRequest, dst []virtual.Claim) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return 0, errClosed()
	}
	n, size := 0, 0
	for _, want := range r.Wants {
		q := s.b.queues[want.Queue]
		if q == nil {
			if n == 0 {
				return 0, notFound("receive", want.Queue)
			}
			continue
		}
		for got := 0; got < want.Max && n < len(dst); got++ {
			it := s.b.take(q)
			if it == nil {
				break
			}
			size += len(it.body)
			s.give(q, it, r.NoAck, &dst[n])
			if n++; r.MaxBytes > 0 && size >= r.MaxBytes {
				return n, nil
			}
		}
	}
	return n, nil
}

func (s *session) give(q *queue, it *item, noAck bool, c *virtual.Claim) {
	if c.Msg == nil {
		c.Msg = &driver.Incoming{}
	}
	it.read(c.Msg)
	c.Queue, c.Redelivered, c.Attempt = q.name, it.redelivered, it.starts+1
	if noAck {
		recycle(it)
		return
	}
	c.Tag = s.hold(q, it)
}

func (s *session) hold(q *queue, it *item) driver.Tag {
	q.claimed.Add(1)
	var i uint32
	if n := len(s.unused); n > 0 {
		i = s.unused[n-1]
		s.unused = s.unused[:n-1]
	} else {
		i = uint32(len(s.held))
		s.held = append(s.held, claim{})
	}
	h := &s.held[i]
	h.it, h.q = it, q
	h.uses++
	return driver.Tag{ID: uint64(h.uses)<<32 | uint64(i)}
}

// claimed is the claim of a tag; nil when it is none of ours.
func (s *session) claimed(t driver.Tag) *claim {
	i := uint32(t.ID)
	if int(i) >= len(s.held) || s.held[i].it == nil || s.held[i].uses != uint32(t.ID>>32) {
		return nil
	}
	return &s.held[i]
}

// end frees a claim and returns what it held; nil when it is no claim of ours.
func (s *session) end(t driver.Tag) (*item, *queue) {
	h := s.claimed(t)
	if h == nil {
		return nil, nil
	}
	it, q := h.it, h.q
	h.it, h.q = nil, nil
	q.claimed.Add(-1)
	s.unused = append(s.unused, uint32(t.ID))
	return it, q
}

// Settle ends claims; what is only to be forgotten concerns nobody but the session.
func (s *session) Settle(_ context.Context, settlements []virtual.Settlement) error {
	if slices.ContainsFunc(settlements, returns) {
		s.settleAll(settlements)
		return nil
	}
	for i := range settlements {
		st := &settlements[i]
		s.mu.Lock()
		it, _ := s.end(st.Tag)
		s.mu.Unlock()
		st.Err = nil
		if it == nil {
			st.Err = errLost("settle")
		} else {
			recycle(it)
		}
	}
	return nil
}

// returns says whether a settlement puts something into a queue.
func returns(st virtual.Settlement) bool {
	return st.Verbatim != "" || len(st.Put) > 0 || st.Outcome == driver.Requeue || st.Outcome == driver.Release
}

func (s *session) settleAll(settlements []virtual.Settlement) {
	s.b.mu.Lock()
	defer s.b.unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range settlements {
		st := &settlements[i]
		if st.Verbatim != "" {
			st.Err = s.move(st)
			continue
		}
		if st.Err = s.admitAll(st.Put); st.Err != nil {
			continue
		}
		it, q := s.end(st.Tag)
		if it == nil {
			st.Err = errLost("settle")
			continue
		}
		for j := range st.Put {
			put := &st.Put[j]
			s.b.push(s.b.queues[put.Queue], stored(put.Msg), put.TTL)
		}
		switch st.Outcome {
		case driver.Requeue:
			it.started()
			s.b.restore(q, it)
		case driver.Release:
			s.b.restore(q, it)
		default:
			recycle(it)
		}
	}
}

// admitAll checks that what takes a claim's place will be taken.
func (s *session) admitAll(put []virtual.Item) error {
	for i := range put {
		q := s.b.queues[put[i].Queue]
		if q == nil {
			return notFound("move", put[i].Queue)
		}
		if err := s.b.admit(q, put[i].Msg); err != nil {
			return err
		}
	}
	return nil
}

// move takes a claim's message to another queue as it is, with the headers of
// the first Put added.
func (s *session) move(st *virtual.Settlement) error {
	to := s.b.queues[st.Verbatim]
	if to == nil {
		return notFound("move", st.Verbatim)
	}
	it, _ := s.end(st.Tag)
	if it == nil {
		return errLost("move")
	}
	for _, p := range st.Put {
		for _, h := range virtual.CloneHeaders(p.Msg.Props.Headers) {
			it.props.Headers = it.props.Headers.With(h.Key, h.Value)
		}
	}
	it.expires = to.expiry(0) // its own was for the queue that it leaves
	it.redelivered, it.starts = false, 0
	to.add(it)
	s.b.trim(to)
	s.b.wake(to)
	return nil
}

// Begin notes handler starts. The first one of a message is not noted before
// it: what comes back without a note counts as started once.
func (s *session) Begin(_ context.Context, starts []driver.Start) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i := range starts {
		h := s.claimed(starts[i].Tag)
		if h == nil {
			starts[i].Err = errLost("begin")
			continue
		}
		h.it.starts = max(h.it.starts, starts[i].Attempt)
	}
	return nil
}

// Close gives back what is claimed: each to its place.
func (s *session) Close(context.Context) error {
	s.b.mu.Lock()
	defer s.b.unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for i := range s.held {
		h := &s.held[i]
		if h.it == nil {
			continue
		}
		it, q := s.end(driver.Tag{ID: uint64(h.uses)<<32 | uint64(i)})
		it.started()
		it.lent = true // to a Claim that has not returned, maybe
		s.b.restore(q, it)
	}
	return nil
}

package virtual_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// fake is a server of bytes across a socket that is not there: it has a delay,
// and its sessions can be killed. Behind it lie lists of envelopes, which in
// its shared form come and go with their content, binding tables and fan-out,
// as in Redis.
type fake struct {
	shared      bool
	claimQueues int
	delay       time.Duration
	pushing     func()       // called in each Push, when set
	settling    func() error // called in each Settle, when set; an error refuses all of it

	mu     sync.Mutex
	lists  map[string]*list
	tables map[string]*bindings
	subs   map[*subscription]bool
	wake   chan struct{} // closed and replaced when something was pushed
	claims uint64
	last   *fakeSession // opened
	reads  int          // of whole tables
}

type list struct {
	ready   []stored
	claimed int
}

type stored struct {
	seq         uint64
	raw         []byte
	redelivered bool
	starts      int
}

type bindings struct {
	version int
	members map[string]bool
}

func newFake(shared bool) *fake {
	return &fake{
		shared: shared, delay: 100 * time.Microsecond, lists: map[string]*list{}, tables: map[string]*bindings{},
		subs: map[*subscription]bool{}, wake: make(chan struct{}),
	}
}

func (f *fake) connector() driver.Connector {
	c := virtual.Config{
		Name: "fake://", Transport: "fake", Sole: !f.shared,
		Open: func(_ context.Context, env driver.Env) (virtual.Store, error) { return f.open(env), nil },
		Features: driver.Features{
			Types:   []string{driver.TypeDirect, driver.TypeTopic, driver.TypeFanout, driver.TypeHeaders},
			Confirm: true, Mandatory: true, SharedBindings: f.shared,
			Keeps: []string{"internal", "alternate", "exclusive", "auto_delete"}, MaxBody: 4 << 20,
		},
	}
	if f.shared {
		c.Features.Types, c.Features.Keeps = c.Features.Types[:3], c.Features.Keeps[:1]
	}
	return virtual.New(c)
}

// The abilities of both forms, put together from the one session type.
type (
	plainStore  struct{ *fakeSession }
	sharedStore struct {
		*fakeSession
		sharing
	}
)

func (f *fake) open(env driver.Env) virtual.Store {
	s := &fakeSession{f: f, env: env, held: map[uint64]held{}, done: make(chan struct{})}
	f.last = s
	if f.shared {
		return sharedStore{s, sharing{s}}
	}
	return plainStore{s}
}

type fakeSession struct {
	f    *fake
	env  driver.Env
	held map[uint64]held
	once sync.Once
	done chan struct{}
	err  error
}

type held struct {
	queue string
	m     stored
}

var errKilled = &driver.Error{Op: "session", Transport: "fake", Kind: driver.ErrUnavailable, Err: errors.New("killed")}

// roundTrip takes its time, and fails once the session is over.
func (s *fakeSession) roundTrip(ctx context.Context) error {
	t := time.NewTimer(s.f.delay)
	defer t.Stop()
	select {
	case <-s.done:
		return s.err
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func (s *fakeSession) Info() virtual.Info {
	return virtual.Info{Bytes: true, Atomic: true, ClaimQueues: s.f.claimQueues, Queue: driver.QueueFeatures{
		Lease: true, Requeue: true, Ordered: true, Durable: true, Counts: driver.CountStarts,
	}}
}

func (s *fakeSession) Done() <-chan struct{} { return s.done }
func (s *fakeSession) Err() error            { return s.err }

func (s *fakeSession) finish(err error) {
	s.once.Do(func() {
		s.f.mu.Lock()
		defer s.f.mu.Unlock()
		ids := make([]uint64, 0, len(s.held))
		for id := range s.held {
			ids = append(ids, id)
		}
		slices.Sort(ids)
		for _, id := range ids {
			s.back(id, true)
		}
		s.err = err
		close(s.done)
	})
}

func (s *fakeSession) Close(context.Context) error {
	s.finish(&driver.Error{Transport: "fake", Kind: driver.ErrClosed})
	return nil
}

// back returns a claim to its place; mu is held.
func (s *fakeSession) back(id uint64, started bool) {
	h, ok := s.held[id]
	if !ok {
		return
	}
	delete(s.held, id)
	h.m.redelivered = true
	if started {
		h.m.starts = max(1, h.m.starts)
	}
	l := s.f.list(h.queue)
	l.claimed--
	at := sort.Search(len(l.ready), func(i int) bool { return l.ready[i].seq > h.m.seq })
	l.ready = slices.Insert(l.ready, at, h.m)
	s.f.ring()
}

func (f *fake) list(name string) *list {
	if f.lists[name] == nil {
		f.lists[name] = &list{}
	}
	return f.lists[name]
}

func (f *fake) ring() {
	close(f.wake)
	f.wake = make(chan struct{})
}

func (s *fakeSession) Create(ctx context.Context, q *driver.Queue) error {
	if err := s.roundTrip(ctx); err != nil {
		return err
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	if !s.f.shared {
		s.f.list(q.Name)
	}
	return nil
}

func (s *fakeSession) Drop(ctx context.Context, queue string) error {
	if err := s.roundTrip(ctx); err != nil {
		return err
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	delete(s.f.lists, queue)
	return nil
}

func (s *fakeSession) find(op, queue string) (*list, error) {
	l := s.f.lists[queue]
	if l == nil || s.f.shared && len(l.ready)+l.claimed == 0 {
		return nil, &driver.Error{Op: op, Transport: "fake", Entity: queue, Kind: driver.ErrNotFound}
	}
	return l, nil
}

func (s *fakeSession) Purge(ctx context.Context, queue string) (int, error) {
	if err := s.roundTrip(ctx); err != nil {
		return 0, err
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	l, err := s.find("purge", queue)
	if err != nil {
		return 0, err
	}
	n := len(l.ready)
	l.ready = nil
	return n, nil
}

func (s *fakeSession) Stat(ctx context.Context, queue string) (driver.QueueInfo, error) {
	if err := s.roundTrip(ctx); err != nil {
		return driver.QueueInfo{}, err
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	l, err := s.find("inspect", queue)
	if err != nil {
		return driver.QueueInfo{}, err
	}
	return driver.QueueInfo{Name: queue, Ready: len(l.ready), Unsettled: l.claimed, Consumers: -1}, nil
}

func (s *fakeSession) Push(ctx context.Context, items []virtual.Item) error {
	if s.f.pushing != nil {
		s.f.pushing()
	}
	if err := s.roundTrip(ctx); err != nil {
		return err
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for i := range items {
		items[i].Err = s.push(&items[i])
	}
	s.f.ring()
	return nil
}

func (s *fakeSession) push(it *virtual.Item) error {
	if s.f.lists[it.Queue] == nil && !s.f.shared {
		return &driver.Error{Op: "push", Transport: "fake", Entity: it.Queue, Kind: driver.ErrNotFound}
	}
	if it.ID == "" || it.Raw[0] == '{' && !strings.Contains(string(it.Raw), it.ID) {
		return fmt.Errorf("item %q does not hold its id %q", it.Raw, it.ID)
	}
	s.f.claims++
	l := s.f.list(it.Queue)
	l.ready = append(l.ready, stored{seq: s.f.claims, raw: slices.Clone(it.Raw)})
	return nil
}

func (s *fakeSession) Claim(ctx context.Context, r virtual.ClaimRequest, dst []virtual.Claim) (int, error) {
	if err := s.roundTrip(ctx); err != nil {
		return 0, err
	}
	if n := s.f.claimQueues; n > 0 && len(r.Wants) > n {
		return 0, fmt.Errorf("%d queues in one claim", len(r.Wants))
	}
	timeout := time.NewTimer(r.Wait)
	defer timeout.Stop()
	for {
		s.f.mu.Lock()
		n := s.take(&r, dst)
		wake := s.f.wake
		s.f.mu.Unlock()
		if n > 0 || r.Wait == 0 {
			return n, nil
		}
		select {
		case <-wake:
		case <-timeout.C:
			return 0, nil
		case <-s.done:
			return 0, s.err
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (s *fakeSession) take(r *virtual.ClaimRequest, dst []virtual.Claim) int {
	n, size := 0, 0
	for _, w := range r.Wants {
		l := s.f.lists[w.Queue]
		for got := 0; l != nil && got < w.Max && len(l.ready) > 0 && n < len(dst) && (n == 0 || r.MaxBytes == 0 || size < r.MaxBytes); got++ {
			m := l.ready[0]
			l.ready = l.ready[1:]
			size += len(m.raw)
			s.f.claims++
			dst[n] = virtual.Claim{Queue: w.Queue, Raw: slices.Clone(m.raw), Redelivered: m.redelivered, Tag: driver.Tag{ID: s.f.claims, Ref: "claim"}}
			if m.starts > 0 {
				dst[n].Attempt = m.starts + 1
			}
			if !r.NoAck {
				s.held[s.f.claims] = held{w.Queue, m}
				l.claimed++
			}
			n++
		}
	}
	return n
}

func (s *fakeSession) Settle(ctx context.Context, settlements []virtual.Settlement) error {
	if err := s.roundTrip(ctx); err != nil {
		return err
	}
	if s.f.settling != nil {
		if err := s.f.settling(); err != nil {
			for i := range settlements {
				settlements[i].Err = err
			}
			return nil
		}
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for i := range settlements {
		st := &settlements[i]
		h, ok := s.held[st.Tag.ID]
		if !ok || st.Tag.Ref != "claim" {
			st.Err = &driver.Error{Op: "settle", Transport: "fake", Kind: driver.ErrLeaseLost}
			continue
		}
		switch {
		case st.Outcome == driver.Requeue, st.Outcome == driver.Release:
			s.back(st.Tag.ID, st.Outcome == driver.Requeue)
			continue
		case st.Verbatim != "":
			s.f.list(st.Verbatim).ready = append(s.f.list(st.Verbatim).ready, stored{seq: h.m.seq, raw: h.m.raw})
		}
		delete(s.held, st.Tag.ID)
		s.f.list(h.queue).claimed--
		for j := range st.Put {
			st.Err = errors.Join(st.Err, s.push(&st.Put[j]))
		}
		s.f.ring()
	}
	return nil
}

func (s *fakeSession) Extend(ctx context.Context, l []driver.Lease, _ time.Duration) error {
	if err := s.roundTrip(ctx); err != nil {
		return err
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for i := range l {
		if _, ok := s.held[l[i].Tag.ID]; !ok {
			l[i].Err = &driver.Error{Op: "extend", Transport: "fake", Kind: driver.ErrLeaseLost}
		}
	}
	return nil
}

func (s *fakeSession) Begin(ctx context.Context, starts []driver.Start) error {
	if err := s.roundTrip(ctx); err != nil {
		return err
	}
	s.f.mu.Lock()
	defer s.f.mu.Unlock()
	for i := range starts {
		h, ok := s.held[starts[i].Tag.ID]
		if !ok {
			starts[i].Err = &driver.Error{Op: "begin", Transport: "fake", Kind: driver.ErrLeaseLost}
			continue
		}
		h.m.starts = starts[i].Attempt
		s.held[starts[i].Tag.ID] = h
	}
	return nil
}

// killable remembers which session is behind which Conn.
type killable struct {
	driver.Connector
	f *fake

	mu       sync.Mutex
	sessions map[driver.Conn]*fakeSession
}

func (f *fake) killable() *killable {
	return &killable{Connector: f.connector(), f: f, sessions: map[driver.Conn]*fakeSession{}}
}

func (k *killable) Connect(ctx context.Context, env driver.Env) (driver.Conn, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	c, err := k.Connector.Connect(ctx, env)
	if err == nil {
		k.sessions[c] = k.f.last
	}
	return c, err
}

func (k *killable) kill(c driver.Conn) {
	k.mu.Lock()
	s := k.sessions[c]
	k.mu.Unlock()
	s.finish(errKilled)
}

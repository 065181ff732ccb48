package gombu_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
)

// fake is a broker in memory whose every answer takes a while, and whose faults
// a test scripts: refused dials, cut sessions, alarms, sockets that swallow. It
// stands beside the real brokers' tests, for what needs exact time.
type fake struct {
	split    bool          // SplitRoles
	pulls    bool          // sessions are driver.Pullers
	tries    bool          // senders are driver.TrySubmitters
	settles  bool          // receivers are driver.TrySettlers
	receives bool          // receivers are driver.TryReceivers
	latency  time.Duration // of every answer

	mu       sync.Mutex
	dial     func(n int) error // nil: always succeeds; n counts from 1
	swallow  bool              // submitted messages get no answer
	unsent   bool              // and it is known that they were not sent
	refuse   func(o *driver.Outgoing) error
	apply    func(st *driver.Step) error
	hung     string // the queue whose declaration gets no answer
	dials    int
	queues   map[string][]driver.Incoming
	declared []string
	sessions []*fakeConn
	tag      uint64
	wake     chan struct{}
	acked    int
	tried    int // messages given to TrySubmit

	role      func(driver.Role) error                           // nil: always succeeds; dial by role
	submit    func(*fakeSender, []driver.Outgoing) (int, error) // nil: takes all
	receive   func() error                                      // nil: none fails
	pull      error                                             // of each look into a retry queue; nil: none fails
	brake     time.Duration                                     // of SetPrefetch
	receivers []*fakeReceiver                                   // all that were opened
	sender    func() error                                      // nil: none fails to open
	settle    func() error                                      // nil: none fails
	trySettle func(n int) bool                                  // nil: never has to wait; n is of how many
	asked     func()                                            // nil: nothing; called when a session is asked for its error
	closed    int                                               // sessions that were closed
}

func newFake() *fake {
	return &fake{latency: time.Millisecond, queues: map[string][]driver.Incoming{}, wake: make(chan struct{})}
}

func (f *fake) String() string { return "fake://" }
func (f *fake) Features() driver.Features {
	return driver.Features{Types: []string{"direct", "topic", "fanout", "headers"}, Confirm: true, Mandatory: true, SplitRoles: f.split, Keeps: []string{driver.KeepsAll}}
}

func (f *fake) Connect(ctx context.Context, env driver.Env) (driver.Conn, error) {
	f.mu.Lock()
	f.dials++
	n, dial, role := f.dials, f.dial, f.role
	f.mu.Unlock()
	if err := wait(ctx, f.latency); err != nil {
		return nil, err
	}
	if dial != nil {
		if err := dial(n); err != nil {
			return nil, err
		}
	}
	if role != nil {
		if err := role(env.Role); err != nil {
			return nil, err
		}
	}
	c := &fakeConn{f: f, env: env, done: make(chan struct{})}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions = append(f.sessions, c)
	if f.pulls {
		return fakePuller{c}, nil
	}
	return c, nil
}

// cut ends every session of a role.
func (f *fake) cut(roles ...driver.Role) {
	f.mu.Lock()
	all := slices.Clone(f.sessions)
	f.mu.Unlock()
	for _, c := range all {
		if len(roles) == 0 || slices.Contains(roles, c.env.Role) {
			c.end(errors.New("cut"))
		}
	}
}

func (f *fake) event(e driver.Event) {
	f.mu.Lock()
	all := slices.Clone(f.sessions)
	f.mu.Unlock()
	for _, c := range all {
		if c.Err() == nil {
			c.env.Notify(e)
		}
	}
}

func (f *fake) count(queue string) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.queues[queue])
}

func (f *fake) acks() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.acked
}

func (f *fake) set(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
}

// refused asks the test's script about a message; the caller holds mu.
func (f *fake) refused(o *driver.Outgoing, err *error) bool {
	if f.refuse != nil {
		*err = f.refuse(o)
	}
	return *err != nil
}

// push adds to a queue; the caller holds mu.
func (f *fake) push(in driver.Incoming, head bool) {
	if head {
		f.queues[in.Queue] = slices.Insert(f.queues[in.Queue], 0, in)
	} else {
		f.queues[in.Queue] = append(f.queues[in.Queue], in)
	}
	close(f.wake)
	f.wake = make(chan struct{})
}

// wait waits d or until ctx is done. No time is no timer: with the race detector
// Go 1.26's runtime sometimes crashes on a timer of zero inside a bubble.
func wait(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

type fakeConn struct {
	f    *fake
	env  driver.Env
	mu   sync.Mutex
	err  error
	done chan struct{}
}

func (c *fakeConn) Done() <-chan struct{} { return c.done }
func (c *fakeConn) Err() error {
	c.f.mu.Lock()
	asked := c.f.asked
	c.f.mu.Unlock()
	if asked != nil {
		asked()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *fakeConn) end(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.err = &driver.Error{Op: "session", Transport: "fake", Kind: driver.ErrUnavailable, Err: err}
		close(c.done)
	}
}

func (c *fakeConn) Close(context.Context) error {
	c.f.set(func() { c.f.closed++ })
	c.end(driver.ErrClosed)
	return nil
}

func (c *fakeConn) Apply(ctx context.Context, steps []driver.Step) error {
	if err := wait(ctx, c.f.latency); err != nil {
		return err
	}
	if err := c.Err(); err != nil {
		return err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	for i := range steps {
		st := &steps[i]
		if c.f.hung != "" && st.Queue != nil && st.Queue.Name == c.f.hung {
			c.f.mu.Unlock()
			select {
			case <-ctx.Done():
			case <-c.done:
			}
			err := cmp.Or(context.Cause(ctx), c.Err())
			c.f.mu.Lock()
			return err
		}
		if c.f.apply != nil {
			if st.Err = c.f.apply(st); st.Err != nil {
				continue
			}
		}
		switch {
		case st.Queue != nil && st.Op == driver.Check:
			if _, ok := c.f.queues[st.Queue.Name]; !ok {
				st.Err = &driver.Error{Op: "check", Entity: st.Queue.Name, Kind: driver.ErrNotFound}
			}
		case st.Queue != nil && st.Op == driver.Delete:
			delete(c.f.queues, st.Queue.Name)
		case st.Queue != nil:
			if _, ok := c.f.queues[st.Queue.Name]; !ok {
				c.f.queues[st.Queue.Name] = nil
			}
			c.f.declared = append(c.f.declared, "queue "+st.Queue.Name)
		case st.Exchange != nil:
			c.f.declared = append(c.f.declared, "exchange "+st.Exchange.Name)
		default:
			c.f.declared = append(c.f.declared, "binding "+st.Binding.Exchange+">"+st.Binding.Queue)
		}
	}
	return nil
}

func (c *fakeConn) Inspect(_ context.Context, q string) (driver.QueueInfo, error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	messages, ok := c.f.queues[q]
	if !ok {
		return driver.QueueInfo{}, &driver.Error{Op: "inspect", Entity: q, Kind: driver.ErrNotFound}
	}
	return driver.QueueInfo{Ready: len(messages), Unsettled: -1, Consumers: -1}, nil
}

func (c *fakeConn) Purge(_ context.Context, q string) (int, error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	n := len(c.f.queues[q])
	c.f.queues[q] = nil
	return n, nil
}

func (c *fakeConn) OpenSender(context.Context, driver.SenderConfig) (driver.Sender, error) {
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if c.f.sender != nil {
		if err := c.f.sender(); err != nil {
			return nil, err
		}
	}
	s := &fakeSender{c: c, more: make(chan struct{}, 1)}
	if c.f.tries {
		return fakeTrySender{s}, nil
	}
	return s, nil
}

// fakeTrySender takes what it is given without waiting.
type fakeTrySender struct{ *fakeSender }

func (s fakeTrySender) TrySubmit(batch []driver.Outgoing) int {
	s.c.f.mu.Lock()
	s.c.f.tried += len(batch)
	s.c.f.mu.Unlock()
	n, _ := s.accept(batch)
	return n
}

type fakeSender struct {
	c    *fakeConn
	mu   sync.Mutex
	line []driver.Receipt
	over bool // the last receipt was given: nothing more is taken
	more chan struct{}
}

func (s *fakeSender) Submit(ctx context.Context, batch []driver.Outgoing) (int, error) {
	f := s.c.f
	f.mu.Lock()
	submit := f.submit
	f.mu.Unlock()
	if submit != nil {
		return submit(s, batch)
	}
	return s.accept(batch)
}

func (s *fakeSender) accept(batch []driver.Outgoing) (int, error) {
	if err := s.c.Err(); err != nil {
		return 0, err
	}
	f := s.c.f
	for i := range batch {
		o := &batch[i]
		r := driver.Receipt{Seq: o.Seq}
		s.mu.Lock()
		if s.over {
			s.mu.Unlock()
			return i, s.c.Err()
		}
		f.mu.Lock()
		_, known := f.queues[o.Key]
		switch {
		case f.unsent:
			r.Err = driver.ErrNotSent
		case f.swallow:
			r.Err = driver.ErrUncertain
		case f.refused(o, &r.Err):
		case !known && !o.NoMandatory:
			r.Err = &driver.Error{Op: "publish", Entity: o.Key, Kind: driver.ErrUnroutable}
		case known:
			f.push(driver.Incoming{Queue: o.Key, Exchange: o.Exchange, Key: o.Key, Props: o.Props, Body: slices.Clone(o.Body)}, false)
		}
		swallowed := f.swallow
		f.mu.Unlock()
		s.line = append(s.line, r)
		s.mu.Unlock()
		if !swallowed {
			select {
			case s.more <- struct{}{}:
			default:
			}
		}
	}
	return len(batch), nil
}

func (s *fakeSender) Outcomes(ctx context.Context, dst []driver.Receipt) (int, error) {
	for {
		s.mu.Lock()
		n := 0
		dead := s.c.Err()
		for len(s.line) > 0 && n < len(dst) && (dead != nil || !errors.Is(s.line[0].Err, driver.ErrUncertain)) {
			dst[n] = s.line[0]
			s.line = s.line[1:]
			n++
		}
		s.over = dead != nil && len(s.line) == 0 && n == 0
		s.mu.Unlock()
		if n > 0 {
			return n, wait(ctx, s.c.f.latency)
		}
		if dead != nil {
			return 0, dead
		}
		select {
		case <-s.more:
		case <-s.c.done:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

func (s *fakeSender) Close(context.Context) error { return nil }

func (c *fakeConn) OpenReceiver(ctx context.Context, rc driver.ReceiverConfig) (driver.Receiver, error) {
	if err := wait(ctx, c.f.latency); err != nil {
		return nil, err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	if _, ok := c.f.queues[rc.Queue]; !ok {
		return nil, &driver.Error{Op: "consume", Entity: rc.Queue, Kind: driver.ErrNotFound}
	}
	r := &fakeReceiver{c: c, queue: rc.Queue, prefetch: rc.Prefetch, noAck: rc.NoAck, open: map[uint64]driver.Incoming{}}
	c.f.receivers = append(c.f.receivers, r)
	switch {
	case c.f.settles:
		return fakeTrySettler{r}, nil
	case c.f.receives:
		r.pulls = true
		return fakeTryReceiver{r}, nil
	}
	return r, nil
}

// A fakePuller is a session of a broker that gives single messages, as RabbitMQ.
type fakePuller struct{ *fakeConn }

func (c fakePuller) OpenPuller(ctx context.Context, queue string) (driver.Receiver, error) {
	if err := wait(ctx, c.f.latency); err != nil {
		return nil, err
	}
	c.f.mu.Lock()
	defer c.f.mu.Unlock()
	r := &fakeReceiver{c: c.fakeConn, queue: queue, prefetch: math.MaxInt, pulls: true, open: map[uint64]driver.Incoming{}}
	c.f.receivers = append(c.f.receivers, r)
	return r, nil
}

type fakeReceiver struct {
	c        *fakeConn
	queue    string
	noAck    bool
	prefetch int // guarded by c.f.mu, as is the rest
	open     map[uint64]driver.Incoming
	closed   bool
	pulls    bool
}

func (r *fakeReceiver) Features() driver.QueueFeatures { return driver.QueueFeatures{Requeue: true} }

func (r *fakeReceiver) Receive(ctx context.Context, dst []driver.Incoming) (int, error) {
	f := r.c.f
	for {
		if err := r.c.Err(); err != nil {
			r.giveBack()
			return 0, err
		}
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		f.mu.Lock()
		if f.receive != nil {
			if err := f.receive(); err != nil {
				f.mu.Unlock()
				return 0, err
			}
		}
		if r.pulls && f.pull != nil {
			err := f.pull
			f.mu.Unlock()
			return 0, err
		}
		q, exists := f.queues[r.queue]
		n := 0
		for len(q) > 0 && n < len(dst) && (r.noAck || len(r.open) < r.prefetch) {
			dst[n] = q[0]
			f.tag++
			dst[n].Tag.ID = f.tag
			if !r.noAck {
				r.open[f.tag] = q[0]
			}
			q = q[1:]
			n++
		}
		if exists {
			f.queues[r.queue] = q
		}
		wake := f.wake
		f.mu.Unlock()
		if !exists {
			return 0, &driver.Error{Op: "receive", Entity: r.queue, Kind: driver.ErrNotFound}
		}
		if n > 0 || r.pulls {
			return n, nil
		}
		select {
		case <-wake:
		case <-r.c.done:
		case <-ctx.Done():
		}
	}
}

func (r *fakeReceiver) giveBack() {
	f := r.c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if r.closed {
		return
	}
	r.closed = true
	var ids []uint64
	for id := range r.open {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range slices.Backward(ids) {
		in := r.open[id]
		in.Redelivered = true
		f.push(in, true)
	}
	clear(r.open)
}

func (r *fakeReceiver) Settle(ctx context.Context, ss []driver.Settlement) error {
	if err := wait(ctx, r.c.f.latency); err != nil {
		return err
	}
	f := r.c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.settle != nil {
		if err := f.settle(); err != nil {
			return err
		}
	}
	r.settle(ss)
	return nil
}

// A fakeTrySettler settles without waiting, unless the test says otherwise.
type fakeTrySettler struct{ *fakeReceiver }

func (r fakeTrySettler) TrySettle(ss []driver.Settlement) bool {
	f := r.c.f
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.trySettle != nil && !f.trySettle(len(ss)) {
		return false
	}
	r.settle(ss)
	return true
}

// A fakeTryReceiver never waits, and counts starts. There is always something to
// try for; who is told so may have tried before Notify returns.
type fakeTryReceiver struct{ *fakeReceiver }

func (r fakeTryReceiver) Features() driver.QueueFeatures {
	return driver.QueueFeatures{Requeue: true, Counts: driver.CountStarts}
}

func (r fakeTryReceiver) Begin(context.Context, []driver.Start) error { return nil }

func (r fakeTryReceiver) Notify(ready func(error)) {
	ready(nil)
	time.Sleep(time.Second)
}

func (r fakeTryReceiver) TryReceive(dst []driver.Incoming) (int, error) {
	return r.Receive(context.Background(), dst)
}

// settle does it; f.mu is held.
func (r *fakeReceiver) settle(ss []driver.Settlement) {
	f := r.c.f
	for i := range slices.Backward(ss) {
		s := &ss[i]
		in, ok := r.open[s.Tag.ID]
		if !ok || r.closed {
			s.Err = &driver.Error{Op: "settle", Kind: driver.ErrLeaseLost}
			continue
		}
		delete(r.open, s.Tag.ID)
		switch s.Outcome {
		case driver.Requeue, driver.Release:
			in.Redelivered = true
			f.push(in, true)
		default:
			f.acked++
			close(f.wake)
			f.wake = make(chan struct{})
		}
	}
}

func (r *fakeReceiver) SetPrefetch(ctx context.Context, n int) error {
	if err := wait(ctx, r.c.f.brake); err != nil {
		return err
	}
	if r.pulls {
		return nil
	}
	r.c.f.set(func() { r.prefetch = n; close(r.c.f.wake); r.c.f.wake = make(chan struct{}) })
	return nil
}

func (r *fakeReceiver) Close(context.Context) error {
	r.giveBack()
	return nil
}

// declare makes durable queues through conn.
func declare(ctx context.Context, conn *gombu.Conn, queues ...string) error {
	var t gombu.Topology
	for _, q := range queues {
		t.Queues = append(t.Queues, gombu.Queue{Name: q})
	}
	if err := conn.Declare(ctx, t); err != nil {
		return fmt.Errorf("declare %v: %w", queues, err)
	}
	return nil
}

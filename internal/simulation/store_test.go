package simulation

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// A wire is what lies between one process and the server.
type wire struct {
	mu   sync.Mutex
	rng  *rand.Rand
	slow time.Duration // of one way, at most
	open chan struct{} // closed: packets pass
	dead bool          // the process is: nothing passes ever again
	all  map[*session]struct{}
}

func newWire(seed uint64) *wire {
	w := &wire{rng: rand.New(rand.NewPCG(seed, 1)), open: make(chan struct{}), all: map[*session]struct{}{}}
	w.slow = time.Duration(1+w.rng.IntN(20)) * time.Millisecond
	close(w.open)
	return w
}

// swallow lets nothing pass until the returned function is called.
func (w *wire) swallow() (flow func()) {
	gate := make(chan struct{})
	w.mu.Lock()
	w.open = gate
	w.mu.Unlock()
	return sync.OnceFunc(func() { close(gate) })
}

// cut ends the connections that stand.
func (w *wire) cut(why string) {
	w.mu.Lock()
	all := make([]*session, 0, len(w.all))
	for s := range w.all {
		all = append(all, s)
	}
	w.mu.Unlock()
	for _, s := range all {
		s.finish(&driver.Error{Op: "session", Transport: "sim", Kind: driver.ErrUnavailable, Err: errors.New(why)})
	}
}

// kill is kill -9 of the process: its goroutines go on, nothing of them gets out.
func (w *wire) kill() {
	w.mu.Lock()
	w.dead = true
	w.mu.Unlock()
	w.cut("killed")
}

func (w *wire) state() (latency time.Duration, open chan struct{}, dead bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return time.Duration(w.rng.Int64N(int64(w.slow))), w.open, w.dead
}

var errDead = &driver.Error{Op: "session", Transport: "sim", Kind: driver.ErrUnavailable, Err: errors.New("no route")}

// travel is one way over the wire; done is closed when the connection is cut.
func (w *wire) travel(ctx context.Context, done <-chan struct{}) error {
	latency, open, dead := w.state()
	if dead {
		return errDead
	}
	t := time.NewTimer(latency)
	defer t.Stop()
	for _, wait := range []<-chan struct{}{nil, open} {
		var timer <-chan time.Time
		if wait == nil {
			timer = t.C
		}
		select {
		case <-timer:
		case <-wait:
		case <-done:
			return errDead
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// session is a virtual.Store over a wire.
type session struct {
	s      *server
	w      *wire
	owner  string
	taking chan struct{} // holds a token while somebody takes from the heads of queues
	wg     sync.WaitGroup
	once   sync.Once
	done   chan struct{}
	err    error // valid after done
	ctx    context.Context
	end    context.CancelFunc
}

// open dials.
func open(ctx context.Context, s *server, w *wire, env driver.Env) (virtual.Store, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	o := &session{s: s, w: w, owner: env.Owner, taking: make(chan struct{}, 1), done: make(chan struct{})}
	o.ctx, o.end = context.WithCancel(context.WithoutCancel(ctx))
	refused := true
	err := o.do(ctx, func() { refused = false; s.join(env.Owner) })
	if err != nil || refused {
		o.end()
		return nil, &driver.Error{Op: "connect", Transport: "sim", Kind: driver.ErrUnavailable, Err: err}
	}
	w.mu.Lock()
	w.all[o] = struct{}{}
	w.mu.Unlock()
	o.wg.Go(o.beat)
	return o, nil
}

// do runs f on the server, between two ways over the wire. When the answer is
// lost f has run all the same.
func (o *session) do(ctx context.Context, f func()) error {
	if err := o.w.travel(ctx, o.done); err != nil {
		return unsentError{err}
	}
	o.s.mu.Lock()
	down := o.s.down
	if !down {
		f()
	}
	o.s.mu.Unlock()
	if down {
		err := &driver.Error{Op: "session", Transport: "sim", Kind: driver.ErrUnavailable, Err: errors.New("the server is down")}
		o.finish(err)
		return unsentError{err}
	}
	return o.w.travel(ctx, o.done)
}

// unsentError is the error of a request that the server did not see.
type unsentError struct{ error }

func (n unsentError) Unwrap() error { return n.error }

// told turns the error of a lost request or answer into what is known.
func told(err error) error {
	if err == nil {
		return nil
	}
	kind := driver.ErrUncertain
	if _, ok := errors.AsType[unsentError](err); ok {
		kind = driver.ErrNotSent
	}
	return &driver.Error{Op: "call", Transport: "sim", Kind: kind, Err: err}
}

// beat renews every second; who was taken over, or cannot renew for a lease, ends.
func (o *session) beat() {
	good, began := time.Now(), time.Now()
	for {
		t := time.NewTimer(time.Second)
		select {
		case <-t.C:
		case <-o.done:
			t.Stop()
			return
		}
		if o.s.bug == lostRenewal && time.Since(began) > 3*time.Second {
			continue
		}
		ctx, cancel := context.WithTimeout(o.ctx, lease-time.Since(good))
		alive := true
		err := o.do(ctx, func() { alive = o.s.renew(o.owner) })
		cancel()
		switch {
		case o.s.bug == noFence: // nor does the owner look whether it is one
			good = time.Now()
		case !alive:
			o.finish(errLost)
		case err == nil:
			good = time.Now()
		case time.Since(good) >= lease:
			o.finish(&driver.Error{Op: "session", Transport: "sim", Kind: driver.ErrUnavailable, Err: errors.New("silent for a lease")})
		}
	}
}

func (o *session) finish(err error) {
	o.once.Do(func() {
		o.err = err
		close(o.done)
		o.end()
		o.w.mu.Lock()
		delete(o.w.all, o)
		o.w.mu.Unlock()
	})
}

func (o *session) Info() virtual.Info {
	return virtual.Info{Bytes: true, Atomic: true, Queue: driver.QueueFeatures{
		Lease: true, Requeue: true, Ordered: true, Durable: true, Counts: driver.CountStarts,
	}}
}

func (o *session) Done() <-chan struct{} { return o.done }

func (o *session) Err() error {
	select {
	case <-o.done:
		return o.err
	default:
		return nil
	}
}

func (o *session) Close(ctx context.Context) error {
	err := o.do(ctx, func() {
		if o.s.owners[o.owner] != nil {
			o.s.bury(o.owner)
		}
	})
	o.finish(&driver.Error{Transport: "sim", Kind: driver.ErrClosed})
	o.wg.Wait()
	return err
}

func (o *session) Create(ctx context.Context, q *driver.Queue) error {
	return o.do(ctx, func() {
		if _, ok := o.s.queues[q.Name]; !ok {
			o.s.queues[q.Name] = nil
		}
	})
}

func (o *session) Drop(ctx context.Context, queue string) error {
	return o.do(ctx, func() { delete(o.s.queues, queue) })
}

func (o *session) Purge(ctx context.Context, queue string) (n int, err error) {
	err = o.do(ctx, func() { n, o.s.queues[queue] = len(o.s.queues[queue]), nil })
	return n, err
}

func (o *session) Stat(ctx context.Context, queue string) (info driver.QueueInfo, err error) {
	found := false
	err = o.do(ctx, func() {
		var q []*item
		q, found = o.s.queues[queue]
		info = driver.QueueInfo{Name: queue, Ready: len(q), Consumers: -1}
		for _, c := range o.s.claims {
			if c.queue == queue {
				info.Unsettled++
			}
		}
	})
	if err == nil && !found {
		err = &driver.Error{Op: "inspect", Transport: "sim", Entity: queue, Kind: driver.ErrNotFound}
	}
	return info, err
}

func (o *session) Push(ctx context.Context, items []virtual.Item) error {
	err := o.do(ctx, func() {
		for i := range items {
			items[i].Err = o.s.push(&items[i])
		}
	})
	for i := range items {
		switch {
		case err != nil && o.s.bug == notSentSaid:
			items[i].Err = told(unsentError{err})
		case err != nil:
			items[i].Err = told(err)
		}
	}
	return nil
}

func (o *session) Claim(ctx context.Context, r virtual.ClaimRequest, dst []virtual.Claim) (int, error) {
	deadline := time.NewTimer(r.Wait)
	defer deadline.Stop()
	for {
		n, wake, err := o.take(ctx, &r, dst)
		if err != nil || n > 0 || r.Wait == 0 {
			return n, err
		}
		select {
		case <-wake:
		case <-deadline.C:
			return 0, nil
		case <-o.done:
			return 0, o.err
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// take claims once. What came too late is given back before anything is taken
// behind it.
func (o *session) take(ctx context.Context, r *virtual.ClaimRequest, dst []virtual.Claim) (n int, wake chan struct{}, err error) {
	select {
	case o.taking <- struct{}{}:
	case <-o.done:
		return 0, nil, o.err
	case <-ctx.Done():
		return 0, nil, context.Cause(ctx)
	}
	var ids []uint64 // dst is the caller's again when the answer is late
	err = o.do(ctx, func() {
		wake = o.s.wake
		if o.s.owners[o.owner] != nil {
			n = o.s.take(o.owner, r, dst)
		}
		for i := range n {
			ids = append(ids, dst[i].Tag.ID)
		}
		if o.s.bug == popThenRegister {
			for _, id := range ids {
				delete(o.s.claims, id)
			}
		}
	})
	if err == nil && o.s.bug == popThenRegister {
		err = o.do(ctx, func() {
			for i, id := range ids {
				o.s.claims[id] = &claim{id: id, owner: o.owner, queue: dst[i].Queue, it: &item{seq: id, raw: dst[i].Raw, again: dst[i].Redelivered}}
			}
		})
	}
	if err == nil {
		<-o.taking
		return n, wake, nil
	}
	o.wg.Go(func() {
		defer func() { <-o.taking }()
		if o.s.bug == deafClaim || len(ids) == 0 || o.w.travel(o.ctx, o.done) != nil {
			return
		}
		o.s.mu.Lock()
		defer o.s.mu.Unlock()
		for _, id := range slices.Backward(ids) {
			if o.s.claims[id] != nil {
				o.s.back(id, false)
			}
		}
	})
	return 0, nil, err
}

func (o *session) Settle(ctx context.Context, batch []virtual.Settlement) error {
	err := o.do(ctx, func() {
		for i, st := range batch {
			batch[i].Err = o.settle(&st)
		}
	})
	for i := range batch {
		if err != nil {
			batch[i].Err = told(err)
		}
	}
	return nil
}

func (o *session) settle(st *virtual.Settlement) error {
	c := o.s.find(o.owner, st.Tag)
	switch {
	case c == nil:
		return errLost
	case st.Outcome == driver.Requeue, st.Outcome == driver.Release:
		o.s.back(c.id, st.Outcome == driver.Requeue)
		return nil
	case st.Verbatim != "":
		o.s.seq++
		c.it.seq = o.s.seq
		o.s.queues[st.Verbatim] = append(o.s.queues[st.Verbatim], c.it)
		o.s.ring()
	}
	for j := range st.Put { // one step: all or nothing
		if err := o.s.has(st.Put[j].Queue); err != nil {
			return err
		}
	}
	delete(o.s.claims, c.id)
	for j := range st.Put {
		_ = o.s.push(&st.Put[j])
	}
	return nil
}

// Begin implements driver.Counter.
func (o *session) Begin(ctx context.Context, starts []driver.Start) error {
	err := o.do(ctx, func() {
		for i := range starts {
			c := o.s.find(o.owner, starts[i].Tag)
			if c == nil {
				starts[i].Err = errLost
				continue
			}
			if o.s.bug != uncounted {
				c.it.starts = starts[i].Attempt
			}
		}
	})
	if err != nil {
		return told(err)
	}
	return nil
}

package virtual

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"github.com/gombu/gombu/driver"
)

// conn is one session: a store, and what was opened on it.
//
// Goroutines, all waited for by Close: a watcher when the store can end by
// itself, one claimer per set of queues that one Claim can serve, a pump per
// fan-out subscription, a pusher per Sender, one that gives claims back which
// the store did not take at once. A store that never blocks on a
// socket (Info.Inline) has none of them.
type conn struct {
	*engine
	store  Store
	info   Info
	env    driver.Env
	router Router      // nil: bindings are the engine's own
	caster Broadcaster // nil: a fan-out is a copy per queue
	watch  Watcher     // nil: not inline

	ctx     context.Context // ends with the session; never used for a caller's wait
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	closing atomic.Bool
	once    sync.Once
	done    chan struct{}
	err     error // written before done is closed

	opened    sync.Mutex // guards the five
	receivers map[*receiver]struct{}
	senders   map[*pusher]struct{}
	claimers  map[claimKey]*claimer
	owed      []Settlement // claims that the store did not take back
	owing     bool         // payBack runs
}

func newConn(ctx context.Context, e *engine, store Store, env driver.Env) *conn {
	c := &conn{
		engine: e, store: store, info: store.Info(), env: env, done: make(chan struct{}),
		receivers: map[*receiver]struct{}{}, senders: map[*pusher]struct{}{}, claimers: map[claimKey]*claimer{},
	}
	c.router, _ = store.(Router)
	c.caster, _ = store.(Broadcaster)
	c.info.Inline = c.info.Inline && c.caster == nil // broadcasts need a backlog
	if c.info.Inline {
		c.watch = store.(Watcher)
	}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(ctx))
	if ended := store.Done(); ended != nil {
		c.wg.Go(func() {
			select {
			case <-ended:
				c.finish(store.Err())
			case <-c.ctx.Done():
			}
		})
	}
	return c
}

func (c *conn) Done() <-chan struct{} { return c.done }

// Err is nil while the session lives.
func (c *conn) Err() error {
	if c.over() {
		return c.err
	}
	return nil
}

func (c *conn) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// gone is the error of a call that comes too late; nil while it does not.
func (c *conn) gone(op string) error {
	switch {
	case c.over():
		return c.err
	case c.closing.Load():
		return c.fail(op, "", driver.ErrClosed, "")
	}
	return nil
}

// finish ends the session with a reason, once.
func (c *conn) finish(err error) {
	c.once.Do(func() {
		if err == nil {
			err = c.fail("session", "", driver.ErrUnavailable, "the store ended it without a word")
		}
		c.err = err
		close(c.done)
		for _, r := range c.openReceivers() {
			r.end(err)
		}
	})
}

func (c *conn) openReceivers() []*receiver {
	c.opened.Lock()
	defer c.opened.Unlock()
	out := make([]*receiver, 0, len(c.receivers))
	for r := range c.receivers {
		out = append(out, r)
	}
	return out
}

func (c *conn) openSenders() []*pusher {
	c.opened.Lock()
	defer c.opened.Unlock()
	out := make([]*pusher, 0, len(c.senders))
	for s := range c.senders {
		out = append(out, s)
	}
	return out
}

func (c *conn) Apply(ctx context.Context, steps []driver.Step) error {
	c.sweep(ctx)
	for i := range steps {
		if err := c.gone("apply"); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s := &steps[i]
		switch {
		case s.Exchange != nil:
			s.Err = c.applyExchange(ctx, s)
		case s.Queue != nil:
			s.Err = c.applyQueue(ctx, s)
		case s.Binding != nil:
			s.Err = c.applyBinding(ctx, s)
		default:
			s.Err = c.fail("apply", "", driver.ErrInvalid, "an empty step")
		}
	}
	return nil
}

// Hold is the store's, where it has one.
func (c *conn) Hold(ctx context.Context) error {
	if h, ok := c.store.(driver.Holder); ok {
		return h.Hold(ctx)
	}
	return nil
}

func (c *conn) Inspect(ctx context.Context, queue string) (driver.QueueInfo, error) {
	if err := c.gone("inspect"); err != nil {
		return driver.QueueInfo{}, err
	}
	return c.inspect(ctx, "inspect", queue)
}

func (c *conn) Purge(ctx context.Context, queue string) (int, error) {
	if err := c.gone("purge"); err != nil {
		return 0, err
	}
	if _, err := c.known("purge", queue); err != nil {
		return 0, err
	}
	return c.store.Purge(ctx, queue)
}

// lister is a conn whose store can name its queues.
type lister struct{ *conn }

func (l lister) Queues(ctx context.Context) ([]driver.QueueInfo, error) {
	if err := l.gone("list"); err != nil {
		return nil, err
	}
	l.sweep(ctx)
	infos, err := l.store.(Lister).Queues(ctx)
	for i := range infos {
		l.count(&infos[i], infos[i].Name)
	}
	return infos, err
}

// Close gives everything back, in the order that loses nothing: receivers,
// senders, queues of this session, the store, the goroutines. Where ctx ends
// first the store's own Close is what gives the claims back.
func (c *conn) Close(ctx context.Context) error {
	if c.closing.Swap(true) {
		select {
		case <-c.done:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var errs []error
	for _, r := range c.openReceivers() {
		errs = append(errs, r.Close(ctx))
	}
	for _, s := range c.openSenders() {
		errs = append(errs, s.Close(ctx))
	}
	errs = append(errs, c.dropExclusive(ctx))
	dead := c.over()
	c.finish(c.fail("session", "", driver.ErrClosed, ""))
	c.cancel()
	if dead {
		errs = nil // the session was lost already: that is no failure of Close
	}
	errs = append(errs, c.store.Close(ctx))
	c.wg.Wait()
	return errors.Join(errs...)
}

// dropExclusive leaves the queues of a lost session to the next one's sweep.
func (c *conn) dropExclusive(ctx context.Context) error {
	if c.over() {
		return nil
	}
	var mine []*queue
	c.mu.RLock()
	for _, q := range c.queues {
		if q.owner == c {
			mine = append(mine, q)
		}
	}
	c.mu.RUnlock()
	var errs []error
	for _, q := range mine {
		errs = append(errs, c.dropQueue(ctx, q.name, q))
	}
	return errors.Join(errs...)
}

package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// A cluster is one session with a Redis Cluster. It is made of stores: one for
// each node, which publishes, counts, binds and routes there and claims
// nothing; and one for each queue that is consumed, a small ledger of its own
// whose keys, fence and heartbeat lie in the queue's slot. The latter follow
// their slot; when one is over, so is the session.
//
// Goroutines: those of the stores, one that asks for the map, one a consumed
// queue that waits for its end, one a node in a call to several.
type cluster struct {
	cfg   *Config
	env   driver.Env
	atlas *atlas

	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc
	done   chan struct{}
	wg     sync.WaitGroup

	mu      sync.Mutex
	err     error
	nodes   map[string]*opening // by address
	ledgers map[string]*opening // by queue
}

// An opening is a store, or the one attempt to open it.
type opening struct {
	ready chan struct{} // closed when one of the two is set
	s     *store
	err   error
}

var (
	_ virtual.Store        = (*cluster)(nil)
	_ virtual.Router       = (*cluster)(nil)
	_ virtual.Broadcaster  = (*cluster)(nil)
	_ virtual.Lister       = (*cluster)(nil)
	_ virtual.OutletOpener = (*cluster)(nil)
	_ driver.Counter       = (*cluster)(nil)
	_ driver.Holder        = (*cluster)(nil)
)

// clusterInfo differs from a single server's: what spans queues spans slots.
var clusterInfo = virtual.Info{Bytes: true, ClaimQueues: 1, Queue: info.Queue}

// connectCluster returns once a map is known and the first node answers.
func connectCluster(ctx context.Context, cfg *Config, env driver.Env) (*cluster, error) {
	ctx, cancel := context.WithTimeout(ctx, cfg.ConnectTimeout)
	defer cancel()
	env.Notify = onceEach(env.Notify)
	if env.Owner == "" {
		env.Owner = rand.Text()
	}
	c := &cluster{
		cfg: cfg, env: env, atlas: newAtlas(cfg), done: make(chan struct{}),
		nodes: map[string]*opening{}, ledgers: map[string]*opening{},
	}
	c.ctx, c.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	_, err := c.atlas.ask(ctx)
	if err == nil {
		c.wg.Go(func() { c.atlas.run(c.ctx, c.moved) })
		_, err = c.node(ctx, 0)
	}
	if err == nil && env.Role != driver.Publish {
		c.wg.Go(c.mend)
	}
	if err != nil {
		c.cancel(err)
		c.wg.Wait()
		if _, known := errors.AsType[*driver.Error](err); !known || !errors.Is(err, driver.ErrDenied) && !errors.Is(err, driver.ErrUnsupported) {
			err = &driver.Error{Op: "connect", Transport: Scheme, Entity: cfg.where(), Kind: driver.ErrUnavailable, Err: err}
		}
		return nil, err
	}
	return c, nil
}

// onceEach passes the same warning of several stores once.
func onceEach(notify func(driver.Event)) func(driver.Event) {
	var mu sync.Mutex
	said := map[driver.Event]bool{}
	return func(e driver.Event) {
		mu.Lock()
		again := e.Kind == driver.Warning && (said[e] || len(said) >= maxWarnings)
		if e.Kind == driver.Warning {
			said[e] = true
		}
		mu.Unlock()
		if !again {
			notify(e)
		}
	}
}

// moved looks at a new map: a node that has no slot any more is left, and a
// ledger follows its slot.
func (c *cluster) moved(m slotMap) {
	masters := m.masters()
	for _, s := range c.stores() {
		l := s.standing()
		if l == nil {
			continue
		}
		if s.cfg.home == "" {
			if !slices.Contains(masters, l.addr) {
				s.lost(errors.New("the node has no slots any more"))
			}
			continue
		}
		if r, ok := m.find(slotOf(s.cfg.home)); ok && r.addr != l.addr && r.epoch >= l.epoch {
			s.lost(fmt.Errorf("the slot of %q is now at %s", s.cfg.home, r.addr))
		}
	}
}

// as is what a store of this session is told.
func (c *cluster) as(role driver.Role) driver.Env {
	env := c.env
	env.Role = role
	return env
}

// stores are those that are open.
func (c *cluster) stores() []*store {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []*store
	for _, all := range []map[string]*opening{c.nodes, c.ledgers} {
		for _, o := range all {
			select {
			case <-o.ready:
				if o.s != nil {
					out = append(out, o.s)
				}
			default:
			}
		}
	}
	return out
}

// dialSlot opens a connection to the node that has a queue's slot, again and
// again while ctx lasts. The map may change while a dead node is being dialed.
func (c *cluster) dialSlot(ctx context.Context, cfg *Config, onKeys func([]rueidis.RedisMessage)) (*link, error) {
	slot := slotOf(cfg.home)
	for {
		r, err := c.atlas.find(ctx, slot)
		if err != nil {
			return nil, err
		}
		l, err := c.dialAt(ctx, cfg.node(r.addr), r, slot, onKeys)
		if err == nil || errors.Is(err, driver.ErrDenied) || ctx.Err() != nil {
			return l, err
		}
		c.atlas.again(ctx)
	}
}

func (c *cluster) dialAt(ctx context.Context, at *Config, r slotRange, slot uint16, onKeys func([]rueidis.RedisMessage)) (*link, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		for ctx.Err() == nil {
			c.atlas.again(ctx)
			if now, err := c.atlas.find(ctx, slot); err == nil && now.addr != r.addr {
				cancel(fmt.Errorf("the slot is now at %s", now.addr))
			}
		}
	})
	l, err := dialOne(ctx, at, onKeys)
	if err == nil {
		l.epoch = r.epoch
	}
	return l, err
}

// node is the store of the node that has a slot. Its calls may find that the
// slot has moved, see retry.
func (c *cluster) node(ctx context.Context, slot uint16) (*store, error) {
	ctx, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	for {
		r, err := c.atlas.find(ctx, slot)
		if err != nil {
			return nil, err
		}
		s, err := c.open(ctx, c.nodes, r.addr, func(ctx context.Context) (*store, error) {
			return connect(ctx, c.cfg.node(r.addr), c.as(driver.Publish))
		})
		if err == nil || errors.Is(err, driver.ErrDenied) || errors.Is(err, driver.ErrUnsupported) || ctx.Err() != nil || c.Err() != nil {
			return s, err
		}
		c.atlas.again(ctx)
	}
}

// ledger is the store of a consumed queue, opened by its first claim.
func (c *cluster) ledger(ctx context.Context, queue string) (*store, error) {
	return c.open(ctx, c.ledgers, queue, func(ctx context.Context) (*store, error) {
		at := *c.cfg
		at.home, at.cluster = queue, c
		s, err := connect(ctx, &at, c.as(driver.Consume))
		if err != nil {
			return nil, err
		}
		c.wg.Go(func() {
			select {
			case <-s.done:
				c.end(s.Err())
			case <-c.done:
			}
		})
		return s, nil
	})
}

// open returns the store that stands, or opens it; who comes meanwhile waits.
func (c *cluster) open(ctx context.Context, all map[string]*opening, name string, f func(context.Context) (*store, error)) (*store, error) {
	c.mu.Lock()
	over, o := c.err, all[name]
	if o != nil {
		select {
		case <-o.ready:
			if o.err != nil || o.s.Err() != nil {
				o = nil
			}
		default:
		}
	}
	mine := o == nil && over == nil
	old := all[name]
	if mine {
		o = &opening{ready: make(chan struct{})}
		all[name] = o
	}
	c.mu.Unlock()
	if over != nil {
		return nil, &driver.Error{Op: "open", Transport: Scheme, Entity: name, Kind: driver.ErrNotSent, Err: over}
	}
	if mine {
		if old != nil && old.s != nil {
			_ = old.s.Close(ctx) // it is over: this frees its goroutines
		}
		ctx, cancel := context.WithCancelCause(ctx)
		stop := context.AfterFunc(c.ctx, func() { cancel(context.Cause(c.ctx)) })
		s, err := f(ctx)
		stop()
		cancel(nil)
		o.s, o.err = s, err
		close(o.ready)
		if err == nil && c.Err() != nil { // Close may not have seen it
			s.end(c.Err())
			_ = s.Close(ctx)
		}
	}
	select {
	case <-o.ready:
		return o.s, o.err
	case <-ctx.Done():
		return nil, ended(ctx, "open", driver.ErrNotSent)
	}
}

func (c *cluster) Info() virtual.Info    { return clusterInfo }
func (c *cluster) Done() <-chan struct{} { return c.done }

// Err says why the session is over; nil before.
func (c *cluster) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *cluster) end(err error) {
	c.mu.Lock()
	first := c.err == nil
	if first {
		c.err = err
	}
	c.mu.Unlock()
	if first {
		close(c.done)
		c.cancel(err)
	}
}

// Close gives back what is claimed in each queue, and closes all stores.
func (c *cluster) Close(ctx context.Context) error {
	c.end(&driver.Error{Op: "session", Transport: Scheme, Kind: driver.ErrClosed})
	var wg sync.WaitGroup
	stores := c.stores()
	errs := make([]error, len(stores))
	for i, s := range stores {
		wg.Go(func() {
			over := s.Err() != nil
			if err := s.Close(ctx); !over {
				errs[i] = err
			}
		})
	}
	wg.Wait()
	c.wg.Wait()
	return errors.Join(errs...)
}

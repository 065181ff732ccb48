package redis

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// Create makes the queue known to this session, see store.Create.
func (c *cluster) Create(_ context.Context, q *driver.Queue) error {
	k := newKeys(c.cfg)
	return c.cfg.known.create(&k, q)
}

// Drop removes the queue's bindings from every exchange that this session has
// bound or routed, and then its lists: a step for each.
func (c *cluster) Drop(ctx context.Context, queue string) error {
	for _, ex := range c.cfg.known.forget(queue, c.cfg.Sep) {
		_, err := at(ctx, c, ex, func(s *store) (struct{}, error) {
			return call(ctx, s, "delete", driver.ErrUncertain, func() (struct{}, error) {
				cmds, err := s.unbinding(ex, queue)
				if len(cmds) > 0 {
					_, err = s.multi(cmds...)
				}
				return struct{}{}, err
			}, nil)
		})
		if err != nil {
			return err
		}
	}
	_, err := at(ctx, c, queue, func(s *store) (struct{}, error) { return struct{}{}, s.Drop(ctx, queue) })
	return err
}

// Purge drops what is ready, see store.Purge.
func (c *cluster) Purge(ctx context.Context, queue string) (int, error) {
	return at(ctx, c, queue, func(s *store) (int, error) { return s.Purge(ctx, queue) })
}

// Stat counts what is ready, see store.Stat.
func (c *cluster) Stat(ctx context.Context, queue string) (driver.QueueInfo, error) {
	return at(ctx, c, queue, func(s *store) (driver.QueueInfo, error) { return s.Stat(ctx, queue) })
}

// Queues asks every node.
func (c *cluster) Queues(ctx context.Context) ([]driver.QueueInfo, error) {
	names := c.cfg.known.names()
	c.atlas.mu.Lock()
	slots := c.atlas.slots
	c.atlas.mu.Unlock()
	for _, addr := range slots.masters() {
		i := slices.IndexFunc(slots, func(r slotRange) bool { return r.addr == addr })
		s, err := c.node(ctx, slots[i].from)
		if err != nil {
			return nil, err
		}
		if err := s.names(ctx, names); err != nil {
			return nil, err
		}
	}
	out := make([]driver.QueueInfo, 0, len(names))
	for q := range names {
		i, err := c.Stat(ctx, q)
		switch {
		case errors.Is(err, driver.ErrNotFound): // it has become empty
			i = driver.QueueInfo{Name: q, Unsettled: -1, Delayed: -1, Consumers: -1}
		case errors.Is(err, driver.ErrConflict): // one of its lists is no list
			i = driver.QueueInfo{Name: q, Ready: -1, Unsettled: -1, Delayed: -1, Consumers: -1}
		case err != nil:
			return nil, err
		}
		out = append(out, i)
	}
	slices.SortFunc(out, func(a, b driver.QueueInfo) int {
		switch {
		case a.Name < b.Name:
			return -1
		case a.Name > b.Name:
			return 1
		}
		return 0
	})
	return out, nil
}

// Bind is a step for each exchange.
func (c *cluster) Bind(ctx context.Context, typ string, b []driver.Binding) error {
	return c.rebind(ctx, b, func(s *store, b []driver.Binding) error { return s.Bind(ctx, typ, b) })
}

// Unbind is a step for each exchange.
func (c *cluster) Unbind(ctx context.Context, typ string, b []driver.Binding) error {
	return c.rebind(ctx, b, func(s *store, b []driver.Binding) error { return s.Unbind(ctx, typ, b) })
}

func (c *cluster) rebind(ctx context.Context, b []driver.Binding, f func(*store, []driver.Binding) error) error {
	for start := 0; start < len(b); {
		ex, end := b[start].Exchange, start+1
		for end < len(b) && b[end].Exchange == ex {
			end++
		}
		some := b[start:end]
		start = end
		if _, err := at(ctx, c, ex, func(s *store) (struct{}, error) { return struct{}{}, f(s, some) }); err != nil {
			return err
		}
	}
	return nil
}

// Table is as fresh as a single server's, see store.Table.
func (c *cluster) Table(ctx context.Context, exchange, since string) (virtual.Table, bool, error) {
	type read struct {
		table virtual.Table
		ok    bool
	}
	r, err := at(ctx, c, exchange, func(s *store) (read, error) {
		t, ok, err := s.Table(ctx, exchange, since)
		return read{t, ok}, err
	})
	return r.table, r.ok, err
}

// Broadcast publishes at the node that has the exchange's slot; nodes pass it on
// to each other.
func (c *cluster) Broadcast(ctx context.Context, exchange, key string, items []virtual.Item) error {
	_, err := at(ctx, c, exchange, func(s *store) (struct{}, error) {
		return struct{}{}, s.Broadcast(ctx, exchange, key, items)
	})
	if err != nil && c.Err() != nil {
		return c.Err()
	}
	for i := range items {
		if items[i].Err == nil {
			items[i].Err = err
		}
	}
	return nil
}

// Subscribe listens at the node that has the exchange's slot. When that is lost
// the subscription is over: what was published meanwhile is gone.
func (c *cluster) Subscribe(ctx context.Context, r driver.ReceiverConfig, b []driver.Binding) (virtual.Subscription, error) {
	if len(b) == 0 {
		return nil, &driver.Error{Op: "subscribe", Transport: Scheme, Entity: r.Queue, Kind: driver.ErrInvalid, Err: errors.New("nothing is bound")}
	}
	return at(ctx, c, b[0].Exchange, func(s *store) (virtual.Subscription, error) { return s.Subscribe(ctx, r, b) })
}

// A clusterKeeper has a keeper at each node that it has pushed to.
type clusterKeeper struct {
	c    *cluster
	want driver.SenderConfig

	mu  sync.Mutex
	all map[*store]*nodeKeeper
}

type nodeKeeper struct {
	turn chan struct{} // capacity 1: one queue pushes at a time
	kept virtual.Outlet
}

// OpenOutlet asks one node at once whether it can keep, see store.keep. A push to
// several nodes is none of one goroutine.
func (c *cluster) OpenOutlet(ctx context.Context, want driver.SenderConfig) (virtual.Outlet, error) {
	if want.Replicas == 0 && !want.Fsync {
		return nil, nil
	}
	k := &clusterKeeper{c: c, want: want, all: map[*store]*nodeKeeper{}}
	s, err := c.node(ctx, 0)
	if err != nil {
		return nil, err
	}
	n, err := k.at(ctx, s)
	if err != nil {
		return nil, err
	}
	<-n.turn
	return k, nil
}

// at returns the keeper of a node, with the turn taken.
func (k *clusterKeeper) at(ctx context.Context, s *store) (*nodeKeeper, error) {
	k.mu.Lock()
	n := k.all[s]
	if n == nil {
		maps.DeleteFunc(k.all, func(s *store, _ *nodeKeeper) bool { return s.Err() != nil })
		n = &nodeKeeper{turn: make(chan struct{}, 1)}
		k.all[s] = n
	}
	k.mu.Unlock()
	select {
	case n.turn <- struct{}{}:
	case <-ctx.Done():
		return nil, ended(ctx, "publish", driver.ErrNotSent)
	}
	if n.kept == nil {
		kept, err := s.keep(ctx, k.want)
		if err != nil {
			<-n.turn
			return nil, err
		}
		n.kept = kept
	}
	return n, nil
}

// Push is the cluster's, with a wait at each node.
func (k *clusterKeeper) Push(ctx context.Context, items []virtual.Item) error {
	k.c.split(items, func(queue string, some []virtual.Item) {
		k.c.pushAll(ctx, queue, some, func(ctx context.Context, s *store, some []virtual.Item) error {
			n, err := k.at(ctx, s)
			if err != nil {
				return &driver.Error{Op: "publish", Transport: Scheme, Entity: queue, Kind: driver.ErrNotSent, Err: err}
			}
			defer func() { <-n.turn }()
			return n.kept.Push(ctx, some)
		})
	})
	torn(items)
	return k.c.Err()
}

// Close closes all of them.
func (k *clusterKeeper) Close(ctx context.Context) error {
	k.mu.Lock()
	all := slices.Collect(maps.Values(k.all))
	k.mu.Unlock()
	var errs []error
	for _, n := range all {
		if n.kept != nil {
			errs = append(errs, n.kept.Close(ctx))
		}
	}
	return errors.Join(errs...)
}

package redis

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// at runs f with the store of the node that has the slot of a queue or
// exchange, again after an answer that says that it did nothing there.
func at[T any](ctx context.Context, c *cluster, name string, f func(*store) (T, error)) (T, error) {
	for {
		s, err := c.node(ctx, slotOf(name))
		if err != nil {
			var zero T
			return zero, err
		}
		v, err := f(s)
		if !elsewhere(err) || ctx.Err() != nil || c.Err() != nil {
			return v, err
		}
		c.atlas.again(ctx)
	}
}

// elsewhere says that a command did nothing, because its slot is, or is just
// coming to be, at another node, or because the node is none now.
func elsewhere(err error) bool {
	if errors.Is(err, driver.ErrNotSent) {
		return true
	}
	re, ok := errors.AsType[*rueidis.RedisError](err)
	if !ok {
		return false
	}
	switch errorCode(re) {
	case "MOVED", "ASK", "TRYAGAIN", "CLUSTERDOWN", "READONLY", "LOADING", "MASTERDOWN":
		return true
	}
	return false
}

// Push is a step for each queue. A message of which some copies were pushed and
// others were not is ErrUncertain, and names both.
func (c *cluster) Push(ctx context.Context, items []virtual.Item) error {
	c.split(items, func(queue string, some []virtual.Item) {
		c.pushAll(ctx, queue, some, func(ctx context.Context, s *store, some []virtual.Item) error { return s.Push(ctx, some) })
	})
	torn(items)
	return c.Err()
}

// split runs f for the items of each queue, side by side.
func (c *cluster) split(items []virtual.Item, f func(queue string, some []virtual.Item)) {
	groups, order := map[string][]int{}, []string{}
	for i := range items {
		q := items[i].Queue
		if groups[q] == nil {
			order = append(order, q)
		}
		groups[q] = append(groups[q], i)
	}
	if len(order) == 1 {
		f(order[0], items)
		return
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxSplit)
	for _, q := range order {
		slots <- struct{}{}
		wg.Go(func() {
			some := make([]virtual.Item, len(groups[q]))
			for n, i := range groups[q] {
				some[n] = items[i]
			}
			f(q, some)
			for n, i := range groups[q] {
				items[i].Err = some[n].Err
			}
			<-slots
		})
	}
	wg.Wait()
}

// maxSplit bounds the goroutines of one call.
const maxSplit = 64

// insist runs f for a batch, and again for those that were elsewhere, while ctx
// and the session last.
func insist[T any](ctx context.Context, c *cluster, all []T, outcome func(*T) error, f func([]T)) {
	of := make([]int, len(all))
	for i := range of {
		of[i] = i
	}
	for {
		some := make([]T, len(of))
		for n, i := range of {
			some[n] = all[i]
		}
		f(some)
		for n, i := range of {
			all[i] = some[n]
		}
		of = slices.DeleteFunc(of, func(i int) bool { return !elsewhere(outcome(&all[i])) })
		if len(of) == 0 || ctx.Err() != nil || c.Err() != nil {
			return
		}
		c.atlas.again(ctx)
	}
}

// pushAll pushes items of one queue until their slot's node has taken or
// refused them, for as long as a connect may take.
func (c *cluster) pushAll(ctx context.Context, queue string, items []virtual.Item, push func(context.Context, *store, []virtual.Item) error) {
	limited, cancel := context.WithTimeout(ctx, c.cfg.ConnectTimeout)
	defer cancel()
	insist(limited, c, items, func(i *virtual.Item) error { return i.Err }, func(some []virtual.Item) {
		for i := range some {
			some[i].Err = nil
		}
		s, err := c.node(limited, slotOf(queue))
		if err == nil {
			err = push(ctx, s, some)
		} else {
			err = &driver.Error{Op: "publish", Transport: Scheme, Entity: queue, Kind: driver.ErrNotSent, Err: err}
		}
		for i := range some {
			if some[i].Err == nil {
				some[i].Err = err
			}
		}
	})
	for i := range items {
		if e := items[i].Err; elsewhere(e) && !errors.Is(e, driver.ErrNotSent) {
			items[i].Err = &driver.Error{Op: "publish", Transport: Scheme, Entity: queue, Kind: driver.ErrNotSent, Err: e}
		}
	}
}

// torn finds messages that are in some of their queues only.
func torn(items []virtual.Item) {
	for start := 0; start < len(items); {
		end := start + 1
		for end < len(items) && items[end].Msg != nil && items[end].Msg == items[start].Msg {
			end++
		}
		var in, out []string
		var why error
		for i := start; i < end; i++ {
			if items[i].Err == nil {
				in = append(in, items[i].Queue)
			} else {
				out, why = append(out, items[i].Queue), items[i].Err
			}
		}
		if len(in) > 0 && len(out) > 0 {
			err := &driver.Error{Op: "publish", Transport: Scheme, Kind: driver.ErrUncertain,
				Err: fmt.Errorf("it reached %s, and not for certain %s: %w", strings.Join(in, ", "), strings.Join(out, ", "), why)}
			for i := start; i < end; i++ {
				if items[i].Err != nil {
					items[i].Err = err
				}
			}
		}
		start = end
	}
}

// Claim takes from one queue; the ledger that it opens stays until the session
// is over.
func (c *cluster) Claim(ctx context.Context, r virtual.ClaimRequest, dst []virtual.Claim) (int, error) {
	queue := r.Wants[0].Queue
	s, err := c.ledger(ctx, queue)
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, err
	}
	n, err := s.Claim(ctx, r, dst)
	if elsewhere(err) && ctx.Err() == nil {
		c.atlas.again(ctx)
		return 0, nil
	}
	return n, err
}

// ledgers runs f for the parts of a batch that belong to one queue each; a tag
// that no ledger of this session has is passed to none.
func ledgers[T any](c *cluster, all []T, tag func(*T) driver.Tag, none func(*T), f func(*store, []T)) {
	groups, order := map[*store][]int{}, []*store{}
	k := newKeys(c.cfg)
	for i := range all {
		list, _ := strings.CutPrefix(tag(&all[i]).Ref, c.env.Owner+":")
		c.mu.Lock()
		o := c.ledgers[k.queueOf(list)]
		c.mu.Unlock()
		if o == nil || o.s == nil {
			none(&all[i])
			continue
		}
		if groups[o.s] == nil {
			order = append(order, o.s)
		}
		groups[o.s] = append(groups[o.s], i)
	}
	for _, s := range order {
		some := make([]T, len(groups[s]))
		for n, i := range groups[s] {
			some[n] = all[i]
		}
		f(s, some)
		for n, i := range groups[s] {
			all[i] = some[n]
		}
	}
}

var errOtherSession = errors.New("the claim is not of this session")

// Settle ends claims, a step for each queue. While their slot is on its way to
// another node it waits.
func (c *cluster) Settle(ctx context.Context, all []virtual.Settlement) error {
	ledgers(c, all, func(t *virtual.Settlement) driver.Tag { return t.Tag }, func(t *virtual.Settlement) {
		t.Err = &driver.Error{Op: "settle", Transport: Scheme, Kind: driver.ErrLeaseLost, Err: errOtherSession}
	}, func(s *store, some []virtual.Settlement) {
		insist(ctx, c, some, func(t *virtual.Settlement) error { return t.Err }, func(some []virtual.Settlement) { _ = s.Settle(ctx, some) })
	})
	return c.Err()
}

// Begin counts handler starts, see store.Begin.
func (c *cluster) Begin(ctx context.Context, all []driver.Start) error {
	ledgers(c, all, func(t *driver.Start) driver.Tag { return t.Tag }, func(t *driver.Start) {
		t.Err = &driver.Error{Op: "begin", Transport: Scheme, Kind: driver.ErrLeaseLost, Err: errOtherSession}
	}, func(s *store, some []driver.Start) {
		insist(ctx, c, some, func(t *driver.Start) error { return t.Err }, func(some []driver.Start) { _ = s.Begin(ctx, some) })
	})
	return c.Err()
}

// Hold returns when all ledgers with open claims are certain of them.
func (c *cluster) Hold(ctx context.Context) error {
	for _, s := range c.stores() {
		if s.busy() {
			if err := s.Hold(ctx); err != nil {
				return err
			}
		}
	}
	return c.Err()
}

// busy: there are open claims.
func (s *store) busy() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.own {
		if len(l.open) > 0 {
			return true
		}
	}
	return false
}

package virtual

import (
	"cmp"
	"context"
	"slices"

	"github.com/gombu/gombu/driver"
)

func (c *conn) applyBinding(ctx context.Context, s *driver.Step) error {
	b := s.Binding
	switch {
	case (b.Queue == "") == (b.ToExchange == ""):
		return c.fail("bind", b.Exchange, driver.ErrInvalid, "want a queue or an exchange to bind, and not both")
	case b.Exchange == "" && (b.ToExchange != "" || s.Op == driver.Delete):
		return c.fail("bind", b.Queue+b.ToExchange, driver.ErrDenied, "the default exchange leads to each queue by its name, and nowhere else")
	case b.Exchange == "":
		return nil // it is there
	case s.Op == driver.Delete:
		return c.unbind(ctx, b)
	case s.Op == driver.Check:
		return c.checkBinding(b)
	}
	return c.bind(ctx, b)
}

// bind puts the binding into the graph, then into the shared table. Twice is
// once, but the shared table is written again: others may have cleaned it.
func (c *conn) bind(ctx context.Context, b *driver.Binding) error {
	kind, err := c.kindFor(ctx, b.Exchange)
	if err != nil {
		return err
	}
	c.mu.Lock()
	from := c.exchanges[b.Exchange]
	if from == nil && kind != "" {
		from = c.addExchange(&driver.Exchange{Name: b.Exchange, Type: kind})
		from.assumed = true
	}
	to, err := c.destination(b)
	switch {
	case from == nil:
		err = c.fail("bind", b.Exchange, driver.ErrNotFound, "no such exchange: declare it first")
	case err == nil && findBinding(from, to, b) == nil:
		c.link(&binding{from: from, to: to, key: b.Key, args: CloneHeaders(b.Args)})
	}
	c.mu.Unlock()
	if err != nil || to.exchange != nil {
		return err
	}
	if c.router != nil {
		if err := c.router.Bind(ctx, kind, []driver.Binding{*b}); err != nil {
			return err
		}
	}
	return c.resubscribe(ctx, b.Queue, from)
}

// kindFor is the type under which an exchange's bindings are shared: as it was
// declared here, else as the shared table shows; empty when neither knows it.
func (c *conn) kindFor(ctx context.Context, name string) (string, error) {
	c.mu.RLock()
	kind := kindOf(c.exchanges[name])
	c.mu.RUnlock()
	if kind != "" || c.router == nil {
		return kind, nil
	}
	t, err := c.table(ctx, name, "")
	if err != nil || t.size == 0 {
		return "", err
	}
	return t.kind, nil
}

// destination finds what a binding leads to; mu is held.
func (c *conn) destination(b *driver.Binding) (dest, error) {
	if b.ToExchange != "" {
		if x := c.exchanges[b.ToExchange]; x != nil {
			return dest{exchange: x}, nil
		}
		return dest{}, c.fail("bind", b.ToExchange, driver.ErrNotFound, "no such exchange: declare it first")
	}
	q := c.queues[b.Queue]
	switch {
	case q != nil && !q.expired():
		return dest{queue: q}, c.lockedOut("bind", q)
	case c.Sole:
		return dest{}, c.fail("bind", b.Queue, driver.ErrNotFound, "no such queue: declare it first")
	}
	return dest{queue: c.assumeQueue(b.Queue)}, nil
}

// assumeQueue makes a queue known that was not declared here; mu is held.
func (e *engine) assumeQueue(name string) *queue {
	q := &queue{name: name, assumed: true, bindings: map[*binding]struct{}{}}
	e.queues[name] = q
	return q
}

// findBinding returns the binding as it was made; the engine's mu is held.
func findBinding(from *exchange, to dest, b *driver.Binding) *binding {
	edges := from.from
	if to.queue != nil && len(to.queue.bindings) < len(edges) {
		edges = to.queue.bindings
	}
	for o := range edges {
		if o.from == from && o.to == to && o.key == b.Key && sameArgs(o.args, b.Args) {
			return o
		}
	}
	return nil
}

func sameArgs(a, b driver.Headers) bool { return len(a) == len(b) && equalValues(a, b) }

// unbind undoes a bind; what is not bound is no error.
func (c *conn) unbind(ctx context.Context, b *driver.Binding) error {
	c.mu.Lock()
	from := c.exchanges[b.Exchange]
	if from != nil {
		to := dest{queue: c.queues[b.Queue], exchange: c.exchanges[b.ToExchange]}
		if to.queue != nil {
			if err := c.lockedOut("unbind", to.queue); err != nil {
				c.mu.Unlock()
				return err
			}
		}
		if old := findBinding(from, to, b); old != nil {
			c.unlink(old)
		}
	}
	c.mu.Unlock()
	if b.Queue == "" {
		return nil
	}
	if err := c.unbindShared(ctx, b.Exchange, []driver.Binding{*b}); err != nil {
		return err
	}
	return c.resubscribe(ctx, b.Queue, from)
}

// unbindShared takes bindings of one exchange out of the shared table.
func (c *conn) unbindShared(ctx context.Context, exchange string, b []driver.Binding) error {
	if c.router == nil || len(b) == 0 {
		return nil
	}
	kind, err := c.kindFor(ctx, exchange)
	if err != nil || kind == "" {
		return err // nothing is bound to it
	}
	return c.router.Unbind(ctx, kind, b)
}

func (c *conn) checkBinding(b *driver.Binding) error {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if from := c.exchanges[b.Exchange]; from != nil {
		if findBinding(from, dest{queue: c.queues[b.Queue], exchange: c.exchanges[b.ToExchange]}, b) != nil {
			return nil
		}
	}
	return c.fail("check", b.Exchange+" to "+b.Queue+b.ToExchange, driver.ErrNotFound, "no such binding")
}

// sharedBindings reads an exchange's shared table; nil without a Router.
func (c *conn) sharedBindings(ctx context.Context, exchange string) ([]driver.Binding, error) {
	if c.router == nil {
		return nil, nil
	}
	t, _, err := c.router.Table(ctx, exchange, "")
	return t.Bindings, err
}

// sharing names the exchanges in whose shared tables a queue known here may
// stand; mu is held.
func (e *engine) sharing() []string {
	if !e.shared {
		return nil
	}
	var names []string
	for name, x := range e.exchanges {
		if !x.predeclared || len(x.from) > 0 {
			names = append(names, name)
		}
	}
	return names
}

// unshare takes a queue out of the shared tables of exchanges.
func (c *conn) unshare(ctx context.Context, queue string, exchanges []string) error {
	var failed error
	for _, name := range exchanges {
		all, err := c.sharedBindings(ctx, name)
		if err == nil {
			err = c.unbindShared(ctx, name, slices.DeleteFunc(all, func(b driver.Binding) bool { return b.Queue != queue }))
		}
		if err != nil {
			failed = err
		}
	}
	return failed
}

// fanouts returns the queue's bindings to fanout exchanges, oldest first; mu is
// held.
func (q *queue) fanouts() []*binding {
	var out []*binding
	for b := range q.bindings {
		if b.from.decl.Type == driver.TypeFanout {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b *binding) int { return cmp.Compare(a.seq, b.seq) })
	return out
}

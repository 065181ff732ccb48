package virtual

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/gombu/gombu/driver"
)

func (c *conn) applyQueue(ctx context.Context, s *driver.Step) error {
	q := *s.Queue
	q.AutoDelete = q.AutoDelete || q.Exclusive
	if q.Name == "" {
		return c.fail("declare", "queue", driver.ErrInvalid, "a queue needs a name")
	}
	switch {
	case s.Op == driver.Delete:
		return c.deleteQueue(ctx, q.Name, s.IfUnused, s.IfEmpty)
	case s.Op == driver.Check || q.Passive:
		_, err := c.inspect(ctx, "check", q.Name)
		return err
	case q.NoDeclare:
		return nil
	}
	return c.declareQueue(ctx, &q)
}

// declareQueue writes the queue down first, so that of two declarations that
// differ one is refused, and takes it back when the store refuses.
func (c *conn) declareQueue(ctx context.Context, decl *driver.Queue) error {
	fresh, err := c.noteQueue(decl)
	if err != nil {
		return err
	}
	if err = c.store.Create(ctx, decl); err != nil && fresh != nil {
		c.mu.Lock()
		c.forget(fresh)
		c.mu.Unlock()
	}
	return err
}

// noteQueue returns the queue when it was not known before.
func (c *conn) noteQueue(decl *driver.Queue) (*queue, error) {
	args := CloneHeaders(decl.Arguments())
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.queues[decl.Name]
	if old != nil {
		if err := c.lockedOut("declare", old); err != nil {
			return nil, err
		}
	}
	switch {
	case old == nil:
	case old.expired() || old.orphaned():
		c.forget(old)
	case old.assumed && !decl.Exclusive:
		old.assumed, old.decl, old.args = false, *decl, args
		return nil, nil
	case old.assumed:
		c.forget(old)
	default:
		old.unused = time.Now()
		return nil, c.conflict(decl.Name, []field{
			{"transient", old.decl.Transient, decl.Transient}, {"exclusive", old.decl.Exclusive, decl.Exclusive},
			{"auto_delete", old.decl.AutoDelete, decl.AutoDelete},
		}, old.args, args)
	}
	q := &queue{name: decl.Name, decl: *decl, args: args, bindings: map[*binding]struct{}{}, unused: time.Now()}
	q.decl.Args = nil
	if decl.Exclusive {
		q.owner = c
	}
	if ms, ok := normal(args.Get("x-expires")).(int64); ok && c.Sole {
		q.expires = time.Duration(ms) * time.Millisecond
	}
	if q.passing() {
		c.passing++
	}
	c.queues[q.name] = q
	return q, nil
}

// lockedOut is an error when q belongs to another living session; mu is held.
func (c *conn) lockedOut(op string, q *queue) error {
	if q.owner == nil || q.owner == c || q.orphaned() {
		return nil
	}
	return c.fail(op, q.name, driver.ErrConflict, "the queue is exclusive to another session")
}

// known returns the queue of that name, or an error when it is another's.
func (c *conn) known(op, name string) (*queue, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	q := c.queues[name]
	if q == nil {
		return nil, nil
	}
	return q, c.lockedOut(op, q)
}

func (c *conn) deleteQueue(ctx context.Context, name string, ifUnused, ifEmpty bool) error {
	q, err := c.known("delete", name)
	if err != nil {
		return err
	}
	if ifUnused || ifEmpty {
		info, err := c.inspect(ctx, "delete", name)
		switch {
		case isNotFound(err):
			return nil
		case err != nil:
			return err
		case ifUnused && (info.Consumers > 0 || len(c.receiversOf(name)) > 0):
			return c.fail("delete", name, driver.ErrConflict, "the queue has consumers")
		case ifEmpty && info.Ready > 0:
			return c.fail("delete", name, driver.ErrConflict, "the queue holds %d messages", info.Ready)
		}
	}
	return c.dropQueue(ctx, name, q)
}

// dropQueue takes the queue's bindings out, of the shared tables too, ends its
// receivers and deletes it in the store. q is what is known of it here, or nil.
func (c *conn) dropQueue(ctx context.Context, name string, q *queue) error {
	c.mu.Lock()
	if now := c.queues[name]; now != q {
		if c.Sole {
			c.mu.Unlock()
			return nil // somebody else did, and may have declared it again
		}
		q = now // somebody else is at it, and the store may fail them: ask it ourselves
	}
	var receivers []*receiver
	exchanges := c.sharing()
	if q != nil {
		receivers = append(receivers, q.receivers...)
		c.forget(q)
	}
	c.mu.Unlock()
	err := c.unshare(ctx, name, exchanges)
	if dropErr := c.store.Drop(ctx, name); dropErr != nil {
		err = dropErr
	}
	for _, r := range receivers {
		r.end(c.fail("receive", name, driver.ErrNotFound, "the queue was deleted"))
		r.c.env.Notify(driver.Event{Kind: driver.Gone, Entity: name, Detail: "the queue was deleted"})
	}
	return err
}

// forget takes a queue and its bindings out of the routing state; mu is held.
func (e *engine) forget(q *queue) {
	if e.queues[q.name] != q {
		return
	}
	delete(e.queues, q.name)
	if q.passing() {
		e.passing--
	}
	for b := range q.bindings {
		e.unlink(b)
	}
}

// passing queues end by themselves: with time, or with their session.
func (q *queue) passing() bool { return q.expires > 0 || q.owner != nil }

func (q *queue) expired() bool {
	return q.expires > 0 && len(q.receivers) == 0 && time.Since(q.unused) > q.expires
}

// orphaned says that the session to which the queue was exclusive is dead.
func (q *queue) orphaned() bool { return q.owner != nil && q.owner.over() }

// sweep deletes the queues whose x-expires has passed, which stopped taking
// messages at that moment (search.takeOne), and those of dead sessions, which
// could not do it any more.
func (c *conn) sweep(ctx context.Context) {
	if ctx.Err() != nil {
		return
	}
	c.mu.RLock()
	var gone []*queue
	if c.passing > 0 {
		for _, q := range c.queues {
			if q.expired() || q.orphaned() {
				gone = append(gone, q)
			}
		}
	}
	c.mu.RUnlock()
	for _, q := range gone {
		if err := c.dropQueue(ctx, q.name, q); err != nil {
			c.env.Log.WarnContext(ctx, "a queue that had ended was not deleted", "queue", q.name, "error", err)
		}
	}
}

// inspect counts. A queue declared here exists even where the store has
// nothing to show for it, unless the store is ours alone; and where empty and
// missing look the same, whoever only wants to count gets zeros.
func (c *conn) inspect(ctx context.Context, op, name string) (driver.QueueInfo, error) {
	c.sweep(ctx)
	q, err := c.known(op, name)
	if err != nil {
		return driver.QueueInfo{}, err
	}
	info, err := c.store.Stat(ctx, name)
	if isNotFound(err) && (q != nil || op == "inspect") && !c.Sole {
		info, err = driver.QueueInfo{Unsettled: -1, Delayed: -1, Consumers: -1}, nil
	}
	if err != nil {
		return driver.QueueInfo{}, err
	}
	c.count(&info, name)
	return info, nil
}

// count fills in what the engine knows better than the store.
func (c *conn) count(info *driver.QueueInfo, name string) {
	info.Name = name
	if c.Sole {
		info.Consumers = len(c.receiversOf(name))
	}
}

// attach counts a receiver in, unless one of the two wants the queue to itself.
func (c *conn) attach(r *receiver) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[r.queue]
	if q == nil {
		if c.Sole {
			return c.fail("consume", r.queue, driver.ErrNotFound, "no such queue")
		}
		q = c.assumeQueue(r.queue)
	}
	if err := c.lockedOut("consume", q); err != nil {
		return err
	}
	q.receivers = slices.DeleteFunc(q.receivers, func(o *receiver) bool { return o.c.over() })
	if len(q.receivers) > 0 && (r.cfg.Exclusive || q.receivers[0].cfg.Exclusive) {
		return c.fail("consume", r.queue, driver.ErrConflict, "the queue is in exclusive use by another consumer")
	}
	q.receivers = append(q.receivers, r)
	return nil
}

// detach counts a receiver out, and deletes a queue that goes with its last. One
// of a dead session deletes nothing: the next session may have declared the
// queue again and be about to consume from it.
func (c *conn) detach(ctx context.Context, r *receiver) error {
	c.mu.Lock()
	q := c.queues[r.queue]
	if q == nil || !slices.Contains(q.receivers, r) {
		c.mu.Unlock()
		return nil
	}
	q.receivers = slices.DeleteFunc(q.receivers, func(o *receiver) bool { return o == r })
	q.unused = time.Now()
	last := len(q.receivers) == 0
	if last && q.assumed && len(q.bindings) == 0 {
		c.forget(q)
	}
	drop := last && !c.over() && q.decl.AutoDelete && (c.Sole || q.owner != nil || q.fanoutOnly())
	c.mu.Unlock()
	if !drop {
		return nil
	}
	return c.dropQueue(ctx, q.name, q)
}

// fanoutOnly says that only broadcasts reach the queue: deleting it takes
// nothing from another process.
func (q *queue) fanoutOnly() bool {
	for b := range q.bindings {
		if b.from.decl.Type != driver.TypeFanout {
			return false
		}
	}
	return len(q.bindings) > 0
}

// field is a setting that a second declaration must not change.
type field struct {
	name       string
	have, want any
}

// conflict names the first setting that differs.
func (e *engine) conflict(entity string, fields []field, have, want driver.Headers) error {
	for _, h := range have {
		fields = append(fields, field{h.Key, h.Value, want.Get(h.Key)})
	}
	for _, w := range want {
		if _, both := have.Lookup(w.Key); !both {
			fields = append(fields, field{w.Key, nil, w.Value})
		}
	}
	for _, f := range fields {
		if !equalValues(f.have, f.want) {
			return e.fail("declare", entity, driver.ErrConflict, "%s: have %s, want %s", f.name, show(f.have), show(f.want))
		}
	}
	return nil
}

func show(v any) string {
	if v == nil {
		return "none"
	}
	return fmt.Sprint(v)
}

package virtual

import (
	"context"
	"slices"
	"time"

	"github.com/gombu/gombu/driver"
)

// exchange is what this connector knows of an exchange: its settings, the
// bindings made here, and an index of those that route here (with a Router,
// whose shared table routes to queues, only those to other exchanges).
type exchange struct {
	decl        driver.Exchange
	args        driver.Headers
	predeclared bool
	assumed     bool // seen in the shared table only; a declaration may still say otherwise
	index       matcher
	from, to    map[*binding]struct{} // bindings that start and end here
}

// queue is what this connector knows of a queue.
type queue struct {
	name      string
	assumed   bool // used here and never declared here
	decl      driver.Queue
	args      driver.Headers
	owner     *conn // of an exclusive queue
	receivers []*receiver
	bindings  map[*binding]struct{}
	expires   time.Duration // x-expires, where the engine keeps it
	unused    time.Time     // since when; only of interest without receivers
}

// binding is one edge of the routing graph.
type binding struct {
	from *exchange
	to   dest
	key  string
	args driver.Headers
	seq  uint64 // order of making
}

// dest is where a binding ends: a queue or an exchange.
type dest struct {
	queue    *queue
	exchange *exchange
}

// dests counts how many bindings lead to each destination.
type dests []struct {
	dest
	n int
}

func (d *dests) add(to dest) {
	for i := range *d {
		if (*d)[i].dest == to {
			(*d)[i].n++
			return
		}
	}
	*d = append(*d, struct {
		dest
		n int
	}{to, 1})
}

func (d *dests) remove(to dest) {
	for i := range *d {
		if (*d)[i].dest == to {
			if (*d)[i].n--; (*d)[i].n == 0 {
				*d = slices.Delete(*d, i, i+1)
			}
			return
		}
	}
}

func (e *engine) predeclare() {
	for _, typ := range e.Config.Features.Types {
		e.addExchange(&driver.Exchange{Name: "amq." + typ, Type: typ}).predeclared = true
		if typ == driver.TypeHeaders {
			e.addExchange(&driver.Exchange{Name: "amq.match", Type: typ}).predeclared = true
		}
	}
}

// addExchange makes x known, in place of one that was only assumed; mu is held.
func (e *engine) addExchange(decl *driver.Exchange) *exchange {
	x := e.exchanges[decl.Name]
	if x == nil {
		x = &exchange{from: map[*binding]struct{}{}, to: map[*binding]struct{}{}}
		e.exchanges[decl.Name] = x
	}
	x.decl, x.args, x.assumed, x.index = *decl, CloneHeaders(decl.Args), false, newMatcher(decl.Type)
	x.decl.Args = nil
	for b := range x.from {
		if e.routesHere(b) {
			x.index.add(b)
		}
	}
	return x
}

func (c *conn) applyExchange(ctx context.Context, s *driver.Step) error {
	x := *s.Exchange
	if x.Type == "" {
		x.Type = driver.TypeDirect
	}
	if a, ok := x.Args.Get("alternate-exchange").(string); ok && x.Alternate == "" {
		x.Alternate = a
	}
	x.Args = x.Args.Without("alternate-exchange")
	switch {
	case x.Name == "" && s.Op == driver.Delete:
		return c.fail("delete", "", driver.ErrDenied, "the default exchange belongs to the broker")
	case x.Name == "":
		return nil // it is always there
	case s.Op == driver.Delete:
		return c.deleteExchange(ctx, x.Name, s.IfUnused)
	case s.Op == driver.Check || x.Passive:
		return c.checkExchange(ctx, x.Name)
	case x.NoDeclare:
		return nil
	}
	return c.declareExchange(&x)
}

func (e *engine) declareExchange(x *driver.Exchange) error {
	if !slices.Contains(e.Config.Features.Types, x.Type) {
		return e.fail("declare", x.Name, driver.ErrUnsupported, "exchange type %q: have %q", x.Type, e.Config.Features.Types)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	old := e.exchanges[x.Name]
	if old == nil || old.assumed {
		e.addExchange(x)
		return nil
	}
	return e.conflict(x.Name, []field{
		{"type", old.decl.Type, x.Type}, {"transient", old.decl.Transient, x.Transient}, {"auto_delete", old.decl.AutoDelete, x.AutoDelete},
		{"internal", old.decl.Internal, x.Internal}, {"alternate", old.decl.Alternate, x.Alternate},
	}, old.args, x.Args)
}

// checkExchange also takes an exchange for there that others have bound.
func (c *conn) checkExchange(ctx context.Context, name string) error {
	c.mu.RLock()
	x := c.exchanges[name]
	c.mu.RUnlock()
	if x != nil {
		return nil
	}
	if c.router != nil {
		t, err := c.table(ctx, name, "")
		if err != nil {
			return err
		}
		if t.size > 0 {
			return nil
		}
	}
	return c.fail("check", name, driver.ErrNotFound, "no such exchange")
}

func (c *conn) deleteExchange(ctx context.Context, name string, ifUnused bool) error {
	shared, err := c.sharedBindings(ctx, name)
	if err != nil {
		return err
	}
	kind, err := c.kindFor(ctx, name)
	if err != nil {
		return err
	}
	var subscribed []string
	c.mu.Lock()
	x := c.exchanges[name]
	switch {
	case x != nil && x.predeclared:
		err = c.fail("delete", name, driver.ErrDenied, "a predeclared exchange")
	case ifUnused && (len(shared) > 0 || x != nil && len(x.from) > 0):
		err = c.fail("delete", name, driver.ErrConflict, "the exchange is in use")
	case x != nil:
		for b := range x.from {
			if b.to.queue != nil {
				subscribed = append(subscribed, b.to.queue.name)
			}
		}
		c.dropExchange(x)
	}
	c.mu.Unlock()
	if err != nil {
		return err
	}
	if len(shared) > 0 {
		err = c.router.Unbind(ctx, kind, shared)
	}
	for _, q := range subscribed {
		if subErr := c.resubscribe(ctx, q, x); subErr != nil {
			err = subErr
		}
	}
	return err
}

// dropExchange forgets x and its bindings; mu is held.
func (e *engine) dropExchange(x *exchange) {
	delete(e.exchanges, x.decl.Name)
	delete(e.tables, x.decl.Name)
	for b := range x.from {
		e.unlink(b)
	}
	for b := range x.to {
		e.unlink(b)
	}
}

// routesHere says whether the own index leads along b. With shared bindings the
// table routes to queues; what is kept here then is who is subscribed to
// fan-outs, and what to take away with a queue.
func (e *engine) routesHere(b *binding) bool { return !e.shared || b.to.exchange != nil }

// link puts a binding into the graph; mu is held.
func (e *engine) link(b *binding) {
	e.bindings++
	b.seq = e.bindings
	b.from.from[b] = struct{}{}
	if b.to.queue != nil {
		b.to.queue.bindings[b] = struct{}{}
	} else {
		b.to.exchange.to[b] = struct{}{}
	}
	if e.routesHere(b) {
		b.from.index.add(b)
	}
}

// unlink takes a binding out, and with the last one an exchange that deletes
// itself; mu is held. One that is out already is left alone.
func (e *engine) unlink(b *binding) {
	if _, ok := b.from.from[b]; !ok {
		return
	}
	delete(b.from.from, b)
	if b.to.queue != nil {
		delete(b.to.queue.bindings, b)
	} else {
		delete(b.to.exchange.to, b)
	}
	b.from.index.remove(b)
	if e.Sole && b.from.decl.AutoDelete && len(b.from.from) == 0 && e.exchanges[b.from.decl.Name] == b.from {
		e.dropExchange(b.from)
	}
}

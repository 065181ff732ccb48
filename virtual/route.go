package virtual

import (
	"context"
	"slices"

	"github.com/gombu/gombu/driver"
)

// matcher finds the destinations of a message among an exchange's bindings.
type matcher interface {
	add(b *binding)
	remove(b *binding)
	match(s *search) // for s.message
}

func newMatcher(typ string) matcher {
	switch typ {
	case driver.TypeTopic:
		return &trie{}
	case driver.TypeFanout:
		return &everyone{}
	case driver.TypeHeaders:
		return &headersIndex{}
	}
	return exact{}
}

// exact is a direct exchange.
type exact map[string]dests

func (x exact) add(b *binding) {
	d := x[b.key]
	d.add(b.to)
	x[b.key] = d
}

func (x exact) remove(b *binding) {
	d := x[b.key]
	if d.remove(b.to); len(d) == 0 {
		delete(x, b.key)
	} else {
		x[b.key] = d
	}
}

func (x exact) match(s *search) { s.take(x[s.message.key]) }

// everyone is a fanout exchange.
type everyone struct{ all dests }

func (x *everyone) add(b *binding)    { x.all.add(b.to) }
func (x *everyone) remove(b *binding) { x.all.remove(b.to) }
func (x *everyone) match(s *search)   { s.take(x.all) }

// message is what routing looks at.
type message struct {
	exchange, key string
	headers       driver.Headers
}

// search is the scratch space of one routing caller at a time.
type search struct {
	message message

	// What the last route found: queues, each once, and exchanges whose
	// messages the store itself hands to everyone.
	queues     []*queue
	broadcasts []string

	exchanges []*exchange // to visit and visited, each once
	hits      int         // destinations seen since it was set to 0, known ones too
	known     map[string]struct{}
	set, next []*node
	mark      marks
	direct    queue             // stands for a queue that nobody declared here
	tables    map[string]*table // when set: those read for this batch
}

// few is how many queues are told apart by looking at each.
const few = 24

func (s *search) take(d dests) {
	for i := range d {
		s.takeOne(d[i].dest)
	}
}

func (s *search) takeOne(to dest) {
	q := to.queue
	if q != nil && q.expires > 0 && q.expired() {
		return
	}
	s.hits++
	if q == nil {
		s.visit(to.exchange)
		return
	}
	if n := len(s.queues); n < few {
		for _, o := range s.queues {
			if o == q || o.name == q.name {
				return
			}
		}
	} else {
		if n == few {
			if s.known == nil {
				s.known = map[string]struct{}{}
			}
			clear(s.known)
			for _, o := range s.queues {
				s.known[o.name] = struct{}{}
			}
		}
		if _, ok := s.known[q.name]; ok {
			return
		}
		s.known[q.name] = struct{}{}
	}
	s.queues = append(s.queues, q)
}

func (s *search) visit(x *exchange) {
	if !slices.Contains(s.exchanges, x) {
		s.exchanges = append(s.exchanges, x)
	}
}

// route finds where s.message goes. An error is about this message; s holds what
// was found until the next call.
func (c *conn) route(ctx context.Context, s *search) error {
	m := &s.message
	s.queues, s.broadcasts, s.exchanges = s.queues[:0], s.broadcasts[:0], s.exchanges[:0]
	c.mu.RLock()
	if m.exchange == "" {
		c.routeDefault(s)
		c.mu.RUnlock()
		return nil
	}
	x := c.exchanges[m.exchange]
	internal := x != nil && x.decl.Internal
	c.mu.RUnlock()
	if x == nil {
		return c.routeShared(ctx, m.exchange, "", s)
	}
	if internal {
		return c.fail("publish", m.exchange, driver.ErrDenied, "an internal exchange")
	}
	s.exchanges = append(s.exchanges, x)
	for i := 0; i < len(s.exchanges); i++ { //nolint:intrange // it grows meanwhile
		if err := c.routeThrough(ctx, s.exchanges[i], s); err != nil {
			return err
		}
	}
	return nil
}

// routeDefault sends to the queue named by the key; mu is held.
func (c *conn) routeDefault(s *search) {
	m := &s.message
	q := c.queues[m.key]
	if q == nil && !c.Sole && m.key != "" {
		s.direct.name = m.key
		q = &s.direct
	}
	if q != nil {
		s.takeOne(dest{queue: q})
	}
}

// routeThrough takes one exchange's bindings. Where they lead nowhere, its
// alternate exchange has its turn.
func (c *conn) routeThrough(ctx context.Context, x *exchange, s *search) error {
	s.hits = 0
	c.mu.RLock()
	x.index.match(s)
	name, typ, kind := x.decl.Name, x.decl.Type, kindOf(x)
	c.mu.RUnlock()
	if typ == driver.TypeFanout && c.caster != nil {
		s.broadcasts = append(s.broadcasts, name)
		return nil
	}
	if err := c.routeShared(ctx, name, kind, s); err != nil {
		return err
	}
	if s.hits > 0 {
		return nil
	}
	c.mu.RLock()
	alternate := c.exchanges[x.decl.Alternate] // none has no name
	c.mu.RUnlock()
	if alternate != nil {
		s.visit(alternate)
	}
	return nil
}

// routeShared takes the bindings of the store's shared table, compiled as kind.
func (c *conn) routeShared(ctx context.Context, name, kind string, s *search) error {
	if c.router == nil {
		return nil
	}
	t := s.tables[name]
	if t == nil {
		var err error
		if t, err = c.table(ctx, name, kind); err != nil {
			return &driver.Error{Op: "publish", Transport: c.Transport, Entity: name, Kind: driver.ErrNotSent, Err: err}
		}
		if s.tables != nil {
			s.tables[name] = t
		}
	}
	t.index.match(s)
	return nil
}

// kindOf is the type under which an exchange's bindings are compiled; empty
// for one that was not declared here; mu is held, because a declaration may
// turn an assumed exchange into something else.
func kindOf(x *exchange) string {
	if x == nil || x.assumed {
		return ""
	}
	return x.decl.Type
}

// table is a compiled shared table; it never changes.
type table struct {
	version, kind string
	size          int
	index         matcher
}

// maxTables bounds what publishing to ever new exchange names can keep.
const maxTables = 1024

// table returns the exchange's shared bindings as they are now, compiled when
// their version is new. An empty kind leaves it to the table: a stored pattern
// means topic, else direct.
func (c *conn) table(ctx context.Context, name, kind string) (*table, error) {
	c.mu.RLock()
	have := c.tables[name]
	c.mu.RUnlock()
	since := ""
	if have != nil && (kind == "" || kind == have.kind) {
		since = have.version
	}
	raw, changed, err := c.router.Table(ctx, name, since)
	if err != nil {
		return nil, err
	}
	if !changed && since != "" {
		return have, nil
	}
	t := compile(&raw, kind)
	c.mu.Lock()
	if len(c.tables) >= maxTables {
		clear(c.tables)
	}
	c.tables[name] = t
	c.mu.Unlock()
	return t, nil
}

func compile(raw *Table, kind string) *table {
	if kind == "" {
		kind = driver.TypeDirect
		if raw.Topic {
			kind = driver.TypeTopic
		}
	}
	t := &table{version: raw.Version, kind: kind, size: len(raw.Bindings), index: newMatcher(kind)}
	queues := make(map[string]*queue, len(raw.Bindings))
	for i := range raw.Bindings {
		b := &raw.Bindings[i]
		q := queues[b.Queue]
		if q == nil {
			q = &queue{name: b.Queue}
			queues[q.name] = q
		}
		t.index.add(&binding{to: dest{queue: q}, key: b.Key, args: b.Args})
	}
	return t
}

package virtual

import (
	"context"
	"errors"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/wire/kombu"
)

func (c *conn) OpenSender(ctx context.Context, cfg driver.SenderConfig) (driver.Sender, error) {
	if err := c.gone("open sender"); err != nil {
		return nil, err
	}
	store, opens := c.store.(OutletOpener)
	keep := cfg.Replicas > 0 || cfg.Fsync
	switch {
	case keep && !opens:
		return nil, c.fail("open sender", "", driver.ErrUnsupported, "%s has no replicas to wait for: a confirmed message is where this transport keeps it", c.Transport)
	case c.info.Inline:
		return &inlineSender{post: post{c: c, push: c.store.Push}}, nil
	}
	s := newPusher(c, cfg)
	if opens {
		var err error
		if s.outlet, err = store.OpenOutlet(ctx, cfg); err != nil {
			return nil, err
		}
	}
	if err := s.start(); err != nil {
		return nil, errors.Join(err, s.closeOutlet(ctx))
	}
	return s, nil
}

// inlineSender publishes on the caller's goroutine: its store never blocks on
// a socket.
type inlineSender struct{ post post }

func (s *inlineSender) Submit(ctx context.Context, batch []driver.Outgoing) (int, error) {
	if err := s.post.c.gone("publish"); err != nil {
		return 0, err
	}
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	s.post.run(ctx, batch, nil)
	return len(batch), nil
}

// Outcomes only ever sees the session's end: Submit knows every outcome.
func (s *inlineSender) Outcomes(ctx context.Context, _ []driver.Receipt) (int, error) {
	select {
	case <-s.post.c.done:
		return 0, s.post.c.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (s *inlineSender) Close(context.Context) error { return nil }

// post routes messages and hands them to the store. It is the scratch space of
// one goroutine at a time.
type post struct {
	c      *conn
	push   func(context.Context, []Item) error
	search search
	items  []Item
	ends   []int // the items of message i end here, and begin where those of i-1 end

	cast struct { // a run of messages for one broadcast
		exchange, key string
		items         []Item
		of            []int // message of each
	}
}

// envelope is an encoded message and its delivery tag.
type envelope struct {
	raw []byte
	id  string
}

// run settles every message of batch that is not Done: Done and Err are set.
// ready holds their envelopes where they were encoded before.
func (p *post) run(ctx context.Context, batch []driver.Outgoing, ready []envelope) {
	p.items, p.ends = p.items[:0], p.ends[:0]
	for i := range batch {
		if m := &batch[i]; !m.Done {
			var e envelope
			if ready != nil {
				e = ready[i]
			}
			if err := p.add(ctx, batch, i, e); err != nil {
				m.Err, m.Done = err, true
			}
		}
		p.ends = append(p.ends, len(p.items))
	}
	p.flushCast(ctx, batch)
	if len(p.items) > 0 {
		p.collect(batch, p.push(ctx, p.items))
		clear(p.items)
	}
	p.search.message = message{}
	for i := range batch {
		batch[i].Done = true
	}
}

// add routes message i and appends its items; a message that fails has none.
func (p *post) add(ctx context.Context, batch []driver.Outgoing, i int, e envelope) error {
	c, m := p.c, &batch[i]
	m.Err = nil
	if limit := c.Config.Features.MaxBody; limit > 0 && len(m.Body) > limit {
		return c.fail("publish", m.Key, driver.ErrTooLarge, "a body of %d bytes; the limit is %d", len(m.Body), limit)
	}
	s := &p.search
	s.message = message{m.Exchange, m.Key, m.Props.Headers}
	if err := c.route(ctx, s); err != nil {
		return err
	}
	if len(s.queues)+len(s.broadcasts) == 0 {
		if m.NoMandatory {
			return nil
		}
		return c.unroutable(m)
	}
	if err := c.encode(m, &e); err != nil {
		return err
	}
	item := Item{Priority: m.Props.Priority, TTL: m.Props.Expiration, Msg: m, Raw: e.raw, ID: e.id}
	for n, q := range s.queues {
		if n > 0 && c.info.Bytes {
			// Kombu gives the copies of a message one delivery tag, under
			// which the claims of two queues overwrite each other.
			item.ID = c.NewID()
			item.Raw = kombu.AppendRetagged(make([]byte, 0, len(e.raw)), e.raw, e.id, item.ID)
		}
		item.Queue = q.name
		p.items = append(p.items, item)
	}
	item.Queue, item.Raw, item.ID = "", e.raw, e.id
	for _, exchange := range s.broadcasts {
		p.broadcast(ctx, batch, i, exchange, item)
	}
	return nil
}

// encode makes the envelope where the store wants one and it was not made yet.
func (c *conn) encode(m *driver.Outgoing, e *envelope) (err error) {
	switch {
	case !c.info.Bytes:
		return c.checkHeaders(m.Props.Headers, m.Props.Extra)
	case e.raw == nil:
		e.id = c.NewID()
		e.raw, err = kombu.AppendEnvelope(nil, m, e.id)
	}
	return err
}

// broadcast adds to the run of messages for one exchange and key.
func (p *post) broadcast(ctx context.Context, batch []driver.Outgoing, i int, exchange string, item Item) {
	if p.cast.exchange != exchange || p.cast.key != batch[i].Key {
		p.flushCast(ctx, batch)
		p.cast.exchange, p.cast.key = exchange, batch[i].Key
	}
	p.cast.items, p.cast.of = append(p.cast.items, item), append(p.cast.of, i)
}

func (p *post) flushCast(ctx context.Context, batch []driver.Outgoing) {
	if len(p.cast.items) == 0 {
		return
	}
	err := p.c.caster.Broadcast(ctx, p.cast.exchange, p.cast.key, p.cast.items)
	for n, i := range p.cast.of {
		if failed := p.outcome(&p.cast.items[n], err); failed != nil {
			batch[i].Err = failed
		}
	}
	clear(p.cast.items)
	p.cast.items, p.cast.of = p.cast.items[:0], p.cast.of[:0]
}

// collect gives each message the outcome of its copies: one that was refused
// speaks for all, as in RabbitMQ. Queues that are gone since the routing count
// as never bound.
func (p *post) collect(batch []driver.Outgoing, err error) {
	start := 0
	for i := range batch {
		m, end := &batch[i], p.ends[i]
		missing := 0
		for j := start; j < end; j++ {
			switch failed := p.outcome(&p.items[j], err); {
			case failed == nil:
			case isNotFound(failed):
				missing++
			case m.Err == nil:
				m.Err = failed
			}
		}
		if missing > 0 && missing == end-start && m.Err == nil && !m.NoMandatory {
			m.Err = p.c.unroutable(m)
		}
		start = end
	}
}

// outcome is what became of an item, given the batch's own error.
func (p *post) outcome(i *Item, err error) error {
	switch {
	case i.Err != nil || err == nil:
		return i.Err
	case errors.Is(err, driver.ErrNotSent):
		return err
	}
	return &driver.Error{Op: "publish", Transport: p.c.Transport, Kind: driver.ErrUncertain, Err: err}
}

func (c *conn) unroutable(m *driver.Outgoing) error {
	c.mu.RLock()
	x := c.exchanges[m.Exchange]
	c.mu.RUnlock()
	switch {
	case m.Exchange == "":
		return c.fail("publish", m.Key, driver.ErrUnroutable, "there is no queue %q: declare it", m.Key)
	case x == nil:
		return c.fail("publish", m.Exchange, driver.ErrUnroutable,
			"exchange %q is not declared on this connection, and nothing known is bound to it for key %q: declare it and bind a queue", m.Exchange, m.Key)
	}
	return c.fail("publish", m.Exchange, driver.ErrUnroutable, "no queue is bound to exchange %q for key %q: bind one", m.Exchange, m.Key)
}

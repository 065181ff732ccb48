package redis

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// An outlet is a connection that only one sender pushes over, so that its goroutine
// writes and reads by itself: on the session's connection each push would be handed
// to rueidis's writer, and its answer come from rueidis's reader. It ends with its
// session, and the session with it. See decision 018.
type outlet struct {
	s    *store
	link *link
	turn chan struct{} // capacity 1: one goroutine talks at a time
}

var _ virtual.OutletOpener = (*store)(nil)

// OpenOutlet opens a connection: that of a keeper, where something is to be waited
// for. There is none for a session that outlives its connection: what is under way
// over another one would not be known to be over.
func (s *store) OpenOutlet(ctx context.Context, c driver.SenderConfig) (virtual.Outlet, error) {
	if c.Replicas > 0 || c.Fsync {
		return s.keep(ctx, c)
	}
	if s.relinks || s.keys.cluster {
		return nil, nil
	}
	cfg := *s.cfg
	cfg.byTurns = true
	o, err := s.openOutlet(ctx, &cfg)
	if err != nil {
		return nil, err
	}
	return o, nil
}

// openOutlet dials, to where the session's own connection leads.
func (s *store) openOutlet(ctx context.Context, c *Config) (*outlet, error) {
	ctx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
	defer cancel()
	l, err := dial(ctx, c, nil)
	if err != nil {
		return nil, err
	}
	o := &outlet{s: s, link: l, turn: make(chan struct{}, 1)}
	s.mu.Lock()
	over, addr := s.closing, s.link.addr
	if !over {
		s.outlets[o] = struct{}{}
	}
	s.mu.Unlock()
	switch {
	case over:
		l.shut()
		return nil, s.notSent("publish")
	case len(c.Sentinels) > 0 && l.addr != addr: // there was a failover in between
		_ = o.Close(ctx)
		return nil, connectError(ctx, c, fmt.Errorf("the master is now %s, the session's is %s", l.addr, addr))
	}
	l.watch(s.lost)
	return o, nil
}

// Push is that of the store.
func (o *outlet) Push(ctx context.Context, items []virtual.Item) error {
	return o.s.pushBy(ctx, items, o.do)
}

// do runs commands, within call. The session's end hangs up: no context is needed,
// and with one that may end rueidis would start its goroutines.
func (o *outlet) do(cmds []rueidis.Completed) []rueidis.RedisResult {
	select {
	case o.turn <- struct{}{}:
	case <-o.s.done: // a ping is unanswered, and now hung up on
		o.turn <- struct{}{}
	}
	defer func() { <-o.turn }()
	return o.link.client.DoMulti(context.Background(), cmds...)
}

// ping is that of links: nobody reads from this one between two pushes.
func (o *outlet) ping() {
	if o.link.byTurns {
		o.s.ping(o.link, func() { o.do([]rueidis.Completed{o.s.command("PING")}) })
	}
}

// Close hangs up.
func (o *outlet) Close(context.Context) error {
	o.s.mu.Lock()
	delete(o.s.outlets, o)
	o.s.mu.Unlock()
	o.link.watch(func(error) {})
	o.link.shut()
	return nil
}

func (s *store) openOutlets() []*outlet {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.outlets))
}

// ping asks the server whether a connection stands: an idle one that a gateway has
// forgotten would hear nothing for ever. One that owes the answer and moves no byte
// for too long is given up.
func (s *store) ping(l *link, ask func()) {
	patience := silentFor(s.cfg)
	if patience == 0 || l.asked.Swap(true) {
		return
	}
	answered := make(chan struct{})
	s.loops.Go(func() {
		defer close(answered)
		ask() // a broken link is told otherwise
	})
	s.loops.Go(func() {
		for moved := int64(-1); ; {
			select {
			case <-answered:
				l.asked.Store(false)
				return
			case <-time.After(patience):
			}
			if now := l.moved.Load(); now == moved {
				l.fail(errSilent)
				l.hangUp()
			} else {
				moved = now
			}
		}
	})
}

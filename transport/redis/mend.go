package redis

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/wire/kombu"
)

// A binding set that vanishes as a whole (deleted, evicted, a server that came
// back empty) would leave consumers without messages and without a word. So the
// connector remembers what it bound, and its consuming sessions put it back. A
// set vanishes with its last member too: what Gombu's own Unbind and Drop take
// away is noted beside it, for unboundFor.
const unboundFor = time.Hour

// keep notes what was bound, or is no more.
func (e *entities) keep(verb string, b []driver.Binding, members []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for i := range b {
		ex := b[i].Exchange
		if len(e.bound) < maxKnown {
			e.bound[ex] = struct{}{}
		}
		if verb == "SREM" {
			delete(e.mine[ex], members[i])
			continue
		}
		if e.mine[ex] == nil {
			if len(e.mine) >= maxKnown {
				continue
			}
			e.mine[ex] = map[string]struct{}{}
		}
		if len(e.mine[ex]) < maxKnown {
			e.mine[ex][members[i]] = struct{}{}
		}
	}
}

// loseQueue is for a queue that is deleted. The caller holds mu.
func (e *entities) loseQueue(queue, sep string) {
	for _, members := range e.mine {
		maps.DeleteFunc(members, func(m string, _ struct{}) bool {
			_, _, q, ok := kombu.ParseBindingMember(m, sep)
			return ok && q == queue
		})
	}
}

// kept are the members that were bound, by exchange.
func (e *entities) kept() map[string][]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	out := map[string][]string{}
	for ex, members := range e.mine {
		if len(members) > 0 {
			out[ex] = slices.Sorted(maps.Keys(members))
		}
	}
	return out
}

// unbound is the key of what was taken from an exchange.
func (k *keys) unbound(ex string) string {
	if k.cluster {
		ex = k.tag(ex)
	}
	return k.prefix + unboundKey + ex
}

// mend puts back what has vanished. In the sweeper. It asks for the sets that the
// server told something of since they were seen, and once in a while for all.
func (s *store) mend(all bool) {
	kept := s.cfg.known.kept()
	if s.keys.cluster { // there they are at other nodes
		return
	}
	args := []string{"EXISTS"}
	for ex := range kept {
		if key := s.keys.bindings(ex); all || !s.track.seen(key) {
			args = append(args, key)
		}
	}
	keys := args[1:]
	if len(keys) == 0 {
		return
	}
	cmds := []rueidis.Completed{s.command(args...)}
	if s.track.on.Load() {
		cmds = []rueidis.Completed{s.command("CLIENT", "CACHING", "YES"), cmds[0]}
		s.track.see(keys, false)
	}
	answers := s.link.client.DoMulti(s.ctx, cmds...)
	n, err := answers[len(answers)-1].AsInt64()
	switch {
	case err != nil:
	case int(n) == len(keys):
		s.track.see(keys, true)
	default:
		for ex, members := range kept {
			_ = s.mendOne(ex, members) // what fails now is tried in a second
		}
	}
}

// seen: the set was there, and the server has not told of a change.
func (t *tracker) seen(key string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.sets[key]
}

// see is called before the server is asked, in a way that tracks them, whether
// sets exist, and again when all do.
func (t *tracker) see(keys []string, there bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range keys {
		if _, same := t.sets[key]; same || !there {
			t.sets[key] = there
		}
	}
}

// mendOne is inside call, or in the sweeper.
func (s *store) mendOne(exchange string, members []string) error {
	n, err := s.script(mendScript, []string{s.keys.bindings(exchange), s.keys.unbound(exchange)}, members).AsInt64()
	if err == nil && n > 0 {
		s.env.Notify(driver.Event{Kind: driver.Warning, Entity: exchange,
			Detail: fmt.Sprintf("the exchange's bindings had vanished from the server; %d of ours were put back", n)})
	}
	return err
}

// mend does so for exchanges in their own slots, once a second.
func (c *cluster) mend() {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-c.done:
			return
		}
		for ex, members := range c.cfg.known.kept() {
			ctx, cancel := context.WithTimeout(c.ctx, beatEvery)
			_, _ = at(ctx, c, ex, func(s *store) (struct{}, error) {
				return call(ctx, s, "bind", driver.ErrUnavailable, func() (struct{}, error) { return struct{}{}, s.mendOne(ex, members) }, nil)
			})
			cancel()
		}
	}
}

// rebinding is what binds members, or takes them away and remembers that.
func (s *store) rebinding(verb, exchange string, members ...string) []rueidis.Completed {
	set, away := s.keys.bindings(exchange), s.keys.unbound(exchange)
	cmd := func(verb, key string) rueidis.Completed {
		return s.command(append([]string{verb, key}, members...)...)
	}
	if verb == "SADD" {
		return []rueidis.Completed{cmd("SADD", set), cmd("SREM", away)}
	}
	return []rueidis.Completed{cmd("SREM", set), cmd("SADD", away), s.command("PEXPIRE", away, millis(unboundFor))}
}

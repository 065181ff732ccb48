package redis

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// A keeper pushes and waits for replicas, over a connection of its own: WAIT
// speaks of what was written on the same one, and nothing else passes while it
// blocks. It ends with its session.
type keeper struct {
	s    *store
	c    driver.SenderConfig
	link *link
}

const (
	keepFor    = 5 * time.Second       // at most: who comes later waits too
	keepMargin = 50 * time.Millisecond // of a caller's time, for the answer's way back
)

var _ virtual.Keeper = (*store)(nil)

// Keep opens the connection. ErrUnsupported: Fsync, and the server has no
// WAITAOF (before 7.2) or no append-only file.
func (s *store) Keep(ctx context.Context, c driver.SenderConfig) (virtual.Kept, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnectTimeout)
	defer cancel()
	l, err := dial(ctx, s.cfg, nil)
	if err != nil {
		return nil, err
	}
	k := &keeper{s: s, c: c, link: l}
	if c.Fsync { // nothing was written: it answers at once, or says that it cannot
		if err := l.client.Do(ctx, s.command("WAITAOF", "1", "0", "1")).Error(); err != nil {
			l.shut()
			if re, ok := rueidis.IsRedisErr(err); ok && (redisKind(re) == driver.ErrUnsupported || isAbout(re, "appendonly")) {
				return nil, &driver.Error{Op: "publish", Transport: Scheme, Entity: "Fsync", Kind: driver.ErrUnsupported,
					Err: errors.Join(errors.New("want WAITAOF, of Redis 7.2 with appendonly"), err)}
			}
			return nil, connectError(ctx, s.cfg, err)
		}
	}
	s.mu.Lock()
	over := s.closing
	if !over {
		s.keepers[k] = struct{}{}
	}
	s.mu.Unlock()
	if over {
		l.shut()
		return nil, s.notSent("publish")
	}
	l.watch(s.lost)
	return k, nil
}

// Push is that of the store, and then waits: nil means that so many replicas
// have it, see SenderConfig.
func (k *keeper) Push(ctx context.Context, items []virtual.Item) error {
	s := k.s
	loads := s.load(items)
	if len(loads) == 0 {
		return nil
	}
	sent := slices.Clone(items) // the caller may be gone before the answer comes
	_, err := call(ctx, s, "publish", driver.ErrUncertain, func() (struct{}, error) {
		k.push(sent, loads)
		return struct{}{}, nil
	}, nil)
	for _, l := range loads {
		for _, n := range l.items {
			if items[n].Err = err; err == nil {
				items[n].Err = sent[n].Err
			}
		}
	}
	if err != nil && s.Err() != nil {
		return s.Err()
	}
	return nil
}

// push sends loads and a first WAIT together, and waits again for those whose
// callers have more time. Inside call.
func (k *keeper) push(items []virtual.Item, loads []load) {
	s := k.s
	open := make([]int, 0, len(items))
	for _, l := range loads {
		open = append(open, l.items...)
	}
	limit := time.Now().Add(keepFor)
	cmds := s.pushes(loads)
	n := len(cmds)
	wait, until := k.wait(items, open, limit)
	answers := k.do(until, append(cmds, wait)...)
	for i, err := range pushed(loads, answers[:n]) {
		for _, at := range loads[i].items {
			items[at].Err = s.failed("publish", loads[i].queue, driver.ErrUncertain, err)
		}
	}
	for answer := answers[n]; ; answer = k.do(until, wait)[0] {
		if open = k.decide(items, open, answer, until, limit); len(open) == 0 {
			return
		}
		wait, until = k.wait(items, open, limit)
	}
}

// do runs commands. An idle Redis ends a wait up to 100 ms late, when its clock
// ticks; a PING beside it makes it look. One that has not answered long after a
// wait was to end is given up.
func (k *keeper) do(until time.Time, cmds ...rueidis.Completed) []rueidis.RedisResult {
	nudge := time.AfterFunc(time.Until(until)+time.Millisecond, func() {
		k.s.spawn(func() { k.s.link.client.Do(k.s.ctx, k.s.command("PING")) })
	})
	defer nudge.Stop()
	if patience := silentFor(k.s.cfg); patience > 0 {
		timer := time.AfterFunc(time.Until(until)+patience, func() { k.s.lost(errSilent) })
		defer timer.Stop()
	}
	return k.link.client.DoMulti(k.s.ctx, cmds...)
}

// wait is the command for the first of the open items whose caller gives up,
// and when that is.
func (k *keeper) wait(items []virtual.Item, open []int, limit time.Time) (rueidis.Completed, time.Time) {
	until := limit
	for _, n := range open {
		if end := k.end(&items[n], limit); end.Before(until) {
			until = end
		}
	}
	ms := millis(time.Until(until)) // at least 1, for 0 is for ever
	if k.c.Fsync {
		return k.s.command("WAITAOF", "1", strconv.Itoa(k.c.Replicas), ms), until
	}
	return k.s.command("WAIT", strconv.Itoa(k.c.Replicas), ms), until
}

// end is when an item must be answered.
func (k *keeper) end(i *virtual.Item, limit time.Time) time.Time {
	if i.Msg == nil || i.Msg.Until.IsZero() {
		return limit
	}
	if end := i.Msg.Until.Add(-keepMargin); end.Before(limit) {
		return end
	}
	return limit
}

// decide gives the open items what a wait that ended then has shown, and
// returns those that are still open.
func (k *keeper) decide(items []virtual.Item, open []int, answer rueidis.RedisResult, until, limit time.Time) []int {
	e, err := k.read(answer)
	var rest []int
	for _, n := range open {
		it := &items[n]
		switch {
		case it.Err != nil: // it was not pushed
		case err != nil:
			it.Err = k.s.failed("publish", it.Queue, driver.ErrUncertain, err)
			if !errors.Is(it.Err, driver.ErrUncertain) { // the wait was refused, not the message
				it.Err = &driver.Error{Op: "publish", Transport: Scheme, Entity: it.Queue, Kind: driver.ErrUncertain, Err: it.Err}
			}
		case e == nil:
		case k.end(it, limit).After(until):
			rest = append(rest, n)
		default:
			it.Err = &driver.Error{Op: "publish", Transport: Scheme, Entity: it.Queue, Kind: driver.ErrUncertain, Err: e}
		}
	}
	return rest
}

// read is nil when enough have it.
func (k *keeper) read(answer rueidis.RedisResult) (*driver.ReplicaError, error) {
	e := &driver.ReplicaError{Want: k.c.Replicas, Fsync: k.c.Fsync, Disk: true}
	var err error
	if k.c.Fsync {
		var n []int64
		if n, err = answer.AsIntSlice(); err == nil && len(n) != 2 {
			err = errShort
		}
		if err == nil {
			e.Disk, e.Replicas = n[0] > 0, int(n[1])
		}
	} else {
		var n int64
		n, err = answer.AsInt64()
		e.Replicas = int(n)
	}
	if err != nil || e.Disk && e.Replicas >= e.Want {
		return nil, err
	}
	return e, nil
}

// Close hangs up.
func (k *keeper) Close(context.Context) error {
	k.s.mu.Lock()
	delete(k.s.keepers, k)
	k.s.mu.Unlock()
	k.link.watch(func(error) {})
	k.link.shut()
	return nil
}

func (s *store) openKeepers() []*keeper {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.keepers))
}

package redis

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
)

// A tracker hears from the server which keys changed (CLIENT TRACKING, OPTIN:
// only keys read with leave are tracked, once each). Lists wake claimers,
// binding sets make tables stale.
type tracker struct {
	on atomic.Bool // each connection may differ

	mu      sync.Mutex
	waiters map[*waiter]struct{}
	tables  map[string]*table // by key
}

// A waiter is one claimer that found all its lists empty.
type waiter struct {
	keys map[string]struct{}
	wake chan struct{} // holds one
}

func (t *tracker) init() {
	t.waiters, t.tables = map[*waiter]struct{}{}, map[string]*table{}
}

// changed is called by rueidis's reader, in the order in which the server
// wrote: before the answer to any command that was sent after the change.
func (t *tracker) changed(keys []rueidis.RedisMessage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if keys == nil { // all of them: the database was flushed
		for w := range t.waiters {
			w.signal()
		}
		clear(t.tables)
		return
	}
	for i := range keys {
		key, err := keys[i].ToString()
		if err != nil {
			continue
		}
		if t.tables[key] != nil {
			delete(t.tables, key)
			continue
		}
		for w := range t.waiters {
			if _, ok := w.keys[key]; ok {
				w.signal()
			}
		}
	}
}

func (w *waiter) signal() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (t *tracker) add(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiters[w] = struct{}{}
}

func (t *tracker) remove(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.waiters, w)
}

// How often a claimer looks without being told: with tracking only in case a
// proxy swallowed the news, else at least five times a second.
const (
	pollTracked = 2 * time.Second
	pollFirst   = 10 * time.Millisecond
	pollLast    = 200 * time.Millisecond
)

// await returns when one of the lists may hold something, at the latest at the
// deadline. It takes nothing: only lengths are read, and tracked by being read.
func (s *store) await(ctx context.Context, sources []source, deadline time.Time) error {
	w := &waiter{keys: make(map[string]struct{}, len(sources)), wake: make(chan struct{}, 1)}
	look := []rueidis.Completed{}
	for _, src := range sources {
		w.keys[src.ownList.source] = struct{}{}
		look = append(look, s.command("LLEN", src.ownList.source).Pin())
	}
	s.track.add(w)
	defer s.track.remove(w)
	poll := pollFirst
	for {
		some, err := s.look(ctx, look)
		if err != nil || some {
			return err
		}
		pause := time.Until(deadline)
		if s.track.on.Load() {
			pause = min(pause, pollTracked)
		} else {
			pause, poll = min(pause, poll), min(2*poll, pollLast)
		}
		if pause <= 0 {
			return nil
		}
		timer := time.NewTimer(pause)
		select {
		case <-w.wake:
			timer.Stop()
			return nil
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-s.done:
			timer.Stop()
			return s.Err()
		}
	}
}

// look says whether any of the lists holds something, and has the server track
// them.
func (s *store) look(ctx context.Context, lengths []rueidis.Completed) (bool, error) {
	some, err := call(ctx, s, "claim", driver.ErrUnavailable, func() (bool, error) {
		cmds := make([]rueidis.Completed, 0, len(lengths)+3)
		if s.track.on.Load() {
			cmds = append(cmds, s.command("CLIENT", "CACHING", "YES"))
		}
		cmds = append(append(append(cmds, s.command("MULTI")), lengths...), s.command("EXEC"))
		answers, err := execAnswer(s.link.client.DoMulti(s.ctx, cmds...))
		for i := range answers {
			if n, e := answers[i].AsInt64(); e == nil && n > 0 {
				return true, err
			}
		}
		return false, err
	}, nil)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return some, err
}

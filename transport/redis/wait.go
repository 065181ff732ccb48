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
	empty   map[string]bool   // lists, by key, that were asked for and have not changed since; true: there was none
}

// A waiter is one claimer that found all its lists empty.
type waiter struct {
	keys map[string]struct{}
	wake chan struct{} // holds one
}

func (t *tracker) init() {
	t.waiters, t.tables, t.empty = map[*waiter]struct{}{}, map[string]*table{}, map[string]bool{}
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
		clear(t.empty)
		return
	}
	for i := range keys {
		key, err := keys[i].ToString()
		if err != nil {
			continue
		}
		delete(t.empty, key)
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

// asking is called before the server is asked, in a way that tracks them,
// whether lists exist; answered afterwards, with whether none did. Of two who
// ask at the same time the one that saw something has the last word.
func (t *tracker) asking(lists []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range lists {
		t.empty[key] = false
	}
}

func (t *tracker) answered(lists []string, none bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range lists {
		if _, same := t.empty[key]; same && none {
			t.empty[key] = true
		} else {
			delete(t.empty, key)
		}
	}
}

// believed: the lists were empty, and the server has not said otherwise.
func (t *tracker) believed(lists []string) bool {
	if !t.on.Load() {
		return false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, key := range lists {
		if !t.empty[key] {
			return false
		}
	}
	return true
}

// forget is for another connection: the server tracks nothing for that yet.
func (t *tracker) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.empty)
}

// How often a claimer looks without being told: with tracking only in case a
// proxy swallowed the news, else at least five times a second.
const (
	pollTracked = 2 * time.Second
	pollFirst   = 10 * time.Millisecond
	pollLast    = 200 * time.Millisecond
)

func listKeys(sources []source) []string {
	keys := make([]string, len(sources))
	for i, src := range sources {
		keys[i] = src.ownList.source
	}
	return keys
}

// await returns when one of the lists may hold something, at the latest at the
// deadline. It takes nothing: it only asks whether they exist, and they are
// tracked by being asked for. In vain: what exists was no list, or was taken by
// another; then lengths are what is asked for.
func (s *store) await(ctx context.Context, lists []string, deadline time.Time, inVain bool) error {
	w := &waiter{keys: make(map[string]struct{}, len(lists)), wake: make(chan struct{}, 1)}
	for _, key := range lists {
		w.keys[key] = struct{}{}
	}
	s.track.add(w)
	defer s.track.remove(w)
	poll := pollFirst
	for looked := s.track.believed(lists); ; looked = false {
		if !looked {
			some, err := s.look(ctx, lists, inVain)
			if err != nil || some {
				return err
			}
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
func (s *store) look(ctx context.Context, lists []string, lengths bool) (bool, error) {
	some, err := call(ctx, s, "claim", driver.ErrUnavailable, func() (bool, error) {
		if !lengths {
			question := s.question(lists)
			answers := s.link.client.DoMulti(s.ctx, question...)
			n, err := answers[len(answers)-1].AsInt64()
			s.heard(lists, n, err)
			return n > 0, err
		}
		cmds := []rueidis.Completed{s.command("MULTI")}
		if s.track.on.Load() {
			cmds = []rueidis.Completed{s.command("CLIENT", "CACHING", "YES"), cmds[0]}
		}
		for _, key := range lists {
			cmds = append(cmds, s.command("LLEN", key))
		}
		answers, err := execAnswer(s.link.client.DoMulti(s.ctx, append(cmds, s.command("EXEC"))...))
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

// question asks how many of the lists exist, and has the server track them.
// Inside call.
func (s *store) question(lists []string) []rueidis.Completed {
	exists := s.command(append(append(make([]string, 0, 1+len(lists)), "EXISTS"), lists...)...)
	if !s.track.on.Load() {
		return []rueidis.Completed{exists}
	}
	s.track.asking(lists)
	return []rueidis.Completed{s.fixed.caching, exists}
}

// heard takes the answer to a question.
func (s *store) heard(lists []string, n int64, err error) {
	if s.track.on.Load() {
		s.track.answered(lists, n == 0 && err == nil)
	}
}

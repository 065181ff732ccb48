package redis

import (
	"cmp"
	"context"
	"slices"
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
	sets    map[string]bool   // those of bindings that are being asked for, true: there, and unchanged since; see mend
	lists   map[string]*belief
	changes uint64 // of lists, so far
}

// A belief is what is known of one list without asking. Guarded by tracker.mu.
type belief struct {
	state   byte
	changed uint64 // tracker.changes at its last news
}

const (
	unknownList byte = iota // it changed, or was never asked for
	askedList               // the answer is on its way, and no news came meanwhile
	emptyList               // there was none, and the server has not said otherwise
)

// A waiter is one claimer that found all its lists empty. Any change wakes it:
// there are few waiters, and each looks whether it is about a list of its own.
type waiter struct {
	wake chan struct{} // holds one
}

func (t *tracker) init() {
	t.waiters, t.tables, t.lists = map[*waiter]struct{}{}, map[string]*table{}, map[string]*belief{}
	t.sets = map[string]bool{}
}

// changed is called by rueidis's reader, in the order in which the server
// wrote: before the answer to any command that was sent after the change.
func (t *tracker) changed(keys []rueidis.RedisMessage) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if keys == nil { // all of them: the database was flushed
		clear(t.tables)
		clear(t.sets)
		t.changes++
		for _, b := range t.lists {
			b.state, b.changed = unknownList, t.changes
		}
		t.wakeAll()
		return
	}
	some := false
	for i := range keys {
		key, err := keys[i].ToString()
		if err != nil {
			continue
		}
		if b := t.lists[key]; b != nil {
			t.changes++
			b.state, b.changed = unknownList, t.changes
			some = true
		}
		delete(t.tables, key)
		delete(t.sets, key)
	}
	if some {
		t.wakeAll()
	}
}

func (t *tracker) wakeAll() {
	for w := range t.waiters {
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// add returns how many changes there were before.
func (t *tracker) add(w *waiter) uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.waiters[w] = struct{}{}
	return t.changes
}

func (t *tracker) remove(w *waiter) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.waiters, w)
}

// know has a list's belief end with any news of it.
func (t *tracker) know(l *ownList) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lists[l.source] = &l.belief
}

// asking is called before the server is asked, in a way that tracks them,
// whether lists exist; answered afterwards, with whether none did. Of two who
// ask at the same time the one that saw something has the last word.
func (t *tracker) asking(lists []*ownList) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range lists {
		l.belief.state = askedList
	}
}

func (t *tracker) answered(lists []*ownList, none bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range lists {
		if l.belief.state == askedList && none {
			l.belief.state = emptyList
		} else {
			l.belief.state = unknownList
		}
	}
}

// open are those of lists that are not believed to be empty.
func (t *tracker) open(lists [][]*ownList) (out []*ownList) {
	all := !t.on.Load()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, of := range lists {
		for _, l := range of {
			if all || l.belief.state != emptyList {
				out = append(out, l)
			}
		}
	}
	return out
}

// news: one of the lists has changed since then.
func (t *tracker) news(lists [][]*ownList, since uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, of := range lists {
		for _, l := range of {
			if l.belief.changed > since {
				return true
			}
		}
	}
	return false
}

// doubt is for lists of which the server did not tell what it should have.
func (t *tracker) doubt(lists []*ownList) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, l := range lists {
		l.belief.state = unknownList
	}
}

// forget is for another connection: the server tracks nothing for that yet.
func (t *tracker) forget() {
	t.mu.Lock()
	defer t.mu.Unlock()
	clear(t.sets)
	t.doubtAll()
}

func (t *tracker) doubtAll() {
	for _, b := range t.lists {
		b.state = unknownList
	}
}

// How often a claimer looks without being told: with tracking only in case a
// proxy swallowed the news, else at least five times a second.
const (
	pollTracked = 3 * time.Second
	pollFirst   = 10 * time.Millisecond
	pollLast    = 200 * time.Millisecond
)

// keysOf are the names of lists, with the prefix.
func keysOf(lists []*ownList) []string {
	keys := make([]string, len(lists))
	for i, l := range lists {
		keys[i] = l.source
	}
	return keys
}

// await returns when one of the lists may hold something, at the latest at the
// deadline. It takes nothing: it only asks whether they exist, and they are
// tracked by being asked for. In vain: what exists was no list, or was taken by
// another; then lengths are what is asked for.
func (s *store) await(ctx context.Context, lists [][]*ownList, deadline time.Time, inVain bool) error {
	w := &waiter{wake: make(chan struct{}, 1)}
	since := s.track.add(w)
	defer s.track.remove(w)
	poll := pollFirst
	for again := false; ; again = true {
		some, err := s.look(ctx, lists, inVain, again)
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
		if woken, err := s.sleep(ctx, w, pause, func() bool { return s.track.news(lists, since) }); woken || err != nil {
			return err
		}
	}
}

// sleep says whether there was news before the pause was over.
func (s *store) sleep(ctx context.Context, w *waiter, pause time.Duration, news func() bool) (bool, error) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	for {
		select {
		case <-w.wake:
			if news() {
				return true, nil
			}
		case <-timer.C:
			return false, nil
		case <-ctx.Done():
			return false, context.Cause(ctx)
		case <-s.done:
			return false, s.Err()
		}
	}
}

// look says whether any of the lists holds something, and has the server track
// them. What is believed is not asked for the first time, and again only to see
// whether the news is to be trusted.
func (s *store) look(ctx context.Context, all [][]*ownList, lengths, again bool) (bool, error) {
	lists := s.track.open(all)
	switch {
	case len(lists) == 0 && !again:
		return false, nil
	case len(lists) > 0 && again:
		lists = slices.Concat(all...)
	}
	some, err := call(ctx, s, "claim", driver.ErrUnavailable, func() (bool, error) {
		switch {
		case len(lists) == 0:
			lists := slices.Concat(all...)
			n, err := s.link.client.Do(s.ctx, s.exists(lists)).AsInt64()
			if n > 0 {
				s.track.doubt(lists)
			}
			return n > 0, err
		case lengths:
			return s.lengthy(lists)
		}
		return s.heard(lists, s.link.client.DoMulti(s.ctx, s.question(lists)...))
	}, nil)
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return some, err
}

// lengthy says whether one of the lists is a list with something in it.
func (s *store) lengthy(lists []*ownList) (bool, error) {
	cmds := []rueidis.Completed{s.command("MULTI")}
	if s.track.on.Load() {
		cmds = []rueidis.Completed{s.command("CLIENT", "CACHING", "YES"), cmds[0]}
	}
	for _, l := range lists {
		cmds = append(cmds, s.command("LLEN", l.source))
	}
	answers, err := execAnswer(s.link.client.DoMulti(s.ctx, append(cmds, s.command("EXEC"))...))
	for i := range answers {
		if n, e := answers[i].AsInt64(); e == nil && n > 0 {
			return true, err
		}
	}
	return false, err
}

func (s *store) exists(lists []*ownList) rueidis.Completed {
	return s.command(append(append(make([]string, 0, 1+len(lists)), "EXISTS"), keysOf(lists)...)...)
}

// askTogether is of how many lists one answer speaks: of one that is not empty
// the others have to be asked for again.
const askTogether = 64

// question asks how many of the lists exist, and has the server track them.
// Inside call; heard reads the answers.
func (s *store) question(lists []*ownList) (cmds []rueidis.Completed) {
	if !s.track.on.Load() {
		return []rueidis.Completed{s.exists(lists)}
	}
	s.track.asking(lists)
	for some := range slices.Chunk(lists, askTogether) {
		cmds = append(cmds, s.fixed.caching, s.exists(some))
	}
	return cmds
}

// heard takes the answers to a question: is there any?
func (s *store) heard(lists []*ownList, answers []rueidis.RedisResult) (some bool, err error) {
	if !s.track.on.Load() {
		n, err := answers[0].AsInt64()
		return n > 0, err
	}
	for chunk := range slices.Chunk(lists, askTogether) {
		n, e := answers[1].AsInt64()
		answers = answers[2:]
		s.track.answered(chunk, n == 0 && e == nil)
		some, err = some || n > 0, cmp.Or(err, e)
	}
	return some, err
}

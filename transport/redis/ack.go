package redis

import (
	"context"
	"slices"
	"strconv"
	"sync"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// An acker ends claims of many own lists in one script: consumers of many queues
// settle at the same time, each a few. Nobody waits for others to come: what is
// dropped while a script is under way goes with the next one.
type acker struct {
	mu      sync.Mutex
	pending []*drop
	running int
}

// A drop is claims of one own list that stand next to each other.
type drop struct {
	list *ownList
	top  uint64 // the newest
	g    []*virtual.Settlement
	done chan dropped // capacity 1
}

type dropped struct {
	err  error
	left bool // it was not the case that is easy
}

const (
	ackers  = 2   // scripts under way
	ackMost = 256 // own lists of a script
)

// oldest says whether claims that stand next to each other, newest first, are
// the oldest that are open in their list, and not mirrored.
func (s *store) oldest(l *ownList, g []*virtual.Settlement) bool {
	behind := g[len(g)-1].Tag.ID - 1
	s.mu.Lock()
	defer s.mu.Unlock()
	for l.low < behind {
		if _, open := l.open[l.low+1]; open {
			return false
		}
		l.low++
	}
	return l.mirrored <= behind
}

// ack drops what is easily dropped and returns the rest.
func (s *store) ack(ctx context.Context, drops []*drop) (rest []*drop) {
	for i, d := range drops {
		if !s.acker.add(s, d) {
			for _, d := range drops[i:] {
				d.done <- dropped{err: s.notSent("settle")}
			}
			break
		}
	}
	for _, d := range drops {
		var end dropped
		select {
		case end = <-d.done:
		case <-ctx.Done():
			kind := driver.ErrUncertain
			if s.acker.withdraw(d) {
				kind = driver.ErrNotSent
			}
			end.err = ended(ctx, "settle", kind)
		}
		switch {
		case end.left:
			rest = append(rest, d)
			continue
		case end.err == nil:
			s.forgetAll(d)
		case s.Err() != nil:
			end.err = s.notOurs("settle", "")
		}
		for _, st := range d.g {
			st.Err = end.err
		}
	}
	return rest
}

// add has d dropped soon; false when the session ends.
func (a *acker) add(s *store, d *drop) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.running < ackers {
		if !s.spawn(func() { a.run(s) }) {
			return false
		}
		a.running++
	}
	a.pending = append(a.pending, d)
	return true
}

// withdraw: d was not sent, and will not be.
func (a *acker) withdraw(d *drop) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	i := slices.Index(a.pending, d)
	if i >= 0 {
		a.pending = slices.Delete(a.pending, i, i+1)
	}
	return i >= 0
}

// next is what the next script drops: of each own list once, in order.
func (a *acker) next(some []*drop) []*drop {
	a.mu.Lock()
	defer a.mu.Unlock()
	n := min(len(a.pending), ackMost)
	some = append(some[:0], a.pending[:n]...)
	a.pending = slices.Delete(a.pending, 0, n)
	if n == 0 {
		a.running--
	}
	return some
}

func (a *acker) run(s *store) {
	for some := a.next(nil); len(some) > 0; some = a.next(some) {
		// It ends with the session, and on this goroutine.
		left, err := call(context.WithoutCancel(s.ctx), s, "settle", driver.ErrUncertain, func() ([]int64, error) {
			answer := s.script(ackScript, s.ackKeys(some), s.ackArgs(some))
			if n, err := answer.AsInt64(); err == nil && n == -1 {
				return nil, s.fenced()
			}
			return answer.AsIntSlice()
		}, nil)
		for i, d := range some {
			d.done <- dropped{err, err == nil && slices.Contains(left, int64(i+1))}
		}
	}
}

func (s *store) ackKeys(drops []*drop) []string {
	keys := append(make([]string, 0, 2+len(drops)), s.keys.alive(s.env.Owner), s.keys.ledger(s.env.Owner))
	for _, d := range drops {
		keys = append(keys, d.list.key)
	}
	return keys
}

func (s *store) ackArgs(drops []*drop) []string {
	args := append(make([]string, 0, 1+3*len(drops)), tombstone(s.env.Owner))
	for _, d := range drops {
		args = append(args, d.list.list, strconv.FormatUint(d.top, 10), strconv.Itoa(len(d.g)))
	}
	return args
}

func (s *store) forgetAll(d *drop) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range d.g {
		delete(d.list.open, st.Tag.ID)
	}
}

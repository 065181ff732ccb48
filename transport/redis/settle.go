package redis

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// A batch bounds one run of the settle script.
const (
	settleBatch = 256
	dropBatch   = 1024 // of claims that are dropped: mostly one step
	settleBytes = 1 << 20
	trimMost    = 1024 // settled positions: there are many when an older claim was held for long
	longest     = 4096 // an own list grows to before old claims are set aside, see store.longest
)

// tombstone marks a settled position; no message starts with NUL and this owner's id.
func tombstone(owner string) string { return "\x00" + owner }

// Settle ends claims, a script for each own list. Requeue and Release put the
// message back at the head of the list it came from, several in their old
// order; Requeue says in the text that it was started. Reject drops, as Kombu does.
// Delay is ErrUnsupported. A claim that a peer took over is ErrLeaseLost.
func (s *store) Settle(ctx context.Context, all []virtual.Settlement) error {
	groups := map[*ownList][]*virtual.Settlement{}
	var order []*ownList
	for i := range all {
		st := &all[i]
		l := s.listOf(st.Tag)
		switch st.Err = s.refuse(st); {
		case st.Err != nil:
		case l == nil || !s.holds(l, st.Tag.ID):
			st.Err = s.notOurs("settle", "the claim is not of this session")
		default:
			if groups[l] == nil {
				order = append(order, l)
			}
			groups[l] = append(groups[l], st)
		}
	}
	for _, l := range order {
		g := groups[l]
		slices.SortFunc(g, func(a, b *virtual.Settlement) int { // newest first: the oldest ends up next
			return int(b.Tag.ID) - int(a.Tag.ID)
		})
		if !slices.ContainsFunc(g, func(st *virtual.Settlement) bool { return !drops(st) }) {
			for len(g) > dropBatch { // the oldest first: behind them nothing is open then
				s.settleBatch(ctx, l, g[len(g)-dropBatch:])
				g = g[:len(g)-dropBatch]
			}
			s.settleBatch(ctx, l, g)
			continue
		}
		for len(g) > 0 {
			n := batchSize(g)
			s.settleBatch(ctx, l, g[:n])
			g = g[n:]
		}
	}
	return s.Err()
}

func (s *store) listOf(t driver.Tag) *ownList {
	list, ok := strings.CutPrefix(t.Ref, s.env.Owner+":")
	if !ok {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own[list]
}

// refuse finds what cannot be done before anything is.
func (s *store) refuse(st *virtual.Settlement) error {
	if st.Outcome > driver.Reject || st.Outcome == driver.Delay {
		return &driver.Error{Op: "settle", Transport: Scheme, Kind: driver.ErrUnsupported, Err: errors.New("Redis lists have no delay")}
	}
	if st.Verbatim != "" {
		if err := s.keys.checkQueue("settle", st.Verbatim); err != nil {
			return err
		}
	}
	for i := range st.Put {
		if err := s.keys.checkQueue("settle", st.Put[i].Queue); err != nil {
			return err
		}
	}
	return nil
}

func batchSize(g []*virtual.Settlement) int {
	bytes := 0
	for i, st := range g {
		for _, p := range st.Put {
			bytes += len(p.Raw)
		}
		if i > 0 && (i == settleBatch || bytes > settleBytes) {
			return i
		}
	}
	return len(g)
}

func givesBack(st *virtual.Settlement) bool {
	return st.Outcome == driver.Requeue || st.Outcome == driver.Release
}

// settleBatch runs the script once.
func (s *store) settleBatch(ctx context.Context, l *ownList, g []*virtual.Settlement) {
	keys, args, renew := s.settleArgs(l, g)
	lost, err := call(ctx, s, "settle", driver.ErrUncertain, func() ([]int64, error) {
		if slices.ContainsFunc(g, givesBack) {
			if err := s.beginTaking(); err != nil {
				return nil, err
			}
			defer s.endTaking()
		}
		answer := s.script(settleScript, keys, args)
		if n, err := answer.AsInt64(); err == nil && n == -1 {
			return nil, s.fenced()
		}
		out, err := answer.AsIntSlice()
		if len(renew) > 0 && err == nil {
			s.link.client.DoMulti(s.ctx, renew...)
		}
		return out, err
	}, nil)
	if err != nil {
		if s.Err() != nil {
			err = s.notOurs("settle", "")
		}
		for _, st := range g {
			st.Err = err
		}
		return
	}
	var taken []string
	for _, st := range g {
		s.forget(l, st.Tag.ID)
		if len(lost) > 0 && slices.Contains(lost, int64(st.Tag.ID)) {
			st.Err = s.notOurs("settle", "a peer restored the message")
			taken = append(taken, "x:"+strconv.FormatUint(st.Tag.ID, 10)+":"+l.list)
		}
	}
	if len(taken) > 0 { // that they were taken was kept until it could be told
		_, _ = call(ctx, s, "settle", driver.ErrUncertain, func() (struct{}, error) {
			cmd := s.command(append([]string{"HDEL", s.keys.ledger(s.env.Owner)}, taken...)...)
			return struct{}{}, s.link.client.Do(s.ctx, cmd).Error()
		}, nil)
	}
}

// holds: the claim is open, so far as we know.
func (s *store) holds(l *ownList, pos uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, open := l.open[pos]
	return open
}

// forget ends an open claim on our side.
func (s *store) forget(l *ownList, pos uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(l.open, pos)
}

// drops: the claim is forgotten, and nothing else is done.
func drops(st *virtual.Settlement) bool {
	return st.Verbatim == "" && len(st.Put) == 0 && !givesBack(st)
}

// runLength is how many at the start of g, newest first, are dropped and stand
// next to each other.
func runLength(g []*virtual.Settlement) int {
	n := 0
	for n < len(g) && drops(g[n]) && g[n].Tag.ID == g[0].Tag.ID-uint64(n) {
		n++
	}
	return n
}

func (s *store) settleArgs(l *ownList, g []*virtual.Settlement) (keys, args []string, renew []rueidis.Completed) {
	s.mu.Lock()
	open := len(l.open)
	s.mu.Unlock()
	keys = []string{s.keys.alive(s.env.Owner), s.keys.ledger(s.env.Owner), l.key, s.keys.unacked, s.keys.index}
	args = append(make([]string, 0, 5+4*len(g)), s.env.Owner, l.list, tombstone(s.env.Owner), strconv.Itoa(trimMost), strconv.Itoa(s.longest+2*open))
	key := func(list string) string {
		name := s.keys.full(list)
		n := slices.Index(keys[5:], name)
		if n < 0 {
			n = len(keys) - 5
			keys = append(keys, name)
		}
		return strconv.Itoa(n + 6)
	}
	for len(g) > 0 {
		st := g[0]
		if n := runLength(g); n > 0 {
			args = append(args, strconv.FormatUint(st.Tag.ID, 10), "run", strconv.Itoa(n), "0")
			g = g[n:]
			continue
		}
		g = g[1:]
		what, to := "drop", "0"
		switch {
		case st.Verbatim != "":
			what, to = "move", key(st.Verbatim)
		case st.Outcome == driver.Requeue:
			what, to = "tried", key(l.list)
		case st.Outcome == driver.Release:
			what, to = "head", key(l.list)
		}
		args = append(args, strconv.FormatUint(st.Tag.ID, 10), what, to, strconv.Itoa(len(st.Put)))
		for i := range st.Put {
			p := &st.Put[i]
			args = append(args, key(s.keys.list(p.Queue, p.Priority)), string(p.Raw))
			renew = append(renew, s.renewals(p.Queue)...)
		}
	}
	return keys, args, renew
}

// release gives claims back that nobody waits for any more. In a goroutine of
// the session, under the session's context.
func (s *store) release(claims []virtual.Claim, noAck bool) {
	if noAck {
		for _, c := range slices.Backward(claims) { // the oldest last: it is next again
			s.link.client.Do(s.ctx, s.command("RPUSH", s.keys.full(c.Tag.Ref), string(c.Raw)))
		}
		return
	}
	groups := map[*ownList][]uint64{}
	for _, c := range slices.Backward(claims) {
		if l := s.listOf(c.Tag); l != nil {
			s.forget(l, c.Tag.ID)
			groups[l] = append(groups[l], c.Tag.ID)
		}
	}
	for l, positions := range groups {
		for batch := range slices.Chunk(positions, settleBatch) {
			if s.putBack(l, batch) != nil {
				s.astray.Store(true) // the sweeper, or the next connection, finds them
			}
		}
	}
}

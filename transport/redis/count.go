package redis

import (
	"context"
	"slices"
	"strconv"
	"strings"

	"github.com/gombu/gombu/driver"
)

const tryStart = `{"gombu-try": `

// tries reads the count that an envelope carries as its first member; 0: none.
func tries(text string) int {
	rest, ok := strings.CutPrefix(text, tryStart)
	if !ok {
		return 0
	}
	end := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
	n, err := strconv.Atoi(rest[:max(end, 0)])
	if err != nil {
		return 0
	}
	return n
}

// Begin counts handler starts durably, before they happen: Attempt becomes the
// envelope's first member, a script for each own list. A count never falls, so
// that repeating after ErrUncertain is harmless. ErrLeaseLost: the claim is no
// longer ours, and must not be handled. A text that is no envelope keeps none.
func (s *store) Begin(ctx context.Context, all []driver.Start) error {
	var order []*ownList
	groups := map[*ownList][]*driver.Start{}
	for i := range all {
		st := &all[i]
		l := s.listOf(st.Tag)
		if st.Err = nil; l == nil {
			st.Err = s.notOurs("begin", "the claim is not of this session")
			continue
		}
		if groups[l] == nil {
			order = append(order, l)
		}
		groups[l] = append(groups[l], st)
	}
	for _, l := range order {
		for batch := range slices.Chunk(groups[l], beginBatch) {
			s.beginBatch(ctx, l, batch)
		}
	}
	return s.Err()
}

// beginBatch bounds one run of the script, through which the texts go.
const beginBatch = 16

func (s *store) beginBatch(ctx context.Context, l *ownList, g []*driver.Start) {
	keys := []string{s.keys.alive(s.env.Owner), s.keys.ledger(s.env.Owner), l.key, s.keys.unacked, s.keys.index}
	args := append(make([]string, 0, 3+2*len(g)), s.env.Owner, l.list, tombstone(s.env.Owner))
	for _, st := range g {
		args = append(args, strconv.FormatUint(st.Tag.ID, 10), strconv.Itoa(st.Attempt))
	}
	ours, err := call(ctx, s, "begin", driver.ErrUncertain, func() ([]int64, error) {
		answer := s.script(beginScript, keys, args)
		if n, err := answer.AsInt64(); err == nil && n == -1 {
			return nil, s.fenced()
		}
		out, err := answer.AsIntSlice()
		if err == nil && len(out) != len(g) {
			err = errShort
		}
		return out, err
	}, nil)
	if err != nil && s.Err() != nil {
		err = s.notOurs("begin", "")
	}
	for i, st := range g {
		if st.Err = err; err == nil && ours[i] == 0 {
			s.forget(l, st.Tag.ID)
			st.Err = s.notOurs("begin", "a peer restored the message")
		}
	}
}

package redis

import (
	"slices"
	"strings"
	"time"
)

// Keys of owners vanish when somebody deletes them, or a server evicts them. A
// live owner finds out by its own heartbeat, claims and settles, and its session
// is over. What is left of a dead one nobody would look for; so once in a while
// somebody looks through the database.

// searchPause is how long after one search the next begins at the earliest,
// unless there is a sign that an owner is not named.
const searchPause = 10 * time.Second

// A search says when to look for strays: at the beginning by who is alone; when
// the set of owners was lost; and after somebody died, whose ledger may have
// been incomplete.
type search struct {
	last time.Time
	once bool
	owed bool // somebody died since
}

func (h *search) due(r tickReport, unlisted, died bool, now time.Time) bool {
	alone := r.stray == 2 && !h.once
	h.once = true
	h.owed = h.owed || died
	if r.stray == 1 || unlisted || alone || h.owed && now.Sub(h.last) >= searchPause {
		h.last, h.owed = now, false
		return true
	}
	return false
}

// findStrays makes owners known again of whom there is a ledger or a list, and
// remembers their lists. Those that live make their heartbeat before anybody
// suspects them.
func (s *store) findStrays() {
	found := map[string][]string{}
	match := globQuote(s.keys.ours("gombu:")) + "*"
	prefix := s.keys.ours("")
	c := s.link.client
	for cursor := uint64(0); ; {
		page, err := c.Do(s.ctx, c.B().Scan().Cursor(cursor).Match(match).Count(1000).Build()).AsScanEntry()
		if err != nil || s.stopping() {
			return
		}
		for _, key := range page.Elements {
			name := strings.TrimPrefix(key, prefix)
			if owner, ok := strings.CutPrefix(name, ledgerKey); ok {
				found[owner] = append(found[owner], "")
			} else if rest, ok := strings.CutPrefix(name, ownKey); ok {
				owner, list, _ := strings.Cut(rest, ":")
				found[owner] = append(found[owner], list)
			}
		}
		if cursor = page.Cursor; cursor == 0 {
			break
		}
	}
	s.mu.Lock()
	s.found = found
	s.mu.Unlock()
	for owner := range found {
		if n, _ := c.Do(s.ctx, s.command("ZADD", s.keys.owners(), "NX", "0", owner)).AsInt64(); n > 0 && owner != s.env.Owner {
			s.env.Log.Info("redis: found an owner that nobody named", "owner", owner)
		}
	}
}

// listsOf are the lists that an owner may have claimed from: those of its
// ledger, those that a search found, and when it is this one all it knows of.
func (s *store) listsOf(owner string, fields []string) []string {
	var out []string
	for _, f := range fields {
		if list, ok := strings.CutPrefix(f, "b:"); ok {
			out = append(out, list)
		}
	}
	add := func(list string) {
		if list != "" && !slices.Contains(out, list) {
			out = append(out, list)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, list := range s.found[owner] {
		add(list)
	}
	if owner == s.env.Owner {
		for list, l := range s.own {
			if l.used() {
				add(list)
			}
		}
	}
	return out
}

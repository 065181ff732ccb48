package redis

import (
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
)

// A vigil is the sweeper's own view of owners whose heartbeat is late. Time
// counts only while that view is unbroken: when the server was stopped, or we
// were, everybody's heartbeat is late and nobody is dead.
type vigil struct {
	since time.Time // the view is unbroken
	last  time.Time
	gen   int
	seen  map[suspect]*sighting
}

type sighting struct {
	since time.Time // by our clock
	times int
}

const (
	vigilGap = 3 * beatEvery     // longer without a look, and it starts anew
	vigilNew = 7 * beatEvery / 2 // in which everybody had time to connect again
	reapSome = 64                // claims per script
)

// update takes a new look and returns the suspects with what is known of them.
func (v *vigil) update(r tickReport) map[suspect]*sighting {
	if r.at.Sub(v.last) > vigilGap || r.gen != v.gen {
		v.since, v.gen, v.seen = r.at, r.gen, nil
	}
	next := make(map[suspect]*sighting, len(r.suspects))
	for _, su := range r.suspects {
		n := v.seen[su]
		if n == nil {
			n = &sighting{since: r.at}
		}
		n.times++
		next[su] = n
	}
	v.last, v.seen = r.at, next
	return next
}

// takeOver fences the owners that are dead and gives their claims back; it says
// whether there were any.
func (s *store) takeOver(v *vigil, r tickReport) (died bool) {
	for su, seen := range v.update(r) {
		value, dead := s.isDead(su, seen, r.at.Sub(v.since) >= vigilNew)
		if !dead || s.stopping() {
			continue
		}
		keys := []string{s.keys.alive(su.owner), s.keys.owners()}
		if n, err := s.script(fenceScript, keys, []string{su.owner, value, su.last}).AsInt64(); err != nil || n == 0 {
			continue
		}
		died = true
		n, err := s.reap(su.owner, true)
		if n > 0 {
			s.env.Log.Info("redis: took over the claims of a dead owner", "owner", su.owner, "lists", n)
		}
		if err != nil && s.ctx.Err() == nil {
			s.env.Log.Warn("redis: taking over", "owner", su.owner, "error", err)
		}
	}
	return died
}

// isDead: its alive key is gone, or its connection to this very server is and
// it had the time to make another, or it has been silent for a whole lease.
func (s *store) isDead(su suspect, seen *sighting, settled bool) (value string, dead bool) {
	value, err := s.link.client.Do(s.ctx, s.command("GET", s.keys.alive(su.owner))).ToString()
	if err != nil {
		return "", redisError(err) == nil
	}
	if seen.times < 2 {
		return value, false
	}
	run, client, _ := strings.Cut(value, "/")
	ours, _, _ := strings.Cut(s.run, "/")
	if run == ours && settled { // client ids mean nothing on another server
		list, err := s.link.client.Do(s.ctx, s.command("CLIENT", "LIST", "ID", client)).ToString()
		if err == nil && !strings.Contains(list, "id="+client+" ") {
			return value, true
		}
	}
	return value, time.Since(seen.since) >= s.cfg.Lease
}

// reap gives back all claims of a fenced owner and forgets it; it returns from
// how many lists. count says whether they count as started. A list that cannot
// be pushed to keeps its claims, and the owner, for the next try; it is not in
// the way of the others.
func (s *store) reap(owner string, count bool) (int, error) {
	fields, err := s.link.client.Do(s.ctx, s.command("HKEYS", s.keys.ledger(owner))).AsStrSlice()
	if redisError(err) != nil {
		return 0, err
	}
	forget := []string{s.keys.alive(owner), s.keys.owners(), s.keys.ledger(owner)}
	var failed error
	how := "0"
	if count {
		how = "1"
	}
	for _, list := range s.listsOf(owner, fields) {
		own := s.keys.own(owner, list)
		forget = append(forget, own)
		keys := []string{s.keys.alive(owner), s.keys.ledger(owner), own, s.keys.full(list), s.keys.unacked, s.keys.index}
		args := []string{owner, list, tombstone(owner), strconv.Itoa(reapSome), how, strconv.Itoa(trimMost)}
		for left := int64(1); left > 0; {
			left, err = s.script(reapScript, keys, args).AsInt64()
			if _, answered := rueidis.IsRedisErr(err); answered {
				failed = err
				break
			}
			if err != nil {
				return 0, err
			}
			if left < 0 {
				return 0, &driver.Error{Op: "take over", Transport: Scheme, Entity: owner, Kind: driver.ErrConflict}
			}
		}
	}
	slices.Sort(forget[3:])
	if err := s.script(forgetScript, forget, []string{owner}).Error(); err != nil {
		return 0, err
	}
	return len(forget) - 3, failed
}

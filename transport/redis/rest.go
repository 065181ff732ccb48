package redis

import (
	"strconv"
	"time"
)

// A process that has nothing to do asks little of the server: see decision 015.
const (
	restEvery   = 3 * beatEvery / 2 // a heartbeat within so long is enough for who holds no claim
	countEvery  = 4 * beatEvery     // to count what is overdue while nothing was
	ownersEvery = time.Hour         // to renew what lives for weeks
	mendAll     = 30                // looks of the sweeper, to look for all bindings
	pingEvery   = 4                 // heartbeats of a session that only publishes, or of a fan-out's connection
)

// An errand is what not every heartbeat need do. Guarded by store.mu.
type errands struct {
	owners, count time.Time // when it was done
	overdue       int64     // what was counted
	now           float64   // what the server's clock showed, in s; 0: unknown
	at            time.Time // when it did, or a little before
}

// errands says what the next heartbeat has to do beside.
func (s *store) errands() (owners, count bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &s.errand
	return e.owners.IsZero() || time.Since(e.owners) >= ownersEvery,
		e.overdue > 0 || time.Since(e.count) >= countEvery
}

// ran notes what a heartbeat that was sent then has done.
func (s *store) ran(r *tickReport, sent time.Time, owners, count bool) {
	due, err := strconv.ParseFloat(r.due, 64)
	s.mu.Lock()
	defer s.mu.Unlock()
	e := &s.errand
	if owners {
		e.owners = sent
	}
	if count {
		e.count, e.overdue = sent, r.overdue
	}
	if e.now = 0; err == nil {
		e.now, e.at = due+s.cfg.VisibilityTimeout.Seconds(), sent
	}
}

func flag01(v bool) string {
	if v {
		return "1"
	}
	return "0"
}

// beatAge is how long ago the last good heartbeat was sent.
func (s *store) beatAge() time.Duration {
	return time.Since(s.born) - time.Duration(s.good.Load())
}

// quiet: a glance is enough of a heartbeat. Nobody loses anything by the one
// that is left out, for this owner holds no claim; and the oldest heartbeat of
// all is not late, by the server's clock as the last script saw it.
func (s *store) quiet() bool {
	if s.beatAge() >= restEvery {
		return false
	}
	s.mu.Lock()
	late := s.errand.now + time.Since(s.errand.at).Seconds() - suspectAfter.Seconds()
	known := s.errand.now > 0 && s.errand.overdue == 0
	for _, l := range s.own {
		known = known && len(l.open) == 0
	}
	s.mu.Unlock()
	if !known {
		return false
	}
	oldest, err := s.link.client.Do(s.ctx, s.command("ZRANGE", s.keys.owners(), "0", "0", "WITHSCORES")).AsZScores()
	return err == nil && len(oldest) > 0 && oldest[0].Score >= late
}

// hurry makes a heartbeat at once when the last one was left out: who holds
// claims is known to live.
func (s *store) hurry() {
	if s.beatAge() > beatEvery {
		select {
		case s.hasten <- struct{}{}:
		default:
		}
	}
}

package redis

import (
	"cmp"
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gombu/gombu/driver"
)

const (
	beatEvery    = time.Second
	mirrorAfter  = time.Second             // claims of this age are copied
	suspectAfter = 2500 * time.Millisecond // without a heartbeat an owner is looked at

	// What one script copies, and renews, at most: it may not hold the server up.
	mirrorBytes = 1 << 20
	mirrorCount = 1000
	mirrorMost  = 2000
	mirrorTicks = 64 // scripts of one heartbeat
)

// tickReport is what the heartbeat's script saw.
type tickReport struct {
	at       time.Time
	gen      int    // of the connection that heard it
	overdue  int64  // entries of Kombu's unacked
	due      string // the latest score that is overdue
	stray    int64  // whether there may be owners that nobody names, see tick.lua
	suspects []suspect
}

// A suspect is an owner whose heartbeat is late.
type suspect struct{ owner, last string }

// beat runs the heartbeat until the session ends, and connects again when the
// session outlives its connection. It shares no goroutine with claims or with
// taking over: either could be held up, and liveness with it.
func (s *store) beat() {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for n := 0; ; n++ {
		if s.awaiting() == nil {
			if n%pingEvery == 0 {
				s.fanout.ping()
				for _, o := range s.openOutlets() {
					o.ping()
				}
			}
			if s.claims || n%pingEvery == 0 {
				s.beatOnce()
			}
		}
		select {
		case <-ticker.C:
		case <-s.hasten:
			ticker.Reset(beatEvery)
		case <-s.broken:
			if !s.relink() {
				return
			}
		case <-s.stop:
			return
		case <-s.done:
			return
		}
	}
}

func (s *store) beatOnce() {
	report := make(chan tickReport, 1)
	s.loops.Go(func() {
		defer close(report)
		if r, err := s.heartbeat(); err == nil {
			report <- r
		} else if err = s.failed("heartbeat", "", driver.ErrUnavailable, err); s.ctx.Err() == nil && s.awaiting() == nil { // an answer such as BUSY: the next heartbeat tries again
			s.env.Log.Warn("redis: heartbeat", "error", err)
		}
	})
	if r, ok := s.hear(report); ok {
		select { // the sweeper wants only the newest
		case <-s.ticked:
		default:
		}
		s.ticked <- r
	}
}

// heartbeat is one of them. A publisher has nothing to renew: it only sees that
// the server answers. So does who has nothing to lose, every other time.
func (s *store) heartbeat() (tickReport, error) {
	if !s.claims {
		return tickReport{}, s.link.client.Do(s.ctx, s.command("PING")).Error()
	}
	if s.quiet() {
		return tickReport{at: time.Now(), gen: s.gen}, nil
	}
	return s.tick(mirrorAfter)
}

// hear waits for the heartbeat's answer. A server that owes it and moves no
// byte for too long is given up.
func (s *store) hear(report <-chan tickReport) (tickReport, bool) {
	patience := silentFor(s.cfg)
	if patience == 0 {
		r, ok := <-report
		return r, ok
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	for {
		moved := s.link.moved.Load()
		select {
		case r, ok := <-report:
			return r, ok
		case <-timer.C:
			if s.link.moved.Load() == moved {
				s.lost(errSilent)
			}
			timer.Reset(patience)
		}
	}
}

// tick runs the heartbeat's script: claims of at least this age are mirrored.
// With very many of them it runs several times, each of them bounded.
func (s *store) tick(age time.Duration) (r tickReport, err error) {
	work := s.mirrorWork(age)
	for n := 0; n == 0 || len(work) > 0 && n < mirrorTicks && err == nil; n++ {
		some := min(len(work), mirrorMost)
		r, err = s.tickSome(work[:some])
		work = work[some:]
	}
	return r, err
}

func (s *store) tickSome(work []mirrored) (tickReport, error) {
	keys := []string{s.keys.alive(s.env.Owner), s.keys.owners(), s.keys.ledger(s.env.Owner), s.keys.unacked, s.keys.index}
	owners, count := s.errands()
	args := []string{s.env.Owner, millis(aliveTTL(s.cfg)), tombstone(s.env.Owner), seconds(s.cfg.VisibilityTimeout), seconds(suspectAfter), flag01(owners), flag01(count)}
	marks := mirrorArgs(work, &keys, &args)
	sent := time.Now()
	answer := s.script(tickScript, keys, args)
	if n, err := answer.AsInt64(); err == nil && n == -1 {
		return tickReport{}, s.fenced()
	}
	list, err := answer.ToArray()
	if err != nil || len(list) < 3 {
		return tickReport{}, cmp.Or(err, errShort)
	}
	s.renewed(sent)
	s.mu.Lock()
	for l, mark := range marks {
		l.mirrored = max(l.mirrored, mark)
	}
	s.mu.Unlock()
	r := tickReport{at: time.Now(), gen: s.gen}
	r.overdue, _ = list[0].AsInt64()
	r.due, _ = list[1].ToString()
	r.stray, _ = list[2].AsInt64()
	s.ran(&r, sent, owners, count)
	for i := 3; i+1 < len(list); i += 2 {
		owner, _ := list[i].ToString()
		last, _ := list[i+1].ToString()
		if owner != s.env.Owner {
			r.suspects = append(r.suspects, suspect{owner, last})
		}
	}
	return r, nil
}

// mirrored is a claim to copy, or to renew.
type mirrored struct {
	list *ownList
	pos  uint64
	good bool
	mark uint64 // of its list, once this is done
}

// mirrorWork is what is to be done, by lists, positions ascending: of each list
// all that are open up to a point, so that a mark says what has been copied.
func (s *store) mirrorWork(age time.Duration) (work []mirrored) {
	if s.cfg.Mirror == MirrorNever {
		return nil
	}
	ripe := time.Now().Add(-age)
	s.judge(ripe)
	bytes, count := 0, 0
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.own {
		mark := l.mirrored
		for _, pos := range slices.Sorted(maps.Keys(l.open)) { // one taken later has a higher position, see beginTaking
			h := l.open[pos]
			if pos > l.mirrored {
				if !h.judged || h.at.After(ripe) || bytes >= mirrorBytes || count >= mirrorCount {
					break
				}
				bytes, count, mark = bytes+h.size, count+1, pos
			}
			work = append(work, mirrored{l, pos, h.good, mark})
		}
	}
	return work
}

// mirrorArgs adds work to a script's arguments and returns the marks it leads to.
func mirrorArgs(work []mirrored, keys, args *[]string) map[*ownList]uint64 {
	marks := map[*ownList]uint64{}
	for len(work) > 0 {
		l, n := work[0].list, 1
		for n < len(work) && work[n].list == l {
			n++
		}
		mark := work[n-1].mark
		name, _ := json.Marshal(l.queue)
		*keys = append(*keys, l.key)
		*args = append(*args, l.list, string(name), strconv.FormatUint(mark, 10), strconv.Itoa(n))
		for _, w := range work[:n] {
			*args = append(*args, strconv.FormatUint(w.pos, 10), flag01(w.good))
		}
		marks[l], work = mark, work[n:]
	}
	return marks
}

// judge finds out which claims as old as this hold an envelope that both
// Kombus can restore: a text that they cannot read stops their sweep for
// everybody. Only slow claims come here, so that the hot path does not parse.
func (s *store) judge(ripe time.Time) {
	type item struct {
		list *ownList
		pos  uint64
		text string
		good bool
	}
	var items []item
	s.mu.Lock()
	for _, l := range s.own {
		for pos, h := range l.open {
			if !h.judged && !h.at.After(ripe) {
				items = append(items, item{l, pos, h.text, false})
			}
		}
	}
	s.mu.Unlock()
	for i := range items {
		items[i].good = utf8.ValidString(items[i].list.queue) && mirrorable(items[i].text) // JSON names the queue
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, it := range items {
		if h, ok := it.list.open[it.pos]; ok {
			h.text, h.judged, h.good = "", true, it.good
			it.list.open[it.pos] = h
		}
	}
}

func seconds(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }

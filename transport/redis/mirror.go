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
	beatEvery   = time.Second
	mirrorAfter = time.Second // claims of this age are copied
	suspectSecs = "2.5"       // after so long without a heartbeat an owner is looked at

	// What one heartbeat copies at most: a script may not hold the server up.
	mirrorBytes = 1 << 20
	mirrorCount = 1000
)

// tickReport is what the heartbeat's script saw.
type tickReport struct {
	at       time.Time
	overdue  int64  // entries of Kombu's unacked
	due      string // the latest score that is overdue
	suspects []suspect
}

// A suspect is an owner whose heartbeat is late.
type suspect struct{ owner, last string }

// beat runs the heartbeat until the session ends. It shares no goroutine with
// claims or with taking over: either could be held up, and liveness with it.
func (s *store) beat() {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.stop:
			return
		case <-s.done:
			return
		}
		report := make(chan tickReport, 1)
		s.loops.Go(func() {
			defer close(report)
			if r, err := s.tick(mirrorAfter); err == nil {
				report <- r
			} else if err = s.failed("heartbeat", "", driver.ErrUnavailable, err); s.ctx.Err() == nil { // an answer such as BUSY: the next heartbeat tries again
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
}

// listen is beat for a session that claims nothing: it finds a silent server.
func (s *store) listen() {
	ticker := time.NewTicker(beatEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.stop:
			return
		case <-s.done:
			return
		}
		report := make(chan tickReport, 1)
		s.loops.Go(func() {
			defer close(report)
			s.link.client.Do(s.ctx, s.command("PING"))
		})
		s.hear(report)
	}
}

// hear waits for the heartbeat's answer. A server that owes it and moves no
// byte for too long is given up, and with it the session.
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
func (s *store) tick(age time.Duration) (tickReport, error) {
	keys := []string{s.keys.alive(s.env.Owner), s.keys.owners(), s.keys.ledger(s.env.Owner), s.keys.unacked, s.keys.index}
	args := []string{s.env.Owner, millis(aliveTTL(s.cfg)), tombstone(s.env.Owner), seconds(s.cfg.VisibilityTimeout), suspectSecs}
	marks := s.mirrorArgs(age, &keys, &args)
	answer := s.script(tickScript, keys, args)
	if n, err := answer.AsInt64(); err == nil && n == -1 {
		return tickReport{}, s.fenced()
	}
	list, err := answer.ToArray()
	if err != nil || len(list) < 2 {
		return tickReport{}, cmp.Or(err, errShort)
	}
	s.mu.Lock()
	for l, mark := range marks {
		l.mirrored = max(l.mirrored, mark)
	}
	s.mu.Unlock()
	r := tickReport{at: time.Now()}
	r.overdue, _ = list[0].AsInt64()
	r.due, _ = list[1].ToString()
	for i := 2; i+1 < len(list); i += 2 {
		owner, _ := list[i].ToString()
		last, _ := list[i+1].ToString()
		if owner != s.env.Owner {
			r.suspects = append(r.suspects, suspect{owner, last})
		}
	}
	return r, nil
}

// mirrorArgs adds what is to be mirrored and returns the marks it leads to.
func (s *store) mirrorArgs(age time.Duration, keys, args *[]string) map[*ownList]uint64 {
	if s.cfg.Mirror == MirrorNever {
		return nil
	}
	ripe := time.Now().Add(-age)
	s.judge(ripe)
	marks := map[*ownList]uint64{}
	bytes, count := 0, 0
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.own {
		mark, claims := l.mirrored, []string{}
		for _, pos := range slices.Sorted(maps.Keys(l.open)) { // one taken later has a higher position, see beginTaking
			h := l.open[pos]
			if pos > l.mirrored {
				if !h.judged || h.at.After(ripe) || bytes >= mirrorBytes || count >= mirrorCount {
					break
				}
				bytes, count, mark = bytes+h.size, count+1, pos
			}
			envelope := "0"
			if h.good {
				envelope = "1"
			}
			claims = append(claims, strconv.FormatUint(pos, 10), envelope)
		}
		if len(claims) > 0 {
			name, _ := json.Marshal(l.queue)
			*keys = append(*keys, l.key)
			*args = append(append(*args, l.list, string(name), strconv.FormatUint(mark, 10), strconv.Itoa(len(claims)/2)), claims...)
			marks[l] = mark
		}
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

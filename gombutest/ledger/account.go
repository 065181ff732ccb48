package ledger

import (
	"math"
	"time"
)

// record is what is known of one message: 16 bytes.
type record struct {
	outcome         Outcome
	flags           uint8
	starts, handled uint8  // up to 255
	owed            uint8  // 1 + the first fault at whose end it was due; 0: none
	began, acked    uint32 // ticks since the start: the newest start, the first ack
}

const (
	sent    = 1 << iota
	removed // taken out on purpose
	acked
	again // started after it was acknowledged
)

// tick is the resolution of a record's times; 32 bits of it are twelve hours.
const tick = 10 // µs

const pageSize = 1 << 12

// producer holds the records of one producer, in pages made on demand.
type producer struct {
	pages map[int]*[pageSize]record
	next  int // 1 + the highest message sent so far
	top   int // 1 + the highest message handled so far
}

// counts are kept as records change, so that a report reads no record.
type counts struct {
	sent, handled, acked, lost, duplicated, repeats, again, ghosts, strangers, removed int
	outcomes                                                                           [Confirmed + 1]int
	outOfOrder, starts, restarts, unsettled, attempts                                  int
}

// count adds n times what a record stands for.
func (c *counts) count(r *record, n int) {
	add := func(when bool, field *int) {
		if when {
			*field += n
		}
	}
	isSent := r.flags&sent != 0
	add(isSent, &c.sent)
	add(isSent, &c.outcomes[r.outcome])
	add(r.handled > 0, &c.handled)
	add(isSent && r.outcome == Confirmed && r.handled == 0 && r.flags&removed == 0, &c.lost)
	add(r.handled > 1, &c.duplicated)
	c.repeats += n * max(int(r.handled)-1, 0)
	add(r.flags&acked != 0, &c.acked)
	add(r.flags&again != 0, &c.again)
	add(r.handled > 0 && (r.outcome == NotSent || r.outcome == Refused), &c.ghosts)
	add(r.handled > 0 && !isSent, &c.strangers)
	add(r.flags&removed != 0, &c.removed)
}

// update changes a record, and the counts with it.
func (l *Ledger) update(id ID, change func(r *record, p *producer)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.change(id, change)
}

// change is update under the lock.
func (l *Ledger) change(id ID, change func(r *record, p *producer)) {
	if !id.valid() {
		l.counts.strangers++
		return
	}
	p := l.producers[id.Producer]
	if p == nil {
		p = &producer{pages: map[int]*[pageSize]record{}}
		l.producers[id.Producer] = p
	}
	page := p.pages[id.Seq/pageSize]
	if page == nil {
		page = new([pageSize]record)
		p.pages[id.Seq/pageSize] = page
	}
	r := &page[id.Seq%pageSize]
	l.counts.count(r, -1)
	change(r, p)
	l.counts.count(r, 1)
	l.wake()
}

func (l *Ledger) ticks(at int64) uint32 {
	return uint32(min(max((at-l.start)/tick, 1), math.MaxUint32))
}

func (l *Ledger) sent(id ID, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range l.faults {
		if f.over > 0 && f.work == 0 {
			f.work = max(at, f.over)
		}
	}
	l.change(id, func(r *record, p *producer) {
		r.flags |= sent
		p.next = max(p.next, id.Seq+1)
		if r.outcome < Uncertain { // a repeat of what did not arrive: all is open again
			r.outcome = Unanswered
		}
	})
}

func (l *Ledger) outcome(id ID, o Outcome, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	idle := l.counts.lost == 0
	l.change(id, func(r *record, _ *producer) { r.outcome = max(r.outcome, o) })
	if idle && l.counts.lost > 0 {
		l.due = max(l.due, at)
	}
}

func (s *Source) started(id ID, attempt int, at int64) {
	l := s.l
	l.mu.Lock()
	defer l.mu.Unlock()
	s.consume = true
	l.counts.starts++
	l.counts.attempts = max(l.counts.attempts, attempt)
	l.change(id, func(r *record, _ *producer) {
		if r.starts > 0 {
			l.counts.restarts++
		}
		r.starts = min(r.starts, math.MaxUint8-1) + 1
		r.began = max(r.began, l.ticks(at))
		r.judge()
	})
	left := s.waiting[:0]
	for _, f := range s.waiting {
		if at < f.over {
			left = append(left, f)
			continue
		}
		f.resume = max(f.resume, at-max(f.over, f.work), 0)
	}
	s.waiting = left
}

func (l *Ledger) handled(id ID, at int64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.silence = max(l.silence, l.gap(at))
	l.last = max(l.last, at)
	l.change(id, func(r *record, p *producer) {
		r.handled = min(r.handled, math.MaxUint8-1) + 1
		if r.handled > 1 {
			return
		}
		if id.Seq < p.top {
			l.counts.outOfOrder++
		}
		p.top = max(p.top, id.Seq+1)
		l.repaid(r, at)
	})
}

// gap is how long, at a time, nothing was handled although something was due.
func (l *Ledger) gap(at int64) int64 {
	since := max(l.last, l.due)
	if since == 0 || l.counts.lost == 0 {
		return 0
	}
	return at - since
}

func (l *Ledger) acked(id ID, ok bool, at int64) {
	l.update(id, func(r *record, _ *producer) {
		if !ok {
			l.counts.unsettled++
			return
		}
		if r.flags&acked == 0 {
			r.flags |= acked
			r.acked = l.ticks(at)
		}
		r.judge()
	})
}

// judge compares the newest start with the first acknowledgement.
func (r *record) judge() {
	if r.flags&acked != 0 && r.began > r.acked {
		r.flags |= again
	}
}

// owe notes what is due at the end of a fault.
func (l *Ledger) owe(f *Fault) {
	n := len(l.faults)
	for i, other := range l.faults {
		if other == f {
			n = i + 1
		}
	}
	for _, p := range l.producers {
		for _, page := range p.pages {
			for i := range page {
				r := &page[i]
				if r.outcome == Confirmed && r.handled == 0 && r.flags&removed == 0 && r.owed == 0 {
					r.owed = uint8(min(n, math.MaxUint8))
					l.faults[r.owed-1].owed++
				}
			}
		}
	}
	l.square(f.over)
}

// repaid notes that something owed was handled.
func (l *Ledger) repaid(r *record, at int64) {
	if r.owed == 0 {
		return
	}
	l.faults[r.owed-1].owed--
	l.square(at)
}

// square settles the faults, oldest first, that nothing is owed to any more.
func (l *Ledger) square(at int64) {
	for _, f := range l.faults {
		if f.owed > 0 {
			return
		}
		if f.over > 0 && f.back < 0 {
			f.back = max(at-f.over, 0)
		}
	}
}

func since(us int64) time.Duration { return time.Duration(us) * time.Microsecond }

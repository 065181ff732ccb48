// Package ledger keeps account of every message of a run and says what was
// lost, duplicated, out of order, or silent. It knows nothing of brokers: those
// who send and handle tell it, in the same process or through a stream that
// another process writes (Writer) and this one reads (Source.Read), so that the
// account outlives whoever is killed.
//
// What is told may arrive in any order: that a message was handled may be read
// before that it was sent.
package ledger

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"
)

// ID names a message: the number of its producer, and its number there. Each
// counts from 0, the second in the order of sending.
type ID struct{ Producer, Seq int }

// String is "3-1207", which ParseID reads.
func (id ID) String() string {
	return strconv.Itoa(id.Producer) + "-" + strconv.Itoa(id.Seq)
}

// The largest numbers of an ID, so that a stranger's cost no memory.
const (
	maxProducer = 1<<16 - 1
	maxSeq      = 1<<31 - 1
)

// ParseID reads what String wrote.
func ParseID(s string) (ID, error) {
	a, b, _ := strings.Cut(s, "-")
	p, perr := strconv.Atoi(a)
	n, nerr := strconv.Atoi(b)
	id := ID{p, n}
	if perr != nil || nerr != nil || !id.valid() {
		return ID{}, fmt.Errorf("bad message id %.40q: want PRODUCER-SEQ", s)
	}
	return id, nil
}

func (id ID) valid() bool {
	return id.Producer >= 0 && id.Producer <= maxProducer && id.Seq >= 0 && id.Seq <= maxSeq
}

// A Recorder is told what happens to messages, each thing by whoever does it.
// Ledger, Source and Writer are Recorders; their methods may be called from any
// goroutine.
type Recorder interface {
	// Sent is told before a message is published, and before each repeat of it.
	Sent(id ID)
	// Outcome is told what publishing came to: nil, or the error (see OutcomeOf).
	Outcome(id ID, err error)
	// Started is told when a handler begins; attempt counts from 1, 0 is unknown.
	Started(id ID, attempt int)
	// Handled is told when a handler has done its work, before it settles: a
	// process that is killed in between must not make the message a lost one.
	Handled(id ID)
	// Settled is told when an acknowledgement has returned, with its error.
	Settled(id ID, err error)
}

// A Ledger is the account of one run. Its methods may be called from any
// goroutine. The zero value is not ready: use New.
type Ledger struct {
	mu        sync.Mutex
	start     int64 // µs of Unix time, as are all times here
	producers map[int]*producer
	sources   []*Source
	faults    []*Fault
	counts    counts
	last      int64 // the newest handling
	due       int64 // since when something confirmed waits to be handled
	silence   int64
	idle      chan struct{} // closed when nothing is due; nil: nobody waits
	self      *Source
}

// New makes an empty ledger; its clock starts now.
func New() *Ledger {
	l := &Ledger{start: now(), producers: map[int]*producer{}}
	l.self = &Source{l: l}
	return l
}

func now() int64 { return time.Now().UnixMicro() }

// Sent implements Recorder.
func (l *Ledger) Sent(id ID) { l.self.Sent(id) }

// Outcome implements Recorder.
func (l *Ledger) Outcome(id ID, err error) { l.self.Outcome(id, err) }

// Started implements Recorder.
func (l *Ledger) Started(id ID, attempt int) { l.self.Started(id, attempt) }

// Handled implements Recorder.
func (l *Ledger) Handled(id ID) { l.self.Handled(id) }

// Settled implements Recorder.
func (l *Ledger) Settled(id ID, err error) { l.self.Settled(id, err) }

// Removed says that a message was taken out on purpose (dead-lettered, purged,
// deleted with its queue): it is not lost when nobody handles it.
func (l *Ledger) Removed(id ID) { l.update(id, func(r *record, _ *producer) { r.flags |= removed }) }

// Progress is how many messages were sent, were handled, and are due: confirmed
// and not handled yet.
func (l *Ledger) Progress() (sent, handled, due int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.counts.sent, l.counts.handled, l.counts.lost
}

// Next is the number that follows a producer's highest one sent so far, for
// whoever takes its place.
func (l *Ledger) Next(producer int) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if p := l.producers[producer]; p != nil {
		return p.next
	}
	return 0
}

// NothingDue returns a channel that is closed as soon as everything confirmed
// was handled: at once when that is so.
func (l *Ledger) NothingDue() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.idle == nil {
		l.idle = make(chan struct{})
	}
	c := l.idle
	l.wake()
	return c
}

func (l *Ledger) wake() {
	if l.counts.lost == 0 && l.idle != nil {
		close(l.idle)
		l.idle = nil
	}
}

// A Source is one process, or one consumer of a process, that tells a Ledger.
// Telling them apart is what finds a consumer that fell silent among others
// that did not.
type Source struct {
	l       *Ledger
	name    string
	consume bool     // it has started handlers, or is expected to
	gone    bool     // nothing is expected from it any more
	waiting []*Fault // which it has not come back from
}

// Source makes a source; names need not differ.
func (l *Ledger) Source(name string) *Source {
	s := &Source{l: l, name: name}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sources = append(l.sources, s)
	return s
}

// Expect says that the source consumes: it is missed after a fault though it may
// not have started a handler yet.
func (s *Source) Expect() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.consume = true
}

// Gone says that the source was ended on purpose, so that it is not missed.
func (s *Source) Gone() {
	s.l.mu.Lock()
	defer s.l.mu.Unlock()
	s.gone, s.waiting = true, nil
}

// Sent implements Recorder.
func (s *Source) Sent(id ID) { s.l.sent(id, now()) }

// Outcome implements Recorder.
func (s *Source) Outcome(id ID, err error) { s.l.outcome(id, OutcomeOf(err), now()) }

// Started implements Recorder.
func (s *Source) Started(id ID, attempt int) { s.started(id, attempt, now()) }

// Handled implements Recorder.
func (s *Source) Handled(id ID) { s.l.handled(id, now()) }

// Settled implements Recorder.
func (s *Source) Settled(id ID, err error) { s.l.acked(id, err == nil, now()) }

// A Fault is one marked moment of a run.
type Fault struct {
	l        *Ledger
	name     string
	at, over int64 // over 0: it lasts
	work     int64 // when there was something to handle, from over on; 0: nothing yet
	resume   int64 // µs from work to when the last source came back; -1: none has
	owed     int   // messages that were due at its end, of this and no earlier fault
	back     int64 // µs from over to when all those were handled; -1: not yet
}

// Mark says that a fault begins now.
func (l *Ledger) Mark(fault string) *Fault {
	f := &Fault{l: l, name: fault, at: now(), resume: -1, back: -1}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.faults = append(l.faults, f)
	return f
}

// Over says that the fault ends now: the broker answers again, the link carries
// again, the process runs again or is dead. From here on the time is taken until
// every source starts a handler, and until all that is due now was handled. It
// is called at most once.
func (f *Fault) Over() {
	l := f.l
	l.mu.Lock()
	defer l.mu.Unlock()
	f.over = now()
	if l.owe(f); l.counts.lost > 0 {
		f.work = f.over
	}
	for _, s := range append([]*Source{l.self}, l.sources...) {
		if s.consume && !s.gone {
			s.waiting = append(s.waiting, f)
		}
	}
}

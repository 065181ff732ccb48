package ledger

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gombu/gombu/driver"
)

func want[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func ids(producer int, seqs ...int) []ID {
	var out []ID
	for _, n := range seqs {
		out = append(out, ID{producer, n})
	}
	return out
}

func TestIDs(t *testing.T) {
	for _, id := range []ID{{0, 0}, {3, 1207}, {maxProducer, maxSeq}} {
		got, err := ParseID(id.String())
		want(t, id.String(), got, id)
		want(t, id.String(), err, nil)
	}
	for _, s := range []string{"", "1", "1-", "-1-2", "1--2", "a-b", "65536-0", "0-2147483648", "1-2-3"} {
		if id, err := ParseID(s); err == nil {
			t.Errorf("%q is %v", s, id)
		}
	}
}

func TestOutcomes(t *testing.T) {
	for err, o := range map[error]Outcome{
		nil: Confirmed, driver.ErrUncertain: Uncertain, driver.ErrNotSent: NotSent, driver.ErrRefused: Refused,
		driver.ErrUnroutable: Refused, driver.ErrTooLarge: Refused, errors.New("who knows"): Uncertain,
	} {
		if err != nil {
			err = fmt.Errorf("publish: %w", err)
		}
		want(t, fmt.Sprint(err), OutcomeOf(err), o)
	}
	both := errors.Join(driver.ErrUncertain, driver.ErrUnavailable)
	want(t, "joined", OutcomeOf(both), Uncertain)
}

// The account of a small run with one of everything.
func TestAccount(t *testing.T) {
	l := New()
	for _, id := range ids(0, 0, 1, 2, 3, 4, 5, 6, 7) {
		l.Sent(id)
	}
	for _, id := range ids(0, 0, 1, 2, 3) {
		l.Outcome(id, nil)
	}
	l.Outcome(ID{0, 4}, driver.ErrUncertain)
	l.Outcome(ID{0, 5}, driver.ErrNotSent)
	l.Outcome(ID{0, 6}, driver.ErrRefused)
	handle := func(id ID) {
		l.Started(id, 1)
		l.Handled(id)
	}
	handle(ID{0, 1})
	handle(ID{0, 0}) // out of order
	handle(ID{0, 0}) // duplicated
	handle(ID{0, 0})
	handle(ID{0, 5})       // a ghost
	handle(ID{1, 0})       // a stranger
	handle(ID{0, -1})      // and another
	l.Removed(ID{0, 3})    // so only 2 is lost
	l.Started(ID{0, 7}, 4) // begun, not done
	want(t, "next", l.Next(0), 8)
	want(t, "next of nobody", l.Next(7), 0)
	r := l.Report()
	for _, c := range []struct {
		what      string
		got, want int
	}{
		{"sent", r.Sent, 8}, {"confirmed", r.Confirmed, 4}, {"uncertain", r.Uncertain, 1}, {"not sent", r.NotSent, 1},
		{"refused", r.Refused, 1}, {"unanswered", r.Unanswered, 1}, {"handled", r.Handled, 4}, {"lost", r.Lost, 1},
		{"duplicated", r.Duplicated, 1}, {"repeats", r.Repeats, 2}, {"out of order", r.OutOfOrder, 1},
		{"ghosts", r.Ghosts, 1}, {"removed", r.Removed, 1}, {"starts", r.Starts, 8}, {"restarts", r.Restarts, 2}, {"attempts", r.Attempts, 4},
	} {
		want(t, c.what, c.got, c.want)
	}
	want(t, "lost ids", fmt.Sprint(r.LostIDs), "[0-2]")
	if r.Strangers < 2 {
		t.Error("strangers", r.Strangers)
	}
	if w := r.Wrong(); len(w) != 3 || !strings.Contains(r.String(), "0-2") {
		t.Error(w, r)
	}
}

// A repeat opens a message again, unless it may be at the broker already.
func TestRepeats(t *testing.T) {
	l := New()
	for _, first := range []error{driver.ErrNotSent, driver.ErrUncertain, nil} {
		id := ID{0, int(OutcomeOf(first))}
		l.Sent(id)
		l.Outcome(id, first)
		l.Sent(id)
		l.Handled(id)
	}
	r := l.Report()
	want(t, "ghosts", r.Ghosts, 0)
	want(t, "unanswered", r.Unanswered, 1)
	want(t, "uncertain", r.Uncertain, 1)
	want(t, "confirmed", r.Confirmed, 1)
	l.Outcome(ID{0, int(NotSent)}, nil)
	want(t, "confirmed at last", l.Report().Confirmed, 2)
}

// The order in which facts are read does not matter to the account.
func TestAnyOrder(t *testing.T) {
	facts := func(l *Ledger) []func() {
		var all []func()
		for i := range 50 {
			id := ID{i % 3, i / 3}
			all = append(all, func() { l.Sent(id) }, func() { l.Handled(id) })
			if i%4 > 0 {
				all = append(all, func() { l.Outcome(id, nil) })
			}
			if i%5 == 0 {
				all = append(all, func() { l.Handled(id) })
			}
			if i%7 == 0 {
				all = append(all, func() { l.Removed(id) })
			}
		}
		return all
	}
	account := func(shuffle bool) Report {
		l := New()
		all := facts(l)
		if shuffle {
			rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
		}
		for _, f := range all {
			f()
		}
		r := l.Report()
		r.OutOfOrder, r.LongestSilence, r.Took = 0, 0, 0 // of the order, by their nature
		return r
	}
	straight := account(false)
	for range 20 {
		want(t, "shuffled", fmt.Sprintf("%+v", account(true)), fmt.Sprintf("%+v", straight))
	}
	want(t, "lost", straight.Lost, 0)
	want(t, "duplicated", straight.Duplicated, 10)
}

func TestTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		a, b, dead := l.Source("a"), l.Source("b"), l.Source("dead")
		for _, s := range []*Source{a, b, dead} {
			s.Started(ID{9, 0}, 1)
		}
		time.Sleep(time.Hour) // nothing is due: no silence
		for _, id := range ids(0, 0, 1, 2, 3) {
			l.Sent(id)
			l.Outcome(id, nil)
		}
		time.Sleep(time.Second)
		a.Started(ID{0, 0}, 1)
		a.Handled(ID{0, 0})
		a.Settled(ID{0, 0}, nil)
		f := l.Mark("kill broker")
		time.Sleep(3 * time.Second)
		f.Over()
		dead.Gone()
		want(t, "lasting silence", l.Report().LongestSilence, 3*time.Second)
		time.Sleep(time.Second)
		a.Started(ID{0, 1}, 1)
		a.Handled(ID{0, 1})
		r := l.Report()
		want(t, "silent", fmt.Sprint(r.Silent), "[b]")
		want(t, "resumed", r.Faults[0].Resume, time.Second)
		want(t, "back", r.Faults[0].Back, -1)
		time.Sleep(time.Second)
		b.Started(ID{0, 0}, 2) // acknowledged before
		b.Started(ID{0, 2}, 1)
		b.Handled(ID{0, 2})
		due := l.NothingDue()
		select {
		case <-due:
			t.Error("one is due")
		default:
		}
		time.Sleep(time.Second)
		b.Handled(ID{0, 3})
		<-due
		<-l.NothingDue()
		r = l.Report()
		want(t, "silent", len(r.Silent), 0)
		want(t, "resumed", r.Faults[0].Resume, 2*time.Second)
		want(t, "back", r.Faults[0].Back, 3*time.Second)
		want(t, "at", r.Faults[0].At, time.Hour+time.Second)
		want(t, "over", r.Faults[0].Over, time.Hour+4*time.Second)
		want(t, "longest silence", r.LongestSilence, 4*time.Second)
		want(t, "acked and again", r.AckedAgain, 1)
		time.Sleep(time.Hour)
		want(t, "longest silence at the end", l.Report().LongestSilence, 4*time.Second)
	})
}

// Without anything to handle nobody is late.
func TestNothingToResume(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		l.Started(ID{9, 0}, 1)
		l.Mark("cut").Over()
		time.Sleep(time.Hour)
		l.Sent(ID{0, 0})
		time.Sleep(time.Second)
		l.Started(ID{0, 0}, 1)
		want(t, "resumed", l.Report().Faults[0].Resume, time.Second)
	})
}

// What is owed to a fault stays its debt when another follows.
func TestDebts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := New()
		confirm := func(id ID) {
			l.Sent(id)
			l.Outcome(id, nil)
		}
		confirm(ID{0, 0})
		l.Mark("first").Over()
		confirm(ID{0, 1})
		l.Mark("second").Over()
		time.Sleep(time.Second)
		l.Handled(ID{0, 1})
		want(t, "second", l.Report().Faults[1].Back, -1)
		time.Sleep(time.Second)
		l.Handled(ID{0, 0})
		want(t, "first", l.Report().Faults[0].Back, 2*time.Second)
		want(t, "second", l.Report().Faults[1].Back, 2*time.Second)
		l.Mark("third").Over()
		want(t, "third", l.Report().Faults[2].Back, 0)
	})
}

// What was written through a Writer is the same account, up to the line in
// whose middle the writer died.
func TestStream(t *testing.T) {
	var b bytes.Buffer
	w := NewWriter(&b, nil)
	direct, read := New(), New()
	for _, r := range []Recorder{w, direct} {
		for i, err := range []error{nil, driver.ErrUncertain, driver.ErrNotSent, driver.ErrRefused, nil} {
			id := ID{1, i}
			r.Sent(id)
			r.Outcome(id, err)
			r.Started(id, i)
			r.Handled(id)
			r.Settled(id, err)
		}
	}
	w.Note("ready\nto go")
	w.Sent(ID{1, 99})
	whole := b.String()
	var notes []string
	s := read.Source("child")
	if err := s.Read(strings.NewReader(whole[:len(whole)-1]), func(n string) { notes = append(notes, n) }); err != nil {
		t.Fatal(err)
	}
	want(t, "notes", fmt.Sprint(notes), "[ready to go]")
	a, z := direct.Report(), read.Report()
	a.Took, z.Took, a.LongestSilence, z.LongestSilence = 0, 0, 0, 0
	want(t, "report", fmt.Sprintf("%+v", z), fmt.Sprintf("%+v", a))
	for _, bad := range []string{"x 1 2 3", "s 1 2", "s a b c", "o 1 2 3 z", "o 1 2 3 -", "o 1 2 3", "b 1 2 3 x", ""} {
		if err := s.Read(strings.NewReader(bad+"\n"), nil); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestBrokenPipe(t *testing.T) {
	r, p := io.Pipe()
	r.Close()
	var got error
	NewWriter(p, func(err error) { got = err }).Sent(ID{0, 0})
	want(t, "broken", got, io.ErrClosedPipe)
	NewWriter(p, nil).Sent(ID{0, 0})
}

func TestManyAtOnce(t *testing.T) {
	l := New()
	var wg sync.WaitGroup
	const each, producers = 5000, 4
	for p := range producers {
		wg.Go(func() {
			for i := range each {
				l.Sent(ID{p, i})
				l.Outcome(ID{p, i}, nil)
			}
		})
		wg.Go(func() {
			s := l.Source(fmt.Sprint(p))
			for i := range each {
				s.Started(ID{p, i}, 1)
				s.Handled(ID{p, i})
				s.Settled(ID{p, i}, nil)
				if i%1000 == 0 {
					l.Mark("x").Over()
					_ = l.Report()
				}
			}
		})
	}
	wg.Wait()
	r := l.Report()
	if r.Sent != each*producers || r.Handled != r.Sent || len(r.Wrong()) > 0 && r.Lost > 0 || r.Duplicated+r.OutOfOrder+r.AckedAgain > 0 {
		t.Errorf("%+v", r)
	}
}

func BenchmarkMessage(b *testing.B) {
	l := New()
	b.ReportAllocs()
	for i := range b.N {
		id := ID{0, i % maxSeq}
		l.Sent(id)
		l.Outcome(id, nil)
		l.Started(id, 1)
		l.Handled(id)
		l.Settled(id, nil)
	}
}

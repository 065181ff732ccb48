package ledger

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// A Report is the state of the account. Numbers are of different messages
// unless they say otherwise; times are nanoseconds in JSON.
type Report struct {
	Sent       int `json:"sent"`
	Confirmed  int `json:"confirmed"`
	Uncertain  int `json:"uncertain"`
	NotSent    int `json:"not_sent"`
	Refused    int `json:"refused"`
	Unanswered int `json:"unanswered"` // their producer was killed before it knew
	Handled    int `json:"handled"`    // at least once
	Acked      int `json:"acked"`      // with success, as far as was told

	Lost       int  `json:"lost"`            // confirmed, not handled, not removed
	LostIDs    []ID `json:"lost_ids"`        // the first of them, at most 20
	Duplicated int  `json:"duplicated"`      // handled more than once
	Repeats    int  `json:"repeats"`         // handlings beyond the first of each
	AckedAgain int  `json:"acked_and_again"` // a handler started after an acknowledgement had returned
	Ghosts     int  `json:"ghosts"`          // handled, though not sent or refused
	Strangers  int  `json:"strangers"`       // handled, though nobody sent them
	OutOfOrder int  `json:"out_of_order"`    // first handled after a later one of the same producer
	Removed    int  `json:"removed"`         // taken out on purpose

	Starts    int `json:"starts"`    // of handlers, all of them
	Restarts  int `json:"restarts"`  // those beyond the first of each message
	Attempts  int `json:"attempts"`  // the highest number that Started was told
	Unsettled int `json:"unsettled"` // acknowledgements that failed

	// LongestSilence is the longest time without any handling while something
	// confirmed was waiting.
	LongestSilence time.Duration `json:"longest_silence"`
	Faults         []FaultReport `json:"faults"`
	// Silent names the sources that started handlers before a fault was over,
	// none after it, and were not ended.
	Silent []string      `json:"silent"`
	Took   time.Duration `json:"took"`
}

// A FaultReport is what followed a marked fault.
type FaultReport struct {
	Name string        `json:"name"`
	At   time.Duration `json:"at"`   // since the ledger was made
	Over time.Duration `json:"over"` // likewise; 0: it never was
	// Resume is from the fault's end, or later, when there was nothing to handle,
	// from the first message that was sent, until the last source that came back
	// started a handler. -1: none has.
	Resume time.Duration `json:"resume"`
	// Back is from the fault's end until everything that was due then was
	// handled. -1: not yet.
	Back time.Duration `json:"back"`
}

// Report says how things stand.
func (l *Ledger) Report() Report {
	l.mu.Lock()
	defer l.mu.Unlock()
	at, c := now(), &l.counts
	r := Report{
		Sent: c.sent, Confirmed: c.outcomes[Confirmed], Uncertain: c.outcomes[Uncertain], NotSent: c.outcomes[NotSent],
		Refused: c.outcomes[Refused], Unanswered: c.outcomes[Unanswered], Handled: c.handled, Acked: c.acked,
		Lost: c.lost, Duplicated: c.duplicated, Repeats: c.repeats, AckedAgain: c.again, Ghosts: c.ghosts,
		Strangers: c.strangers, OutOfOrder: c.outOfOrder, Removed: c.removed,
		Starts: c.starts, Restarts: c.restarts, Attempts: c.attempts, Unsettled: c.unsettled,
		LongestSilence: since(max(l.silence, l.gap(at))), Took: since(at - l.start),
	}
	for _, f := range l.faults {
		fr := FaultReport{Name: f.name, At: since(f.at - l.start), Resume: -1, Back: -1}
		if f.over > 0 {
			fr.Over = since(f.over - l.start)
		}
		if f.resume >= 0 {
			fr.Resume = since(f.resume)
		}
		if f.back >= 0 {
			fr.Back = since(f.back)
		}
		r.Faults = append(r.Faults, fr)
	}
	for _, s := range l.sources {
		if len(s.waiting) > 0 {
			r.Silent = append(r.Silent, s.name)
		}
	}
	if c.lost > 0 {
		r.LostIDs = l.lostIDs(20)
	}
	return r
}

func (l *Ledger) lostIDs(limit int) []ID {
	var ids []ID
	for n, p := range l.producers {
		for i, page := range p.pages {
			for j := range page {
				r := &page[j]
				if r.flags&(sent|removed) == sent && r.outcome == Confirmed && r.handled == 0 {
					ids = append(ids, ID{n, i*pageSize + j})
				}
			}
		}
	}
	slices.SortFunc(ids, func(a, b ID) int {
		if a.Producer != b.Producer {
			return a.Producer - b.Producer
		}
		return a.Seq - b.Seq
	})
	return ids[:min(len(ids), limit)]
}

// Wrong lists, in words, what no broker and no fault excuses: a confirmed
// message that was not handled, one handled though it was not sent, a source
// that fell silent. Empty: all is well.
func (r *Report) Wrong() []string {
	var w []string
	for _, c := range []struct {
		n    int
		what string
	}{
		{r.Lost, "confirmed and never handled"},
		{r.Ghosts, "handled, though the producer was told that they were not sent"},
		{r.Strangers, "handled, though nobody sent them"},
	} {
		if c.n > 0 {
			w = append(w, fmt.Sprintf("%d messages were %s", c.n, c.what))
		}
	}
	if len(r.LostIDs) > 0 {
		w[0] += fmt.Sprintf(", such as %v", r.LostIDs[:min(len(r.LostIDs), 5)])
	}
	if len(r.Silent) > 0 {
		w = append(w, "silent after a fault: "+strings.Join(r.Silent, ", "))
	}
	return w
}

// String is the report as lines of text.
func (r Report) String() string {
	var b strings.Builder
	line := func(name string, v any, more string) { fmt.Fprintf(&b, "%-16s %v%s\n", name, v, more) }
	line("sent", r.Sent, "")
	var rest []string
	for _, o := range []struct {
		n    int
		what string
	}{{r.Uncertain, "uncertain"}, {r.NotSent, "not sent"}, {r.Refused, "refused"}, {r.Unanswered, "unanswered"}} {
		if o.n > 0 {
			rest = append(rest, fmt.Sprintf("%d %s", o.n, o.what))
		}
	}
	more := ""
	if len(rest) > 0 {
		more = " (" + strings.Join(rest, ", ") + ")"
	}
	line("confirmed", r.Confirmed, more)
	line("handled", r.Handled, "")
	line("lost", r.Lost, "")
	line("duplicated", r.Duplicated, "")
	line("acked and again", r.AckedAgain, "")
	if r.Removed > 0 {
		line("removed", r.Removed, "")
	}
	line("out of order", r.OutOfOrder, "")
	line("longest silence", Round(r.LongestSilence), "")
	for _, f := range r.Faults {
		line("resume time", Round(f.Resume), " after "+f.Name+"; all back after "+Round(f.Back))
	}
	for _, w := range r.Wrong() {
		line("WRONG", w, "")
	}
	return b.String()
}

// Round is a duration for people: milliseconds; negative ones are "never".
func Round(d time.Duration) string {
	switch {
	case d < 0:
		return "never"
	case d < 10*time.Millisecond:
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

package simulation

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/gombutest/ledger"
)

// copies are the messages of the ledger that one message of ours becomes: one a
// queue, for each has a life of its own.
func (w *world) copies(producer, n int, queues []string) (ids []ledger.ID) {
	for _, q := range queues {
		ids = append(ids, ledger.ID{Producer: producer*len(w.plan.queues) + slices.Index(w.plan.queues, q), Seq: n})
	}
	return ids
}

// idOf is the one that a delivery is.
func (w *world) idOf(d *gombu.Delivery) (ledger.ID, error) {
	v, err := gombu.Decode[[2]int](d)
	if err != nil {
		return ledger.ID{}, err
	}
	return w.copies(v[0], v[1], []string{d.Queue})[0], nil
}

func (w *world) complainf(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

// judge says what is wrong: something confirmed was lost, something acked came
// back, something that was said to be not sent arrived, order was not kept by
// one worker, a consumer fell silent, or on a day without faults anything at
// all was done twice or not confirmed.
func (w *world) judge() []string {
	r := w.ledger.Report()
	wrong := append(w.wrong, r.Wrong()...)
	say := func(n int, what string) {
		if n > 0 {
			wrong = append(wrong, fmt.Sprintf("%d messages %s", n, what))
		}
	}
	if !w.plan.resend { // else a second copy may come after the first was acked
		say(r.AckedAgain, "were acked and then started again")
	}
	for id, n := range w.starts {
		if n > w.plan.attempts && !w.plan.resend {
			wrong = append(wrong, fmt.Sprintf("%v was started %d times, of %d", id, n, w.plan.attempts))
		}
	}
	if w.plan.ordered() {
		say(r.OutOfOrder, "were out of order")
	}
	if len(w.plan.faults) == 0 {
		if w.plan.failing == 0 {
			say(r.Restarts, "were started again on a day without faults")
		}
		say(r.Sent-r.Confirmed, "were not confirmed on a day without faults")
		say(r.Unsettled, "were not settled on a day without faults")
	}
	return wrong
}

// ordered says whether messages are handled in the order of the publishes: one
// worker, and no session of it is lost, for what that had claimed comes back
// after its lease, behind what a new session takes meanwhile.
func (p *plan) ordered() bool {
	lost := slices.ContainsFunc(p.faults, func(f fault) bool {
		return f.kind == "restart" || f.whom < p.consumers && f.kind != "stop"
	})
	return p.consumers == 1 && p.workers == 1 && p.failing == 0 && !lost
}

// settled waits until everything confirmed was handled, twenty minutes at most.
func (w *world) settled() {
	t := time.NewTimer(20 * time.Minute)
	defer t.Stop()
	select {
	case <-w.ledger.NothingDue():
	case <-t.C:
	}
}

func said(seed uint64, wrong []string) string {
	return fmt.Sprintf("seed %d:\n%s\nrepeat with: go test ./internal/simulation -run TestNothingIsLost -args -seed %d -seeds 1", seed, strings.Join(wrong, "\n"), seed)
}

package torture

import (
	"fmt"
	"strings"
	"time"

	"github.com/gombu/gombu/gombutest/ledger"
)

// A Result is what a run came to.
type Result struct {
	Broker    string   `json:"broker"` // memory, rabbitmq or redis
	URL       string   `json:"url"`    // without secrets
	QueueType string   `json:"queue_type,omitempty"`
	Fault     []string `json:"fault"`
	Times     int      `json:"times"`
	Consumers string   `json:"consumers"` // gombu, kombu or both
	Seed      uint64   `json:"seed"`

	For time.Duration `json:"for,omitempty"` // how long faults lasted that do

	ledger.Report

	// Exit is the longest time that a consumer took to end after SIGTERM.
	Exit time.Duration `json:"exit,omitempty"`
	// Wrong is what no fault excuses, in words. Empty: all is well.
	Wrong []string `json:"wrong"`
}

func (r *run) result() *Result {
	res := &Result{
		Broker: r.kind, URL: r.cfg.URL, Fault: r.cfg.Faults, Times: r.cfg.Times, Seed: r.cfg.Seed,
		Consumers: "gombu", Report: r.report, Exit: r.exit,
	}
	if i := strings.LastIndex(res.URL, "@"); i >= 0 {
		res.URL = res.URL[:strings.Index(res.URL, "://")+3] + res.URL[i+1:]
	}
	if r.kind == rabbitmq {
		res.QueueType = r.cfg.QueueType
	}
	switch {
	case r.cfg.OnlyPython:
		res.Consumers = "kombu"
	case r.cfg.WithPython:
		res.Consumers = "both"
	}
	res.Wrong = append(res.Report.Wrong(), r.wrong...)
	if want := r.cfg.Messages; res.Sent != want {
		res.Wrong = append(res.Wrong, fmt.Sprintf("%d messages were sent instead of %d", res.Sent, want))
	}
	orderly := len(r.cfg.Faults) > 0
	for i := range r.cfg.Faults {
		orderly = orderly && r.strike(i).orderly
		if strings.Contains(r.strike(i).does, "--for") {
			res.For = r.cfg.For
		}
	}
	if orderly && res.AckedAgain > 0 {
		res.Wrong = append(res.Wrong, fmt.Sprintf("%d messages were seen again after they were acknowledged", res.AckedAgain))
	}
	return res
}

// String is the result as lines of text.
func (r *Result) String() string {
	var b strings.Builder
	what := r.Broker
	if r.QueueType != "" {
		what += ", " + r.QueueType + " queue"
	}
	faults := "no fault"
	if len(r.Fault) > 0 {
		faults = strings.Join(r.Fault, ", ")
	}
	if r.Times > 1 {
		faults += fmt.Sprintf(", %d times", r.Times)
	}
	fmt.Fprintf(&b, "%s: %s (consumers: %s, seed %d)\n", what, faults, r.Consumers, r.Seed)
	b.WriteString(r.Report.String())
	if r.Exit > 0 {
		fmt.Fprintf(&b, "%-16s %v\n", "exit", ledger.Round(r.Exit))
	}
	own := r.Wrong[len(r.Report.Wrong()):]
	for _, w := range own {
		fmt.Fprintf(&b, "%-16s %s\n", "WRONG", w)
	}
	return b.String()
}

package torture

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gombu/gombu/gombutest/ledger"
)

// The table of the guarantees stands between these lines.
const (
	tableBegins = "<!-- written by scripts/torture: begin -->"
	tableEnds   = "<!-- written by scripts/torture: end -->"
)

// WriteTable writes the results in a directory, a JSON object a file, as tables:
// between the marks of a document, or to w when that is "-".
func WriteTable(w io.Writer, dir, document string) error {
	results, err := readResults(dir)
	if err != nil {
		return err
	}
	text := table(results)
	if document == "-" {
		_, err := io.WriteString(w, text)
		return err
	}
	old, err := os.ReadFile(document)
	if err != nil {
		return err
	}
	before, rest, ok1 := bytes.Cut(old, []byte(tableBegins+"\n"))
	_, after, ok2 := bytes.Cut(rest, []byte(tableEnds))
	if !ok1 || !ok2 {
		return fmt.Errorf("%s has no lines %s and %s", document, tableBegins, tableEnds)
	}
	return os.WriteFile(document, slices.Concat(before, []byte(tableBegins+"\n\n"+text+"\n"+tableEnds), after), 0o644)
}

func readResults(dir string) (all []Result, err error) {
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		b, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		var r Result
		if err := json.Unmarshal(b, &r); err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		all = append(all, r)
	}
	return all, nil
}

// table is a table for each kind of broker and queue.
func table(all []Result) string {
	var b strings.Builder
	for _, s := range []struct{ title, kind, queue string }{
		{"RabbitMQ, classic queue", rabbitmq, "classic"}, {"RabbitMQ, quorum queue", rabbitmq, "quorum"},
		{"Redis, AOF with fsync always", redis, ""}, {"Memory", memory, ""},
	} {
		section(&b, s.title, s.kind, slices.DeleteFunc(slices.Clone(all), func(r Result) bool {
			return r.Broker != s.kind || r.QueueType != s.queue
		}))
	}
	return strings.TrimSpace(b.String()) + "\n"
}

// section is one table: the rows that were run, in the order of the faults, then
// what cannot be had.
func section(b *strings.Builder, title, kind string, rows []Result) {
	if len(rows) == 0 {
		return
	}
	fmt.Fprintf(b, "### %s\n\n", title)
	fmt.Fprintln(b, "| fault | consumers | sent | lost | duplicated | acked, seen again | longest silence | resumed | all back |")
	fmt.Fprintln(b, "|---|---|--:|--:|--:|--:|--:|--:|--:|")
	slices.SortStableFunc(rows, func(x, y Result) int {
		if d := rank(&x) - rank(&y); d != 0 {
			return d
		}
		return strings.Compare(x.label()+" "+x.Consumers, y.label()+" "+y.Consumers)
	})
	for i := range rows {
		r := &rows[i]
		fmt.Fprintf(b, "| %s | %s | %d | %d | %d | %d | %s | %s | %s |\n", r.label(), r.Consumers, r.Sent, r.Lost, r.Duplicated, r.AckedAgain,
			ledger.Round(r.LongestSilence), worst(r, func(f ledger.FaultReport) time.Duration { return f.Resume }),
			worst(r, func(f ledger.FaultReport) time.Duration { return f.Back }))
	}
	reasons := map[string][]string{}
	var order []string
	for i := range faults {
		if why := faults[i].not(kind); why != "" {
			if reasons[why] == nil {
				order = append(order, why)
			}
			reasons[why] = append(reasons[why], faults[i].name)
		}
	}
	for _, why := range order {
		fmt.Fprintf(b, "\nn/a: %s (%s).\n", strings.Join(reasons[why], ", "), why)
	}
	fmt.Fprintln(b)
}

// rank is the place of a row's first fault.
func rank(r *Result) int {
	if len(r.Fault) == 0 {
		return -1
	}
	return slices.IndexFunc(faults, func(f fault) bool { return f.name == r.Fault[0] })
}

// label is what was done, with what differs from the usual.
func (r *Result) label() string {
	name := cmp.Or(strings.Join(r.Fault, ", "), "none")
	var more []string
	if r.Times > 1 {
		more = append(more, fmt.Sprintf("%d times", r.Times))
	}
	if r.For > 0 && r.For != lasting {
		more = append(more, r.For.String())
	}
	if _, options, ok := strings.Cut(r.URL, "?"); ok {
		more = append(more, strings.ReplaceAll(options, "=", " "))
	}
	if len(more) > 0 {
		name += " (" + strings.Join(more, "; ") + ")"
	}
	return name
}

// worst is the longest of the times that followed each fault.
func worst(r *Result, of func(ledger.FaultReport) time.Duration) string {
	var d time.Duration
	for _, f := range r.Faults {
		if of(f) < 0 {
			return "never"
		}
		d = max(d, of(f))
	}
	if len(r.Faults) == 0 {
		return "-"
	}
	return ledger.Round(d)
}

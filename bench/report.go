package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/gombu/gombu/bench/contender"
)

// report prints what the results say of the suites. When it is of all suites
// and contenders, it is also written to the document.
func report(ctx context.Context, o *options, suites []contender.Suite, out io.Writer) error {
	var b strings.Builder
	var done []suiteResults
	for i := range suites {
		known, err := readResults(o.results, suites[i].Name)
		if err != nil {
			return err
		}
		known = slices.DeleteFunc(current(known, &suites[i], o.keep), func(r result) bool { return r.Round >= o.rounds || !named(&suites[i], r.Contender) })
		done = append(done, suiteResults{suite: &suites[i], results: known, table: tableOf(known)})
	}
	writeTargets(&b, done)
	fmt.Fprintln(&b, "\n## Suites")
	for i := range done {
		if len(done[i].results) > 0 {
			done[i].write(&b)
		}
	}
	if err := writeGrowth(&b, o.results); err != nil {
		return err
	}
	fmt.Fprint(out, b.String())
	if o.doc == "" || len(suites) != len(all()) || o.contender.String() != "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(o.doc), 0o755); err != nil {
		return err
	}
	return os.WriteFile(o.doc, []byte(preface(ctx, done)+b.String()), 0o644)
}

func named(s *contender.Suite, name string) bool {
	return slices.ContainsFunc(s.Contenders, func(c contender.Contender) bool { return c.Name == name })
}

// suiteResults is a suite with what is known of it.
type suiteResults struct {
	suite   *contender.Suite
	results []result
	table   table
}

// rounds is how many rounds at least one contender did.
func (s *suiteResults) rounds() int {
	n := 0
	for _, rounds := range s.table {
		n = max(n, len(rounds))
	}
	return n
}

// write writes the table of a suite, the fastest first.
func (s *suiteResults) write(b *strings.Builder) {
	job := s.results[0].Job
	fmt.Fprintf(b, "\n### %s\n\n%s%s, rounds of %v: %d\n\n", s.suite.Name, describe(job), queues(s.suite), job.For, s.rounds())
	latency := job.Work == contender.Latency
	cpu, allocs, memory := "CPU s/100k client", "allocs/msg", "peak MB"
	if job.Work == contender.Idle {
		cpu, allocs, memory = "CPU s of all, client", "allocs of all", "live MB"
	}
	fmt.Fprintf(b, "| contender | msg/s median (min–max) | × %s (min–max) | %s | server | %s |", s.suite.Base, cpu, allocs)
	if latency {
		fmt.Fprint(b, " p50 µs | p99 µs |")
	}
	fmt.Fprintf(b, " %s | foreign cores |\n|---|---|---|---|---|---|---|---|", memory)
	if latency {
		fmt.Fprint(b, "---|---|")
	}
	fmt.Fprintln(b)
	var names []string
	for _, c := range s.suite.Contenders {
		if len(s.table[c.Name]) > 0 {
			names = append(names, c.Name)
		}
	}
	slices.SortStableFunc(names, func(x, y string) int {
		return cmp.Compare(s.table.of(y, contender.Rate).median, s.table.of(x, contender.Rate).median)
	})
	for _, name := range names {
		s.row(b, name, latency)
	}
}

func (s *suiteResults) row(b *strings.Builder, name string, latency bool) {
	t := s.table
	rate := t.of(name, contender.Rate)
	times := t.against(name, s.suite.Base, contender.Rate, quotient)
	fmt.Fprintf(b, "| %s | %s (%s–%s) |", name, thousands(rate.median), thousands(rate.min), thousands(rate.max))
	if times.n == 0 {
		fmt.Fprint(b, " – |")
	} else {
		fmt.Fprintf(b, " %s (%s–%s) |", digits(times.median), digits(times.min), digits(times.max))
	}
	fmt.Fprintf(b, " %s | %s |", digits(t.of(name, contender.Client).median), digits(t.of(name, contender.Server).median))
	if allocs := t.of(name, contender.Allocs).median; allocs == 0 {
		fmt.Fprint(b, " – |")
	} else {
		fmt.Fprintf(b, " %.1f |", allocs)
	}
	if latency {
		fmt.Fprintf(b, " %.0f | %.0f |", t.of(name, contender.P50).median/1e3, t.of(name, contender.P99).median/1e3)
	}
	others, noisy := s.foreign(name)
	mark := ""
	if noisy > 0 {
		mark = fmt.Sprintf(" (%d noisy)", noisy)
	}
	memory := t.of(name, contender.Peak)
	if l := t.of(name, contender.Live); l.median > 0 {
		memory = l
	}
	fmt.Fprintf(b, " %.0f | %.2f%s |\n", memory.median/(1<<20), others, mark)
}

// foreign is the median of the cores that others used, and how many runs were
// noisy for all repeating.
func (s *suiteResults) foreign(name string) (cores float64, noisy int) {
	var v []float64
	for _, r := range s.results {
		if r.Contender == name {
			v = append(v, foreign(r.Figures))
			if r.Noisy {
				noisy++
			}
		}
	}
	return spreadOf(v).median, noisy
}

// digits writes three of them, as many as are meant.
func digits(v float64) string {
	switch {
	case v >= 100:
		return thousands(v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	case v != 0 && v < 0.1:
		return fmt.Sprintf("%.3f", v)
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// describe says in words what a job is.
func describe(j contender.Job) string {
	words := []string{map[string]string{
		contender.Publish: "publish", contender.Consume: "consume", contender.EndToEnd: "end to end", contender.Latency: "latency", contender.Idle: "idle",
		contender.Code: "coded on one core",
	}[j.Work]}
	if j.Size > 0 {
		words = append(words, fmt.Sprintf("%s bytes", thousands(float64(j.Size))))
	}
	if j.Raw {
		words = append(words, "not decoded")
	}
	switch {
	case j.Confirm && j.Window > 1:
		words = append(words, fmt.Sprintf("persistent, confirmed, window %d", j.Window))
	case j.Confirm:
		words = append(words, "persistent, confirmed one by one")
	case j.Work == contender.Publish, j.Work == contender.EndToEnd, j.Work == contender.Latency:
		words = append(words, "transient, not confirmed")
	}
	for _, n := range []struct {
		n    int
		what string
	}{{j.Batch, "batches of %d"}, {j.Callers, "%d callers"}, {j.Prefetch, "prefetch %d"}, {j.Consumers, "%d consumers"}, {j.Workers, "%d workers"}, {j.Rate, "%d/s"}} {
		if n.n > 0 {
			words = append(words, fmt.Sprintf(n.what, n.n))
		}
	}
	return strings.Join(words, ", ")
}

func queues(s *contender.Suite) string {
	if s.QueueCount < 2 {
		return ""
	}
	return fmt.Sprintf(", %d queues", s.QueueCount)
}

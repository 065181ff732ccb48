package main

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

func figures(rate int, allocs uint64) contender.Figures {
	return contender.Figures{Messages: rate, Elapsed: time.Second, Allocs: allocs * uint64(rate), Client: 10 * time.Microsecond * time.Duration(rate)}
}

// Three rounds: ratios of the same round are 2, 1.5 and 1, and the medians alone
// would say 1.2.
func rounds() []result {
	var all []result
	for round, pair := range [][2]int{{2000, 1000}, {900, 600}, {1200, 1200}} {
		for i, name := range []string{"gombu", "raw"} {
			all = append(all, result{Contender: name, Round: round, Figures: figures(pair[i], uint64(10+i)), Noisy: round == 0,
				Job: contender.Job{Work: contender.Latency, Rate: 500, Size: 256, For: time.Second}})
		}
	}
	return all
}

func TestTargets(t *testing.T) {
	tab := tableOf(rounds())
	for _, c := range []struct {
		g      contender.Target
		median float64
		met    bool
		text   string
	}{
		{contender.Target{Figure: contender.Rate, Of: "raw", Min: 1.5}, 1.5, true, "gombu: rate ≥ 1.5 × raw"},
		{contender.Target{Figure: contender.Rate, Of: "raw", Min: 1.51}, 1.5, false, "gombu: rate ≥ 1.51 × raw"},
		{contender.Target{Figure: contender.Client, Of: "raw", Max: 0.6}, 1, false, "gombu: client CPU ≤ 0.6 × raw"},
		{contender.Target{Figure: contender.Allocs, Above: "raw", Max: 2}, -1, true, "gombu: allocs/msg ≤ raw + 2.00"},
		{contender.Target{Who: "raw", Figure: contender.Rate, Min: 900, Max: 1100}, 1000, true, "raw: rate ≥ 900/s, ≤ 1,100/s"},
		{contender.Target{Figure: contender.P99, Max: 1e6}, 0, true, "gombu: p99 ≤ 1ms"},
		{contender.Target{Figure: contender.Rate, Of: "nobody", Min: 1}, 0, false, "gombu: rate ≥ 1 × nobody"},
	} {
		got, met := tab.judge(&c.g)
		if got.median != c.median || met != c.met || targetText(&c.g) != c.text {
			t.Errorf("%s: %+v %v, not %v %v %q", targetText(&c.g), got, met, c.median, c.met, c.text)
		}
	}
}

func TestSpread(t *testing.T) {
	if s := spreadOf([]float64{4, 1, 3, 2}); s != (spread{4, 2.5, 1, 4}) {
		t.Error(s)
	}
	if s := spreadOf(nil); s.n != 0 {
		t.Error(s)
	}
	for v, want := range map[float64]string{0: "0", 999: "999", 1000: "1,000", 1234567.6: "1,234,568"} {
		if got := thousands(v); got != want {
			t.Error(got, want)
		}
	}
	for v, want := range map[float64]string{0: "0.00", 0.0123: "0.012", 1.234: "1.23", 12.34: "12.3", 1234: "1,234"} {
		if got := digits(v); got != want {
			t.Error(got, want)
		}
	}
}

func TestTableOfASuite(t *testing.T) {
	s := suite("gombu", "raw", "absent")
	s.Base = "raw"
	s.Targets = []contender.Target{{Figure: contender.Rate, Of: "raw", Min: 1.5}, {Figure: contender.Rate, Of: "absent", Min: 1}, {Figure: contender.Rate, Min: 1e6}}
	known := rounds()
	done := []suiteResults{{suite: &s, results: known, table: tableOf(known)}}
	var b strings.Builder
	writeTargets(&b, done)
	done[0].write(&b)
	for _, want := range []string{
		"| s | gombu: rate ≥ 1.5 × raw | 1.50 (1.00–2.00) | met |",
		"| s | gombu: rate ≥ 1 × absent | – | not measured |",
		"| s | gombu: rate ≥ 1,000,000/s | 1,200/s (900/s–2,000/s) | **missed** |",
		"1 met, 1 missed, 1 not measured.",
		"latency, 256 bytes, transient, not confirmed, 500/s, rounds of 1s: 3",
		"| gombu | 1,200 (900–2,000) | 1.50 (1.00–2.00) | 1.00 | 0.00 | 10.0 | 0 | 0 | 0 | 0.00 (1 noisy) |",
		"| raw | 1,000 (600–1,200) | 1.00 (1.00–1.00) |",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("no %q in\n%s", want, b.String())
		}
	}
}

func TestReportIsWritten(t *testing.T) {
	dir := t.TempDir()
	o, err := parse([]string{"-report", "-results", dir, "-doc", filepath.Join(dir, "docs", "b.md")}, os.Stderr)
	if err != nil {
		t.Fatal(err)
	}
	f, err := openResults(dir, "rabbitmq-consume")
	if err != nil {
		t.Fatal(err)
	}
	var job contender.Job
	for _, s := range all() {
		if s.Name == "rabbitmq-consume" {
			job = s.Job
		}
	}
	for _, name := range []string{"gombu", "raw"} {
		if err := f.add(&result{Suite: "rabbitmq-consume", Contender: name, Job: job, Revision: "abc", Figures: figures(100, 3)}); err != nil {
			t.Fatal(err)
		}
	}
	f.close()
	var out strings.Builder
	if err := report(context.Background(), o, pick(all(), o), &out); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(o.doc)
	if err != nil || !strings.Contains(string(text), out.String()) || !strings.Contains(string(text), "| revision | abc |") {
		t.Errorf("%v\n%s", err, text)
	}
	if host, err := os.Hostname(); err == nil && len(host) > 3 && strings.Contains(string(text), host) {
		t.Error("it names the machine")
	}
}

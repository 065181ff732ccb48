package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// faked returns a runner whose runs are f's, and the calls that were made.
func faked(t *testing.T, f func(name string, call int) (contender.Figures, error)) (*runner, *[]string) {
	t.Helper()
	calls := &[]string{}
	return &runner{
		rounds: 3, repeats: 2, duration: time.Second, revision: "abc", results: t.TempDir(), log: io.Discard, now: time.Now,
		measure: func(_ context.Context, _ *contender.Suite, c *contender.Contender, _ contender.Job) (contender.Figures, error) {
			*calls = append(*calls, c.Name)
			return f(c.Name, len(*calls))
		},
	}, calls
}

func good(string, int) (contender.Figures, error) {
	return contender.Figures{Messages: 100, Elapsed: time.Second}, nil
}

func suite(names ...string) contender.Suite {
	s := contender.Suite{Name: "s", Broker: "memory", Base: "a", Job: contender.Job{Work: contender.Publish}}
	for _, n := range names {
		s.Contenders = append(s.Contenders, contender.Contender{Name: n})
	}
	return s
}

func TestTheOrderRotates(t *testing.T) {
	r, calls := faked(t, good)
	if err := r.run(t.Context(), []contender.Suite{suite("a", "b", "c")}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(*calls, ""); got != "abcbcacab" {
		t.Error(got)
	}
}

func TestWhatIsThereIsNotRunAgain(t *testing.T) {
	r, calls := faked(t, good)
	suites := []contender.Suite{suite("a", "b")}
	r.rounds = 1
	again := func(why string, want int) {
		t.Helper()
		*calls = nil
		if err := r.run(t.Context(), suites); err != nil {
			t.Fatal(err)
		}
		if len(*calls) != want {
			t.Errorf("%s: %v were run, not %d", why, *calls, want)
		}
	}
	again("the first time", 2)
	again("the second time", 0)
	r.rounds = 2
	again("one round more", 2)
	r.revision = "def"
	again("another revision", 4)
	r.revision = "ghi"
	r.keep = true
	again("any revision", 0)
	r.keep = false
	suites[0].Job.Size = 7
	again("another job", 4)
	r.revision = "ghi" + dirty
	again("a changed tree", 4)
	again("a changed tree again", 4)
	// A line that was cut off is no result.
	name := resultsName(r.results, "s")
	if err := os.WriteFile(name, []byte(`{"suite":"s","cont`), 0o600); err != nil {
		t.Fatal(err)
	}
	again("a broken file", 4)
}

func TestNoisyRunsAreRepeated(t *testing.T) {
	noise := []float64{0.9, 0.7, 0.8, 0.6, 0.1} // cores
	r, calls := faked(t, func(_ string, call int) (contender.Figures, error) {
		return contender.Figures{Messages: call, Elapsed: time.Second, Foreign: time.Duration(noise[call-1] * 1e9)}, nil
	})
	r.rounds = 2
	if err := r.run(t.Context(), []contender.Suite{suite("a")}); err != nil {
		t.Fatal(err)
	}
	got, err := readResults(r.results, "s")
	if err != nil || len(got) != 2 || len(*calls) != 5 {
		t.Fatal(got, err, *calls)
	}
	if first := got[0]; !first.Noisy || first.Tries != 3 || first.Figures.Messages != 2 {
		t.Errorf("of three noisy runs the quietest is kept: %+v", first)
	}
	if second := got[1]; second.Noisy || second.Tries != 2 || second.Figures.Messages != 5 {
		t.Errorf("a quiet run is kept: %+v", second)
	}
}

func TestABrokenContenderDoesNotStopTheRest(t *testing.T) {
	broken := errors.New("broken")
	r, calls := faked(t, func(name string, _ int) (contender.Figures, error) {
		if name == "b" {
			return contender.Figures{}, broken
		}
		return good("", 0)
	})
	if err := r.run(t.Context(), []contender.Suite{suite("a", "b", "c")}); !errors.Is(err, broken) {
		t.Fatal(err)
	}
	if n := len(*calls); n != 7 {
		t.Errorf("%d runs: b's others would fail too", n)
	}
	r, _ = faked(t, func(string, int) (contender.Figures, error) { return contender.Figures{Elapsed: time.Second}, nil })
	if err := r.run(t.Context(), []contender.Suite{suite("a")}); err == nil {
		t.Error("nothing was counted, and nobody said so")
	}
}

func TestASmokeIsPatientWithThoseThatPoll(t *testing.T) {
	r, calls := faked(t, func(_ string, call int) (contender.Figures, error) {
		return contender.Figures{Messages: call - 1, Elapsed: time.Second}, nil
	})
	r.smoke, r.rounds = true, 1
	if err := r.run(t.Context(), []contender.Suite{suite("a")}); err != nil || len(*calls) != 2 {
		t.Fatal(err, *calls)
	}
}

func TestASmokeRunsBrokersAtTheSameTime(t *testing.T) {
	r, _ := faked(t, good)
	r.smoke, r.rounds = true, 1
	one, two := make(chan bool), make(chan bool)
	r.measure = func(_ context.Context, s *contender.Suite, _ *contender.Contender, _ contender.Job) (contender.Figures, error) {
		if s.Broker == "one" {
			one <- true
			<-two
		} else {
			<-one
			two <- true
		}
		return good("", 0)
	}
	a, b := suite("a"), suite("a")
	a.Name, a.Broker, b.Name, b.Broker = "x", "one", "y", "two"
	if err := r.run(t.Context(), []contender.Suite{a, b}); err != nil {
		t.Fatal(err)
	}
}

func TestLengths(t *testing.T) {
	s := suite("a")
	s.Job.For = 4 * time.Second
	r := &runner{duration: time.Second}
	if got := r.job(&s).For; got != 4*time.Second {
		t.Error("a suite's own length", got)
	}
	r.fixed = true
	if got := r.job(&s).For; got != time.Second {
		t.Error("a length that was asked for", got)
	}
}

func TestCurrentResults(t *testing.T) {
	s := suite("a")
	line := func(round, size, messages int, revision string) result {
		return result{Suite: "s", Contender: "a", Round: round, Revision: revision,
			Job: contender.Job{Work: contender.Publish, Size: size, For: time.Second}, Figures: contender.Figures{Messages: messages}}
	}
	all := []result{line(0, 0, 1, "old"), line(1, 0, 2, "old"), line(0, 0, 3, "new"), line(0, 0, 4, "new"), line(1, 9, 5, "new")}
	messages := func(keep bool) (n []int) {
		for _, r := range current(all, &s, keep) {
			n = append(n, r.Figures.Messages)
		}
		slices.Sort(n)
		return n
	}
	if got := messages(false); !reflect.DeepEqual(got, []int{4}) {
		t.Error("of the last revision the last of each round:", got)
	}
	if got := messages(true); !reflect.DeepEqual(got, []int{2, 4}) {
		t.Error("of all revisions:", got)
	}
}

func TestEverySuiteIsSound(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range all() {
		if seen[s.Name] {
			t.Error("twice:", s.Name)
		}
		seen[s.Name] = true
		if !named(&s, s.Base) {
			t.Errorf("%s: its base %q does not take part", s.Name, s.Base)
		}
		names := map[string]bool{}
		for _, c := range s.Contenders {
			if names[c.Name] || c.Run == nil {
				t.Errorf("%s: %s is there twice, or cannot run", s.Name, c.Name)
			}
			names[c.Name] = true
		}
		for _, g := range s.Targets {
			for _, name := range []string{g.Who, g.Of, g.Above} {
				if name != "" && !names[name] {
					t.Errorf("%s: target %q about %q, who does not take part", s.Name, targetText(&g), name)
				}
			}
			if g.Min == 0 && g.Max == 0 {
				t.Errorf("%s: a target without bounds: %s", s.Name, targetText(&g))
			}
		}
	}
}

func TestFlags(t *testing.T) {
	o, err := parse([]string{"-suite", "^rabbitmq-consume$", "-contender", "^(gombu|raw)$", "-for", "1s"}, io.Discard)
	if err != nil || !o.fixed {
		t.Fatal(o, err)
	}
	picked := pick(all(), o)
	if len(picked) != 1 || len(picked[0].Contenders) != 2 {
		t.Error(fmt.Sprint(picked))
	}
	for _, wrong := range [][]string{{"-suite", "("}, {"more"}, {"-no-such-flag"}} {
		if _, err := parse(wrong, io.Discard); err == nil {
			t.Error("accepted:", wrong)
		}
	}
}

// Command bench does the same work with Gombu and with what its users would
// pick instead, in turns, and says how they compare: go run ./bench -list.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"syscall"
	"time"

	"github.com/gombu/gombu/bench/codecs"
	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/memory"
	"github.com/gombu/gombu/bench/rabbitmq"
	"github.com/gombu/gombu/bench/redis"
)

// all are the suites, in the order in which they run.
func all() []contender.Suite {
	return slices.Concat(rabbitmq.Suites(), redis.Suites(), memory.Suites(), codecs.Suites())
}

type options struct {
	suite, contender   *regexp.Regexp
	rounds, repeats    int
	duration           time.Duration
	results, doc       string
	list, smoke        bool
	reportOnly, keep   bool
	fixed              bool // the duration was given: it holds for every suite
	child, growth      bool
	cpuProfile, memory string
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(stderr)
	pattern := func(dst **regexp.Regexp, name, usage string) {
		*dst = regexp.MustCompile("")
		f.Func(name, usage, func(s string) (err error) { *dst, err = regexp.Compile(s); return err })
	}
	pattern(&o.suite, "suite", "run the suites that match this `regexp`")
	pattern(&o.contender, "contender", "run the contenders that match this `regexp`")
	f.IntVar(&o.rounds, "rounds", 3, "rounds of each suite")
	f.IntVar(&o.repeats, "repeats", 2, "how often a run is repeated while others use more than half a core")
	f.DurationVar(&o.duration, "for", 2*time.Second, "`length` of each run; given, it holds for suites with a length of their own too")
	f.StringVar(&o.results, "results", "bench/results", "`folder` of the results; runs that are there are not run again")
	f.StringVar(&o.doc, "doc", "docs/benchmarks.md", "`file` that the report of all suites is written to; empty: none")
	f.BoolVar(&o.list, "list", false, "list suites and contenders")
	f.BoolVar(&o.growth, "growth", false, "measure how costs grow with queues, bindings, publishers, waiting messages, bytes and consumers, and no suite; -suite then picks tables, as \"memory: queues\"")
	f.BoolVar(&o.smoke, "smoke", false, "run everything for a moment, and judge nothing")
	f.BoolVar(&o.reportOnly, "report", false, "run nothing: print and write the report of the results")
	f.BoolVar(&o.keep, "keep", false, "use results of other revisions too")
	f.StringVar(&o.cpuProfile, "cpuprofile", "", "write CPU profiles of contenders in Go to this `folder`")
	f.StringVar(&o.memory, "memprofile", "", "write allocation profiles of contenders in Go to this `folder`")
	f.BoolVar(&o.child, "child", false, "do one job; for the runner's own use")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if f.NArg() > 0 {
		return nil, fmt.Errorf("arguments: %q", f.Args())
	}
	f.Visit(func(f *flag.Flag) { o.fixed = o.fixed || f.Name == "for" })
	if o.smoke {
		o.rounds, o.repeats, o.duration, o.fixed = 1, 0, 200*time.Millisecond, true
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if o.child {
		return child(ctx, all(), stdin, stdout)
	}
	suites := pick(all(), o)
	if o.growth {
		suites = all() // the tables of growth are picked
	}
	switch {
	case len(suites) == 0:
		return errors.New("no suite has such a name, or none of its contenders has")
	case o.list:
		for _, s := range suites {
			fmt.Fprintf(stdout, "%-36s", s.Name)
			for _, c := range s.Contenders {
				fmt.Fprint(stdout, " ", c.Name)
			}
			fmt.Fprintln(stdout)
		}
		return nil
	}
	if o.smoke {
		dir, err := os.MkdirTemp("", "gombu-bench-smoke-")
		if err != nil {
			return err
		}
		defer func() { _ = os.RemoveAll(dir) }() // its results are not kept
		o.results = dir
	}
	if o.growth && !o.reportOnly {
		if err := grow(ctx, o, stderr); err != nil {
			return err
		}
	} else if !o.reportOnly {
		if err := race(ctx, o, suites, stderr); err != nil {
			return err
		}
	}
	if o.smoke {
		return nil
	}
	return report(ctx, o, suites, stdout)
}

// pick are the suites and contenders that were asked for.
func pick(suites []contender.Suite, o *options) []contender.Suite {
	var picked []contender.Suite
	for _, s := range suites {
		s.Contenders = slices.DeleteFunc(slices.Clone(s.Contenders), func(c contender.Contender) bool { return !o.contender.MatchString(c.Name) })
		if o.suite.MatchString(s.Name) && len(s.Contenders) > 0 {
			picked = append(picked, s)
		}
	}
	return picked
}

// race starts what the suites need and runs them.
func race(ctx context.Context, o *options, suites []contender.Suite, log io.Writer) error {
	for _, dir := range []string{o.cpuProfile, o.memory} {
		if dir == "" {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	b := newBrokers(suites)
	defer b.close()
	r := &runner{
		rounds: o.rounds, repeats: o.repeats, duration: o.duration, fixed: o.fixed, keep: o.keep, smoke: o.smoke,
		revision: revision(ctx), results: o.results, log: log, now: time.Now,
	}
	bench := &process{brokers: b, cpuProfile: o.cpuProfile, memProfile: o.memory, small: o.smoke, rates: map[string]float64{}}
	r.measure = bench.measure
	return r.run(ctx, suites)
}

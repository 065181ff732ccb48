package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// A run with more than this many cores of foreign CPU is a noisy one.
const quiet = 0.5

// A runner runs suites: rounds of all contenders, in an order that is rotated,
// so that each comes early and late and what happens to the machine meanwhile
// happens to all.
type runner struct {
	rounds, repeats int
	duration        time.Duration
	fixed, keep     bool
	smoke           bool
	revision        string
	results         string // folder
	log             io.Writer
	now             func() time.Time
	mu              sync.Mutex // of log
	// measure does one job, on fresh queues.
	measure func(ctx context.Context, s *contender.Suite, c *contender.Contender, job contender.Job) (contender.Figures, error)
}

func (r *runner) run(ctx context.Context, suites []contender.Suite) error {
	if !r.smoke {
		return r.series(ctx, suites)
	}
	// Nobody looks at the figures: the brokers may work at the same time.
	series := map[string][]contender.Suite{}
	for _, s := range suites {
		series[s.Broker] = append(series[s.Broker], s)
	}
	var wg sync.WaitGroup
	errs := make(chan error, len(series))
	for _, some := range series {
		wg.Go(func() { errs <- r.series(ctx, some) })
	}
	wg.Wait()
	close(errs)
	var all []error
	for err := range errs {
		all = append(all, err)
	}
	return errors.Join(all...)
}

func (r *runner) sayf(format string, args ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	fmt.Fprintf(r.log, format, args...)
}

// series runs suites one after the other.
func (r *runner) series(ctx context.Context, suites []contender.Suite) error {
	var errs []error
	for i := range suites {
		s := &suites[i]
		r.sayf("%s (%d of %d)\n", s.Name, i+1, len(suites))
		if err := r.suite(ctx, s); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.Name, err))
		}
		if ctx.Err() != nil {
			break
		}
	}
	return errors.Join(errs...)
}

func (r *runner) suite(ctx context.Context, s *contender.Suite) error {
	file, err := openResults(r.results, s.Name)
	if err != nil {
		return err
	}
	defer file.close()
	var errs []error
	broken := map[string]bool{} // contenders that failed: their next rounds would too
	for round := range r.rounds {
		for i := range s.Contenders {
			c := &s.Contenders[(round+i)%len(s.Contenders)]
			res := result{Suite: s.Name, Contender: c.Name, Round: round, Job: r.job(s), Revision: r.revision}
			if broken[c.Name] || file.has(&res, r.keep) {
				continue
			}
			if err := r.one(ctx, s, c, &res); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				r.sayf("  %-20s round %d: %v\n", c.Name, round+1, err)
				errs = append(errs, fmt.Errorf("%s: %w", c.Name, err))
				broken[c.Name] = true
				continue
			}
			if err := file.add(&res); err != nil {
				return err
			}
		}
	}
	return errors.Join(errs...)
}

// job is the suite's, with its length.
func (r *runner) job(s *contender.Suite) contender.Job {
	job := s.Job
	if job.For == 0 || r.fixed {
		job.For = r.duration
	}
	return job
}

// one measures one contender, again while the machine is busy with other
// things, and keeps the quietest of its runs.
func (r *runner) one(ctx context.Context, s *contender.Suite, c *contender.Contender, res *result) error {
	for try := range r.repeats + 1 {
		f, err := r.measure(ctx, s, c, res.Job)
		if err == nil && f.Messages == 0 && r.smoke {
			job := res.Job
			job.For *= 10 // a library that polls may sleep through a moment
			f, err = r.measure(ctx, s, c, job)
		}
		if err != nil {
			return err
		}
		if f.Messages == 0 && res.Job.Work != contender.Idle {
			return errors.New("no message was counted")
		}
		if try == 0 || foreign(f) < foreign(res.Figures) {
			res.Figures = f
		}
		if res.Tries = try + 1; foreign(res.Figures) <= quiet {
			break
		}
	}
	res.At = r.now().UTC().Truncate(time.Second)
	res.Noisy = foreign(res.Figures) > quiet
	mark := ""
	if res.Noisy {
		mark = ", noisy"
	}
	r.sayf("  %-20s round %d: %s msg/s, foreign %.2f cores%s\n", c.Name, res.Round+1,
		thousands(figure(contender.Rate, res.Figures)), foreign(res.Figures), mark)
	return nil
}

// foreign is how many cores others used.
func foreign(f contender.Figures) float64 {
	if f.Elapsed <= 0 {
		return 0
	}
	return float64(f.Foreign) / float64(f.Elapsed)
}

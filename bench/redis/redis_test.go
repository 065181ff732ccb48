package redis

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/ours"
	"github.com/gombu/gombu/gombutest/server"
)

// started is a private Redis that keeps nothing.
func started(tb testing.TB) *server.Server {
	tb.Helper()
	s, err := server.Redis(tb.TempDir(), "--appendonly", "no")
	if errors.Is(err, server.ErrMissing) && os.Getenv("CI") == "" {
		tb.Skipf("%v: run scripts/install", err)
	}
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(s.Close)
	if err := s.Start(tb.Context()); err != nil {
		tb.Fatal(err)
	}
	return s
}

// do runs one job.
func do(tb testing.TB, c contender.Contender, job contender.Job, setUp func()) contender.Figures {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Minute)
	defer cancel()
	if job.Work == contender.Consume {
		fill := c.Fill
		if fill == nil {
			fill = ours.Fill
		}
		if err := fill(ctx, job); err != nil {
			tb.Fatal("fill:", err)
		}
	}
	m := contender.NewMeter(job)
	setUp()
	if err := c.Run(ctx, job, m); err != nil {
		tb.Fatal(err)
	}
	return m.Figures()
}

// Every contender does some messages of every kind of work, and Gombu and the
// limit of every suite.
func TestSuites(t *testing.T) {
	s := started(t)
	done := map[string]bool{}
	for _, suite := range Suites() {
		for _, c := range suite.Contenders {
			if c.Name == "kombu" {
				continue // see package python
			}
			if key := c.Name + suite.Job.Work; done[key] && c.Name != "gombu" && c.Name != "limit" {
				continue
			} else {
				done[key] = true
			}
			t.Run(suite.Name+"/"+c.Name, func(t *testing.T) {
				job := suite.Job
				job.URL, job.Queues, job.Messages, job.For = s.URL(), []string{t.Name()}, 200, 0
				if job.Size == large {
					job.Messages = 20
				}
				if f := do(t, c, job, func() {}); f.Messages < job.Messages {
					t.Errorf("%d messages", f.Messages)
				} else {
					t.Logf("%+v", f)
				}
			})
		}
	}
}

// BenchmarkSuites is for profiles: -bench 'Suites/redis-consume-100$/^gombu$'.
func BenchmarkSuites(b *testing.B) {
	s := started(b)
	for _, suite := range Suites() {
		for _, c := range suite.Contenders {
			b.Run(suite.Name+"/"+c.Name, func(b *testing.B) {
				job := suite.Job
				job.URL, job.Queues, job.Messages, job.For = s.URL(), []string{b.Name() + time.Now().String()}, b.N, 0
				job.ServerPIDs = []int{s.Pid()}
				f := do(b, c, job, b.ResetTimer)
				n := float64(f.Messages)
				b.ReportMetric(n/f.Elapsed.Seconds(), "msg/s")
				b.ReportMetric(float64(f.Client.Microseconds())/n, "client-µs/msg")
				b.ReportMetric(float64(f.Server.Microseconds())/n, "server-µs/msg")
				b.ReportMetric(float64(f.Allocs)/n, "allocs/msg")
				if f.P50 > 0 {
					b.ReportMetric(float64(f.P50.Microseconds()), "p50-µs")
					b.ReportMetric(float64(f.P99.Microseconds()), "p99-µs")
				}
			})
		}
	}
}

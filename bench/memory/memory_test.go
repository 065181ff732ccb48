package memory

import (
	"context"
	"testing"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// do runs one job in this process.
func do(tb testing.TB, c contender.Contender, job contender.Job, setUp func()) contender.Figures {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Minute)
	defer cancel()
	m := contender.NewMeter(job)
	setUp()
	if err := c.Run(ctx, job, m); err != nil {
		tb.Fatal(err)
	}
	return m.Figures()
}

// Every contender of every suite does some messages.
func TestSuites(t *testing.T) {
	for _, suite := range Suites() {
		for _, c := range suite.Contenders {
			if c.Name == "kombu" {
				continue // see package python
			}
			t.Run(suite.Name+"/"+c.Name, func(t *testing.T) {
				job := suite.Job
				job.Queues, job.Messages = []string{t.Name()}, 1000
				if job.Size > 1000 {
					job.Messages = 20
				}
				if f := do(t, c, job, func() {}); f.Messages < job.Messages {
					t.Errorf("%d messages", f.Messages)
				}
			})
		}
	}
}

// BenchmarkSuites is for profiles: -bench 'Suites/memory-e2e$/^gombu$'.
func BenchmarkSuites(b *testing.B) {
	for _, suite := range Suites() {
		for _, c := range suite.Contenders {
			if c.Name == "kombu" {
				continue // it has no b.N
			}
			b.Run(suite.Name+"/"+c.Name, func(b *testing.B) {
				job := suite.Job
				job.Queues, job.Messages = []string{b.Name()}, b.N
				f := do(b, c, job, b.ResetTimer)
				n := float64(f.Messages)
				b.ReportMetric(n/f.Elapsed.Seconds(), "msg/s")
				b.ReportMetric(float64(f.Client.Nanoseconds())/n, "client-ns/msg")
				b.ReportMetric(float64(f.Allocs)/n, "allocs/msg")
			})
		}
	}
}

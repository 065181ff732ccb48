package redis

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/loop"
	"github.com/gombu/gombu/gombutest/server"
	_ "github.com/gombu/gombu/transport/redis"
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

// mine is Gombu.
type mine struct {
	job  contender.Job
	conn *gombu.Conn
}

func dialMine(ctx context.Context, job contender.Job) (loop.Peer, error) {
	conn, err := gombu.Open(job.URL, nil)
	if err != nil {
		return nil, err
	}
	m := &mine{job, conn}
	return m, conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: job.Queues[0]}}})
}

func (g *mine) Close() { _ = g.conn.Close() }

func (g *mine) Publish(ctx context.Context, src *loop.Source) error {
	p := g.conn.Producer(nil)
	var batch []*gombu.Message
	for n := src.Next(ctx, src.Batch()); n > 0; n = src.Next(ctx, src.Batch()) {
		batch = batch[:0]
		for range n {
			m := &gombu.Message{Queue: g.job.Queues[0]}
			if g.job.Raw {
				m.Body, _ = src.Body()
			} else {
				m.Value = src.Value()
			}
			batch = append(batch, m)
		}
		var err error
		if n == 1 {
			err = p.Publish(ctx, batch[0])
		} else {
			err = p.PublishBatch(ctx, batch, nil)
		}
		if err != nil {
			return err
		}
		src.Done(n)
	}
	return nil
}

func (g *mine) Consume(ctx context.Context, dst *loop.Sink) error {
	return g.conn.Run(ctx, gombu.ConsumerConfig{Queues: g.job.Queues, Prefetch: g.job.Prefetch}, func(_ context.Context, d *gombu.Delivery) error {
		var b contender.Body
		if !g.job.Raw {
			if err := d.Decode(&b); err != nil {
				return err
			}
			dst.Decoded(&b)
		}
		dst.Done(1)
		return nil
	})
}

var gombuItself = loop.Contender("gombu", loop.Ours(), dialMine)

// fillKombu is what a suite without a filler of its own consumes.
var fillKombu = loop.Filler(loop.Ours(), 1, 0, dialLimit)

// do runs one job.
func do(tb testing.TB, c contender.Contender, job contender.Job, setUp func()) contender.Figures {
	tb.Helper()
	ctx, cancel := context.WithTimeout(tb.Context(), 5*time.Minute)
	defer cancel()
	if job.Work == contender.Consume {
		fill := c.Fill
		if fill == nil {
			fill = fillKombu
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

// Every contender of every suite does 200 messages.
func TestSuites(t *testing.T) {
	s := started(t)
	for _, suite := range Suites() {
		for _, c := range append(suite.Contenders, gombuItself) {
			t.Run(suite.Name+"/"+c.Name, func(t *testing.T) {
				job := suite.Job
				job.URL, job.Queues, job.Messages, job.For = s.URL(), []string{t.Name()}, 200, 0
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
		for _, c := range append(suite.Contenders, gombuItself) {
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

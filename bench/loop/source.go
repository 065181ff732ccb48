package loop

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// A Source gives the messages to publish. It is safe for several goroutines.
type Source struct {
	job    contender.Job
	meter  *contender.Meter
	bodies Bodies
	flow   *contender.Flow // nil: whoever publishes need not wait
	given  atomic.Int64
	start  time.Time
	body   contender.Body
	raw    []byte
}

func newSource(job contender.Job, m *contender.Meter, bodies Bodies, flow *contender.Flow) *Source {
	return &Source{job: job, meter: m, bodies: bodies, flow: flow, start: time.Now(), body: contender.NewBody(job.Size), raw: contender.JSON(job.Size)}
}

// Next says how many messages to publish now, n at most; 0: it is over. It
// waits: for its turn at a rate, or for the consumers.
func (s *Source) Next(ctx context.Context, n int) int {
	switch s.job.Work {
	case contender.Latency:
		i := s.given.Add(1)
		due := time.NewTimer(time.Until(s.start.Add(time.Duration(i) * time.Second / time.Duration(s.job.Rate))))
		defer due.Stop()
		select {
		case <-due.C:
			n = 1
		case <-ctx.Done():
			return 0
		case <-s.meter.Finished():
			return 0
		}
	case contender.EndToEnd:
		for range n {
			if !s.flow.Take(s.meter) {
				return 0
			}
		}
	case contender.Publish:
		if left := int64(s.job.Messages) - s.given.Add(int64(n)) + int64(n); s.job.Messages > 0 && left < int64(n) {
			n = int(max(0, left))
		}
	}
	if s.meter.Over() || ctx.Err() != nil {
		return 0
	}
	return n
}

// Body is that of the next message. Raw ones are shared: they are only read.
func (s *Source) Body() ([]byte, error) {
	if s.job.Raw {
		return s.raw, nil
	}
	return s.bodies.Encode(s.Value())
}

// Value is what the next message's body says.
func (s *Source) Value() *contender.Body {
	b := s.body
	if s.job.Work == contender.Latency {
		b.Sent = time.Now().UnixNano()
	}
	return &b
}

// Batch is how many messages one call may take.
func (s *Source) Batch() int { return max(1, s.job.Batch) }

// Done says that n messages are published.
func (s *Source) Done(n int) {
	if s.job.Work == contender.Publish {
		s.meter.Add(n)
	}
}

func since(nanos int64) time.Duration { return time.Duration(time.Now().UnixNano() - nanos) }

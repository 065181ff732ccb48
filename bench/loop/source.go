package loop

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// A Source gives the messages to publish. It is safe for several goroutines.
type Source struct {
	job     contender.Job
	meter   *contender.Meter
	bodies  Bodies
	backlog *backlog
	given   atomic.Int64
	start   time.Time
	body    contender.Body
	raw     []byte
}

func newSource(job contender.Job, m *contender.Meter, bodies Bodies, b *backlog) *Source {
	return &Source{job: job, meter: m, bodies: bodies, backlog: b, start: time.Now(), body: contender.NewBody(job.Size), raw: make([]byte, job.Size)}
}

// Next says how many messages to publish now, n at most; 0: it is over. It
// waits: for its turn at a rate, for room in the backlog.
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
		if !s.backlog.room(ctx) {
			return 0
		}
	case contender.Publish:
		if left := int64(s.job.Messages) - s.given.Add(int64(n)) + int64(n); s.job.Messages > 0 && left < int64(n) {
			n = int(max(0, left))
		}
	}
	if s.meter.Over() || ctx.Err() != nil {
		return 0
	}
	s.backlog.add(n)
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

// A backlog is what is published and not yet acknowledged. Who publishes faster
// than the other half consumes waits, else the queue would grow all the time.
type backlog struct {
	bound int64
	n     atomic.Int64
	over  <-chan struct{}
	mu    sync.Mutex
	space chan struct{} // closed when there is room again; nil: nobody waits
}

func newBacklog(job contender.Job, m *contender.Meter) *backlog {
	return &backlog{bound: int64(max(1000, 3*job.Prefetch)), over: m.Finished()}
}

func (b *backlog) add(n int) {
	if left := b.n.Add(int64(n)); n > 0 || left > b.bound/2 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.space != nil {
		close(b.space)
		b.space = nil
	}
}

func (b *backlog) room(ctx context.Context) bool {
	for b.n.Load() >= b.bound {
		b.mu.Lock()
		if b.space == nil {
			b.space = make(chan struct{})
		}
		space := b.space
		b.mu.Unlock()
		if b.n.Load() <= b.bound/2 { // between the first look and now
			b.add(0)
			continue
		}
		select {
		case <-space:
		case <-ctx.Done():
			return false
		case <-b.over:
			return false
		}
	}
	return true
}

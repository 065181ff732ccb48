// Package bench measures what a broker does for one process: publishing,
// consuming, both at once, and the latency between them.
package bench

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu"
)

// The kinds of work, in the order in which they are measured.
const (
	Publish  = "publish"
	Consume  = "consume"
	EndToEnd = "e2e"
	Latency  = "latency"
)

// Works are all kinds of work.
func Works() []string { return []string{Publish, Consume, EndToEnd, Latency} }

// A Config says what to measure.
type Config struct {
	Works     []string
	Size      int           // bytes of a body
	For       time.Duration // each work's length; Consume ends when all is consumed
	Messages  int           // in the queue at most; so many are published before they are consumed
	Producers int           // goroutines
	Window    int           // unanswered messages of each producer
	Unsafe    bool          // transient, unconfirmed
	Prefetch  int
	Workers   int
	Rate      int // Latency: messages a second
	Args      gombu.Headers
}

// A Result is what one work came to.
type Result struct {
	Work     string        `json:"work"`
	Messages int           `json:"messages"`
	Took     time.Duration `json:"took_ns"`
	Rate     float64       `json:"rate"` // messages a second
	Bytes    float64       `json:"bytes_per_second"`
	Failed   int           `json:"failed,omitempty"` // publishes without a confirm
	P50      time.Duration `json:"p50_ns,omitempty"` // from publish to handler
	P90      time.Duration `json:"p90_ns,omitempty"`
	P99      time.Duration `json:"p99_ns,omitempty"`
	Max      time.Duration `json:"max_ns,omitempty"`
}

// String is one line.
func (r Result) String() string {
	s := fmt.Sprintf("%-8s %9.0f messages/s %8.1f MB/s   %d in %v", r.Work, r.Rate, r.Bytes/1e6, r.Messages, r.Took.Round(time.Millisecond))
	if r.Max > 0 {
		round := func(d time.Duration) time.Duration { return d.Round(time.Microsecond) }
		s += fmt.Sprintf("   p50 %v  p90 %v  p99 %v  max %v", round(r.P50), round(r.P90), round(r.P99), round(r.Max))
	}
	if r.Failed > 0 {
		s += fmt.Sprintf("   %d failed", r.Failed)
	}
	return s
}

// Progress is told while a work runs, from one goroutine.
type Progress func(work string, published, consumed int)

// Run measures on a queue of its own, which it deletes at the end, also when ctx
// ends first. The results so far come with an error.
func Run(ctx context.Context, conn *gombu.Conn, cfg Config, tell Progress) (results []Result, err error) {
	queue := "gombu.bench." + strings.ToLower(rand.Text()[:10])
	topology := gombu.Topology{Queues: []gombu.Queue{{Name: queue, Args: cfg.Args}}}
	if err := conn.Declare(ctx, topology); err != nil {
		return nil, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
		defer cancel()
		if derr := conn.Delete(ctx, topology, nil); derr != nil && !errors.Is(derr, gombu.ErrNotFound) {
			err = errors.Join(err, fmt.Errorf("queue %s was not deleted: %w", queue, derr))
		}
	}()
	for _, work := range cfg.Works {
		b := &bench{cfg: cfg, conn: conn, queue: queue, work: work}
		r, err := b.run(ctx, tell)
		if err != nil {
			return results, fmt.Errorf("%s: %w", work, err)
		}
		results = append(results, r)
		if _, err := conn.Purge(ctx, queue); err != nil && !errors.Is(err, gombu.ErrNotFound) {
			return results, err
		}
	}
	return results, nil
}

// A bench is one work.
type bench struct {
	cfg         Config
	conn        *gombu.Conn
	queue, work string

	published, consumed, failed atomic.Int64

	mu    sync.Mutex
	waits []time.Duration
	last  error // a publish's
}

func (b *bench) run(ctx context.Context, tell Progress) (Result, error) {
	watched, stop := context.WithCancel(ctx)
	var watch sync.WaitGroup
	defer watch.Wait()
	defer stop()
	if tell != nil {
		watch.Go(func() { b.watch(watched, tell) })
	}
	var took time.Duration
	var err error
	done := &b.consumed
	switch b.work {
	case Publish:
		took, err = b.publish(ctx, b.cfg.For)
		done = &b.published
	case Consume:
		if _, err = b.publish(ctx, 0); err == nil {
			took, err = b.consume(ctx, nil)
		}
	case EndToEnd, Latency:
		took, err = b.consume(ctx, func(ctx context.Context) error {
			_, err := b.publish(ctx, b.cfg.For)
			return err
		})
	}
	if err != nil {
		return Result{}, err
	}
	if b.published.Load() == 0 {
		return Result{}, b.last
	}
	n := int(done.Load())
	r := Result{Work: b.work, Messages: n, Took: took, Failed: int(b.failed.Load())}
	r.Rate = float64(n) / took.Seconds()
	r.Bytes = r.Rate * float64(b.cfg.Size)
	slices.Sort(b.waits)
	if n := len(b.waits); n > 0 {
		r.P50, r.P90, r.P99, r.Max = b.waits[n/2], b.waits[n*9/10], b.waits[n*99/100], b.waits[n-1]
	}
	return r, nil
}

func (b *bench) watch(ctx context.Context, tell Progress) {
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			tell(b.work, int(b.published.Load()), int(b.consumed.Load()))
		case <-ctx.Done():
			return
		}
	}
}

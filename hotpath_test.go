package gombu_test

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/transport/memory"
)

// hotPath publishes n raw bodies through an exchange, one at a time, while a
// consumer takes and acks them, and returns when all were handled.
func hotPath(tb testing.TB, n int) func() {
	tb.Helper()
	conn := gombu.New(memory.New(memory.Config{}), nil)
	ctx, stop := context.WithCancel(tb.Context())
	if err := conn.Declare(ctx, gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: "media", Type: gombu.Topic}},
		Queues:    []gombu.Queue{{Name: "video"}},
		Bindings:  []gombu.Binding{{Exchange: "media", Queue: "video", Key: "video.*"}},
	}); err != nil {
		tb.Fatal(err)
	}
	var handled atomic.Int64
	round := make(chan struct{}, 1)
	over := make(chan error, 1)
	k := conn.Consumer(gombu.ConsumerConfig{Queues: []string{"video"}, Prefetch: 256})
	go func() {
		over <- k.Run(ctx, func(context.Context, *gombu.Delivery) error {
			if handled.Add(1)%int64(n) == 0 {
				round <- struct{}{}
			}
			return nil
		})
	}()
	if err := k.Ready(ctx); err != nil {
		tb.Fatal(err)
	}
	p := conn.Producer(nil)
	m := &gombu.Message{Exchange: "media", Key: "video.new", Body: make([]byte, 256)}
	tb.Cleanup(func() {
		stop()
		if err := <-over; err != nil {
			tb.Error(err)
		}
		if err := conn.Close(); err != nil {
			tb.Error(err)
		}
	})
	return func() {
		for range n {
			if err := p.Publish(ctx, m); err != nil {
				tb.Fatal(err)
			}
		}
		select {
		case <-round:
		case <-time.After(time.Minute):
			tb.Fatalf("only %d handled", handled.Load())
		}
	}
}

func BenchmarkHotPath(b *testing.B) {
	const n = 1000
	run := hotPath(b, n)
	run()
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		run()
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*n), "ns/message")
}

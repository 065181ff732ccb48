package memory

import (
	"context"
	"fmt"
	"log/slog"
	"testing"

	"github.com/gombu/gombu/driver"
)

func env() driver.Env {
	return driver.Env{Epoch: 1, Owner: "bench", Notify: func(driver.Event) {}, Log: slog.New(slog.DiscardHandler)}
}

// hotPath is a publish through an exchange, its delivery, and its ack.
func hotPath(tb testing.TB, bodySize int) func() {
	ctx := tb.Context()
	c, err := New(Config{}).Connect(ctx, env())
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { _ = c.Close(context.WithoutCancel(ctx)) })
	steps := []driver.Step{
		{Exchange: &driver.Exchange{Name: "x", Type: driver.TypeTopic}}, {Queue: &driver.Queue{Name: "q"}},
		{Binding: &driver.Binding{Exchange: "x", Queue: "q", Key: "a.*"}},
	}
	if err := c.Apply(ctx, steps); err != nil {
		tb.Fatal(err)
	}
	s, err := c.OpenSender(ctx, driver.SenderConfig{Window: 16})
	if err != nil {
		tb.Fatal(err)
	}
	r, err := c.OpenReceiver(ctx, driver.ReceiverConfig{Queue: "q", Prefetch: 16})
	if err != nil {
		tb.Fatal(err)
	}
	var (
		out    [1]driver.Outgoing
		in     [1]driver.Incoming
		settle [1]driver.Settlement
		body   = make([]byte, bodySize)
	)
	return func() {
		out[0] = driver.Outgoing{Exchange: "x", Key: "a.b", Body: body}
		if n, err := s.Submit(ctx, out[:]); n != 1 || err != nil || out[0].Err != nil {
			tb.Fatal(n, err, out[0].Err)
		}
		if n, err := r.Receive(ctx, in[:]); n != 1 || err != nil {
			tb.Fatal(n, err)
		}
		settle[0] = driver.Settlement{Tag: in[0].Tag}
		if err := r.Settle(ctx, settle[:]); err != nil || settle[0].Err != nil {
			tb.Fatal(err, settle[0].Err)
		}
	}
}

func BenchmarkHotPath(b *testing.B) {
	for _, size := range []int{64, 1024} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			once := hotPath(b, size)
			b.ReportAllocs()
			for b.Loop() {
				once()
			}
		})
	}
}

func TestHotPathAllocates(t *testing.T) {
	once := hotPath(t, 64)
	if n := testing.AllocsPerRun(500, once); n > 1 {
		t.Errorf("%v allocations a message, want 1: the body that the receiver owns", n)
	}
}

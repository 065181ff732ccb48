package gombu_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/transport/memory"
)

// One poison message among 1 000 good ones ends after exactly five handler
// starts, however it ends its handler, and takes nobody with it. The test with
// real brokers and processes that die is in interop.
func TestPoisonEnds(t *testing.T) {
	brokers := map[string]func() driver.Connector{
		"memory":       func() driver.Connector { return memory.New(memory.Config{}) },
		"no counts":    func() driver.Connector { f := newFake(); f.pulls, f.split = true, true; return f },
		"nothing":      func() driver.Connector { return newFake() },
		"no counts, 1": func() driver.Connector { f := newFake(); f.pulls = true; return f },
	}
	for broker, connect := range brokers {
		for _, end := range []string{"error", "panic", "closed", "abandoned"} {
			if broker == "nothing" && (end == "closed" || end == "abandoned") {
				continue // neither a count nor a way to keep one: only this process knows
			}
			for _, workers := range []int{1, 4} {
				t.Run(fmt.Sprintf("%s/%s/%d", broker, end, workers), func(t *testing.T) {
					bubble(t, func(t *testing.T) { poison(t, connect(), end, workers) })
				})
			}
		}
	}
}

type poisoned struct {
	t       *testing.T
	to      driver.Connector
	end     string
	workers int
	quit    chan struct{} // ends the handlers that were left behind

	mu      sync.Mutex
	starts  []int // attempts of the poison
	handled map[string]int
}

func poison(t *testing.T, to driver.Connector, end string, workers int) {
	const good = 1000
	p := &poisoned{t: t, to: to, end: end, workers: workers, quit: make(chan struct{}), handled: map[string]int{}}
	defer close(p.quit)
	conn := gombu.New(to, nil)
	defer conn.Close()
	must(t, declare(t.Context(), conn, "q"))
	for i := range good + 1 {
		m := &gombu.Message{Queue: "q", Value: "good", Properties: gombu.Properties{MessageID: fmt.Sprint(i)}}
		if i == good/3 {
			m.Value, m.MessageID, m.CorrelationID = "poison", "poison", "c"
			m.Headers = gombu.Headers{{Key: "own", Value: "header"}}
		}
		must(t, conn.Producer(nil).Publish(t.Context(), m))
	}
	for rounds := 0; ready(t, conn, "q")+atMost(conn, "gombu.retry.q") > 0; rounds++ {
		if rounds > 20 {
			t.Fatalf("it does not end: poison %v, %d handled, %d in the queue, %d to be retried", p.starts, len(p.handled), ready(t, conn, "q"), atMost(conn, "gombu.retry.q"))
		}
		p.life()
	}
	if fmt.Sprint(p.starts) != "[1 2 3 4 5]" {
		t.Errorf("the poison was started as attempts %v", p.starts)
	}
	if len(p.handled) != good {
		t.Errorf("%d good messages were handled, want %d", len(p.handled), good)
	}
	if n := ready(t, conn, "gombu.dead.q"); n != 1 {
		t.Fatalf("%d dead letters", n)
	}
	consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"gombu.dead.q"}}, 1, func(_ context.Context, d *gombu.Delivery) error {
		wantDeath(t, d, end)
		return nil
	})
}

// life is one program: it consumes until all is done or its end.
func (p *poisoned) life() {
	conn := gombu.New(p.to, nil)
	ctx, stop := context.WithCancel(p.t.Context())
	defer stop()
	dying := make(chan struct{}, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		err := conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 100, Workers: p.workers, Grace: time.Second}, func(ctx context.Context, d *gombu.Delivery) error {
			return p.handle(ctx, d, dying)
		})
		if err != nil && !errors.Is(err, gombu.ErrAbandoned) {
			p.t.Error(err)
		}
	})
	t := time.NewTimer(time.Minute) // virtual, and longer than all back-offs
	defer t.Stop()
	select {
	case <-t.C:
	case <-dying:
	}
	now, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
	defer cancel()
	_ = conn.Shutdown(now)
	wg.Wait()
}

func (p *poisoned) handle(ctx context.Context, d *gombu.Delivery, dying chan<- struct{}) error {
	if v, err := gombu.Decode[string](d); err != nil || v != "poison" {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.handled[d.MessageID]++
		return err
	}
	if d.Exchange != "" || d.Key != "q" || d.Queue != "q" || fmt.Sprint(d.Headers) != "[{own header}]" || d.Redelivered != (d.Attempt > 1) {
		p.t.Errorf("%v, attempt %d, redelivered %v, headers %v", d, d.Attempt, d.Redelivered, d.Headers)
	}
	p.mu.Lock()
	p.starts = append(p.starts, d.Attempt)
	p.mu.Unlock()
	switch p.end {
	case "error":
		return errors.New("poison")
	case "panic":
		panic("poison")
	}
	select {
	case dying <- struct{}{}:
	default:
	}
	if p.end == "abandoned" {
		<-p.quit
	}
	<-ctx.Done()
	return ctx.Err()
}

// atMost is how many messages wait in a queue that may not exist.
func atMost(conn *gombu.Conn, queue string) int {
	info, err := conn.Inspect(context.Background(), queue)
	if err != nil {
		return 0
	}
	return info.Ready
}

func wantDeath(t *testing.T, d *gombu.Delivery, end string) {
	t.Helper()
	if d.MessageID != "poison" || d.CorrelationID != "c" || d.Headers.Get("own") != "header" || string(d.Body) != "poison" {
		t.Errorf("dead letter %v", d)
	}
	list, _ := d.Headers.Get("x-death").([]any)
	if len(list) != 1 {
		t.Fatalf("x-death %v", d.Headers.Get("x-death"))
	}
	e := list[0].(gombu.Headers)
	first, _ := e.Get("time").(time.Time)
	last, _ := e.Get("last-time").(time.Time)
	if e.Get("queue") != "q" || e.Get("reason") != "delivery_limit" || e.Get("count") != int64(1) || e.Get("exchange") != "" ||
		fmt.Sprint(e.Get("routing-keys")) != "[q]" || e.Get("attempts") != int64(5) || first.IsZero() || !last.Equal(first) || e.Get("error") == "" {
		t.Errorf("x-death %v after %s", e, end)
	}
	for k, v := range map[string]string{"queue": "q", "reason": "delivery_limit", "exchange": ""} {
		if d.Headers.Get("x-first-death-"+k) != v {
			t.Errorf("x-first-death-%s is %v", k, d.Headers.Get("x-first-death-"+k))
		}
	}
	for _, h := range d.Headers {
		if len(h.Key) > 8 && h.Key[:8] == "x-gombu-" {
			t.Errorf("header %v", h)
		}
	}
}

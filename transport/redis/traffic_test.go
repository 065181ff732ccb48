package redis

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/wire/kombu"
)

// traffic publishes and consumes all the time and keeps the ledger.
type traffic struct {
	testing.TB
	stopOut, stopIn context.CancelFunc
	out, in         sync.WaitGroup

	mu        sync.Mutex
	sent      int
	confirmed map[string]bool
	handled   map[string]int
	last      time.Time // a message was handled that was published after the one before
	newest    map[string]int
	uncertain int

	lost atomic.Int64 // sessions
	slow atomic.Int64 // how long a handler takes

	mayLose map[string]bool // what a test destroyed itself; guarded by mu
}

// destroyed notes the ids in texts that were deleted.
func (f *traffic) destroyed(texts []string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, text := range texts {
		var in driver.Incoming
		if kombu.Decode([]byte(text), &in) == nil {
			f.mayLose[string(in.Body)] = true
		}
	}
}

// more waits until so many more were handled.
func (f *traffic) more(n int) {
	f.Helper()
	handled := func() int {
		f.mu.Lock()
		defer f.mu.Unlock()
		return len(f.handled)
	}
	start := handled()
	eventually(f, "more deliveries", func() bool { return handled() >= start+n })
}

func (f *traffic) duplicates() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := 0
	for _, times := range f.handled {
		n += times - 1
	}
	return n
}

// startTraffic has this many producers, each in order, and one consumer, with a
// Conn each.
func startTraffic(t testing.TB, url string, cfg gombu.ProducerConfig, queues ...string) *traffic {
	t.Helper()
	f := &traffic{TB: t, confirmed: map[string]bool{}, handled: map[string]int{}, newest: map[string]int{}}
	quiet := &gombu.Config{Log: slog.New(slog.DiscardHandler), OnEvent: func(e gombu.Event) {
		if e.Kind == driver.Lost {
			f.lost.Add(1)
		}
	}}
	out, in := openConn(t, url, quiet), openConn(t, url, quiet)
	sending, stopOut := context.WithCancel(context.Background())
	receiving, stopIn := context.WithCancel(context.Background())
	f.stopOut, f.stopIn = stopOut, stopIn
	t.Cleanup(f.stop)
	for _, q := range queues {
		c := cfg
		c.Key = q // of an exchange too
		p := out.Producer(&c)
		f.out.Go(func() { f.produce(sending, p, q) })
	}
	f.in.Go(func() {
		err := in.Run(receiving, gombu.ConsumerConfig{Queues: queues, Prefetch: 20, Workers: 4}, func(_ context.Context, d *gombu.Delivery) error {
			if d := time.Duration(f.slow.Load()); d > 0 {
				<-time.After(d) // work
			}
			f.note(d.Queue, string(d.Body))
			return nil
		})
		if err != nil && receiving.Err() == nil {
			t.Error(err)
		}
	})
	f.resume("the beginning")
	return f
}

func (f *traffic) produce(ctx context.Context, p *gombu.Producer, queue string) {
	for i := 0; ctx.Err() == nil; i++ {
		id := fmt.Sprintf("%s-%06d", queue, i)
		one, cancel := context.WithTimeout(ctx, 5*time.Second)
		err := p.Publish(one, &gombu.Message{Body: []byte(id)})
		cancel()
		f.mu.Lock()
		f.sent++
		if err == nil {
			f.confirmed[id] = true
		} else {
			f.uncertain++
		}
		f.mu.Unlock()
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Millisecond): // some hundred a second are load enough for a shared machine
		}
	}
}

func (f *traffic) note(queue, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.handled[id]++
	var n int
	_, _ = fmt.Sscanf(id[strings.LastIndexByte(id, '-')+1:], "%d", &n)
	if n > f.newest[queue] {
		f.newest[queue], f.last = n, time.Now()
	}
}

// resume waits until every queue has delivered what was published from now on.
func (f *traffic) resume(after string) time.Duration {
	f.Helper()
	start := time.Now()
	f.mu.Lock()
	mark := maps.Clone(f.newest)
	f.mu.Unlock()
	eventually(f, "deliveries after "+after, func() bool {
		f.mu.Lock()
		defer f.mu.Unlock()
		for q, n := range f.newest {
			if n <= mark[q]+1 {
				return false
			}
		}
		return len(f.newest) > 0
	})
	return time.Since(start)
}

func (f *traffic) stop() {
	f.stopOut()
	f.out.Wait()
	f.stopIn()
	f.in.Wait()
}

// settled stops producing and waits until all that was confirmed was handled.
func (f *traffic) settled(within time.Duration) {
	f.Helper()
	f.stopOut()
	f.out.Wait()
	end := time.Now().Add(within)
	for {
		f.mu.Lock()
		missing := []string{}
		twice := 0
		for id := range f.confirmed {
			switch n := f.handled[id]; {
			case n == 0 && f.mayLose[id]:
			case n == 0:
				missing = append(missing, id)
			case n > 1:
				twice += n - 1
			}
		}
		total, confirmed, uncertain := f.sent, len(f.confirmed), f.uncertain
		f.mu.Unlock()
		if len(missing) == 0 {
			f.Logf("sent %d, confirmed %d, unconfirmed %d, duplicates %d, lost 0", total, confirmed, uncertain, twice)
			return
		}
		if time.Now().After(end) {
			slices.Sort(missing)
			f.Fatalf("lost %d of %d confirmed: %q", len(missing), confirmed, missing[:min(10, len(missing))])
		}
		time.Sleep(20 * time.Millisecond) // between looks
	}
}

package redis

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// commandsRun is how often the server ran each command, within scripts too.
func commandsRun(t testing.TB, addr string) map[string]int {
	t.Helper()
	m, err := ask(addr, "INFO", "commandstats")
	text, err2 := m.ToString()
	if err != nil || err2 != nil {
		t.Fatal(err, err2)
	}
	all := map[string]int{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":calls=")
		name = strings.TrimPrefix(name, "cmdstat_")
		if !ok || name == "info" || name == "hello" || name == "client|setinfo" { // who asks
			continue
		}
		calls, _, _ := strings.Cut(rest, ",")
		all[name], _ = strconv.Atoi(calls)
	}
	return all
}

// A process that has nothing to do sends at most five commands a second, those
// of its scripts counted too: it consumes from many queues, is bound, listens to
// a fan-out, and has published.
func TestAProcessAtRestAsksLittle(t *testing.T) {
	t.Parallel()
	v := startServer(t)
	c := openConn(t, "redis://"+v.addr, nil)
	topology := gombu.Topology{Exchanges: []gombu.Exchange{{Name: "x", Type: gombu.Direct}, {Name: "f", Type: gombu.Fanout}}}
	var queues []string
	for i := range 20 {
		q := fmt.Sprintf("q%d", i)
		queues = append(queues, q)
		topology.Queues = append(topology.Queues, gombu.Queue{Name: q})
		topology.Bindings = append(topology.Bindings, gombu.Binding{Exchange: "x", Queue: q, Key: q})
	}
	topology.Queues = append(topology.Queues, gombu.Queue{Name: "listens"})
	topology.Bindings = append(topology.Bindings, gombu.Binding{Exchange: "f", Queue: "listens"})
	if err := c.Declare(soon(t), topology); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	handled := make(chan struct{}, 100)
	for i := range 8 {
		cfg := gombu.ConsumerConfig{Queues: queues}
		if i == 0 {
			cfg.Queues = append([]string{"listens"}, queues...)
		}
		k := c.Consumer(cfg)
		wg.Go(func() {
			_ = k.Run(ctx, func(context.Context, *gombu.Delivery) error { handled <- struct{}{}; return nil })
		})
		if err := k.Ready(soon(t)); err != nil {
			t.Fatal(err)
		}
	}
	p := c.Producer(nil)
	for _, m := range []*gombu.Message{{Exchange: "x", Key: "q7"}, {Exchange: "f"}} {
		if err := p.Publish(soon(t), m); err != nil {
			t.Fatal(err)
		}
		select {
		case <-handled:
		case <-soon(t).Done():
			t.Fatal("nothing comes")
		}
	}
	<-time.After(2 * beatEvery) // until it rests
	const span = 8 * time.Second
	before, since := commandsRun(t, v.addr), time.Now()
	<-time.After(span)
	after, took := commandsRun(t, v.addr), time.Since(since).Seconds()
	sum, which := 0, map[string]int{}
	for name, n := range after {
		if n -= before[name]; n > 0 {
			which[name], sum = n, sum+n
		}
	}
	t.Logf("%.1f commands a second: %v", float64(sum)/took, which)
	if float64(sum) > 5*took+6 { // the span may see one heartbeat more
		t.Errorf("%.1f commands a second: %v", float64(sum)/took, which)
	}
}

// The heartbeat that was left out is made up for by who gets claims.
func TestClaimsHurryTheHeartbeat(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	score := func() float64 {
		v, _ := t.do("ZSCORE", ownersKey, s.env.Owner).AsFloat64()
		return v
	}
	for range 3 {
		eventually(t, "a heartbeat that is left out", func() bool { return s.beatAge() > beatEvery+100*time.Millisecond })
		before, at := score(), time.Now()
		t.push(s, "q", "a")
		got := t.claim(s, 1, "q")
		eventually(t, "a heartbeat", func() bool { return score() > before })
		if took := time.Since(at); took > 300*time.Millisecond+raceSlack {
			t.Errorf("a heartbeat after %v", took)
		}
		t.mustSettle(s, driver.Ack, got...)
	}
}

// What many own lists drop at the same time goes together, and what is not the
// oldest, or mirrored, the other way.
func TestManyListsAreAckedTogether(tt *testing.T) {
	tt.Parallel()
	v := startServer(tt)
	t := &tester{TB: tt, config: Config{Addr: v.addr}, raw: rawClient(tt, v.addr, 0)}
	s, _ := t.open()
	const lists = 300
	claims := make([][]virtual.Claim, lists)
	for i := range claims {
		q := fmt.Sprintf("q%d", i)
		t.push(s, q, "a", "b", "c", "d")
		claims[i] = t.claim(s, 4, q)
	}
	n := t.counted("evalsha", func() {
		var wg sync.WaitGroup
		defer wg.Wait()
		for _, got := range claims {
			wg.Go(func() {
				for _, k := range []int{0, 2, 1, 3} { // the second only after the third
					t.mustSettle(s, driver.Ack, got[k])
				}
			})
		}
	})
	t.Logf("%d scripts for %d settles", n, 4*lists)
	left, _ := t.do("KEYS", ownKey+"*").AsStrSlice()
	want(t, "own lists that are left", len(left), 0)
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.own {
		want(t, "open in "+l.list, len(l.open), 0)
	}
}

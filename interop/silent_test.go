package interop

import (
	"context"
	"net/http"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/gombutest/ledger"
	"github.com/gombu/gombu/gombutest/proxy"
	"github.com/gombu/gombu/gombutest/server"
)

// resumed is how soon deliveries must go on once a broker answers again: 2 s,
// and five times that here.
const resumed = 10 * time.Second

// A crowd consumes some queues of a broker and publishes to them all the while.
type crowd struct {
	t     *testing.T
	led   *ledger.Ledger
	conn  *gombu.Conn // of the consumers
	topo  gombu.Topology
	quiet sync.Mutex // held: nobody publishes
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

// sentByCrowds is how many messages the crowds' ledgers have on account.
var sentByCrowds atomic.Int64

// crowded starts a crowd that goes through url: for each queue a consumer and a
// producer, all on one Conn.
func crowded(t *testing.T, url string, cfg *gombu.Config, queues ...gombu.Queue) *crowd {
	t.Helper()
	c := &crowd{t: t, led: ledger.New(), topo: gombu.Topology{Queues: queues}}
	c.conn = opened(t, url, cfg)
	must(t, c.conn.Declare(t.Context(), c.topo))
	ctx, stop := context.WithCancel(t.Context())
	c.stop = stop
	t.Cleanup(func() {
		stop()
		c.wg.Wait()
	})
	for i, q := range queues {
		src := c.led.Source(q.Name)
		src.Expect()
		running(t, c.conn, gombu.ConsumerConfig{Queues: []string{q.Name}, Workers: 2}, func(_ context.Context, d *gombu.Delivery) error {
			id, err := ledger.ParseID(string(d.Body))
			if err != nil {
				return err
			}
			src.Started(id, d.Attempt)
			src.Handled(id)
			return nil
		})
		c.wg.Go(func() { c.publish(ctx, i, q.Name) })
	}
	<-c.led.NothingDue()
	return c
}

// publish sends to a queue, a message every 10 ms, until ctx ends.
func (c *crowd) publish(ctx context.Context, producer int, queue string) {
	p := c.conn.Producer(&gombu.ProducerConfig{Resend: true})
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for seq := 0; ctx.Err() == nil; seq++ {
		id := ledger.ID{Producer: producer, Seq: seq}
		c.quiet.Lock()
		c.led.Sent(id)
		sentByCrowds.Add(1)
		one, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
		c.led.Outcome(id, p.Publish(one, &gombu.Message{Queue: queue, Body: []byte(id.String())}))
		cancel()
		c.quiet.Unlock()
		select {
		case <-tick.C:
		case <-ctx.Done():
		}
	}
}

// settled waits until all that was confirmed was handled, and all consumers are
// back from every fault.
func (c *crowd) settled() ledger.Report {
	c.t.Helper()
	var r ledger.Report
	eventually(c.t, time.Minute, "every consumer is back", func() bool {
		r = c.led.Report()
		return len(r.Silent) == 0
	})
	return r
}

// A fault ends when the broker answers again: then it calls over.
type fault struct {
	name   string
	inject func(t *testing.T, c *crowd, s *server.Server, p *proxy.Proxy, over func())
}

var faults = []fault{
	{"kill", func(t *testing.T, _ *crowd, s *server.Server, _ *proxy.Proxy, over func()) {
		lasting(t)
		must(t, s.Kill())
		must(t, s.Start(t.Context()))
		over()
	}},
	{"stop", func(t *testing.T, _ *crowd, s *server.Server, _ *proxy.Proxy, over func()) {
		must(t, s.Pause())
		wait(t, time.Duration(byHand(t, "GOMBU_TEST_STOP", 15))*time.Second)
		must(t, s.Resume())
		must(t, s.Answers(t.Context()))
		over()
	}},
	{"black hole", func(t *testing.T, _ *crowd, _ *server.Server, p *proxy.Proxy, over func()) {
		p.Hold(proxy.Both)
		wait(t, 7*time.Second) // longer than the heartbeat allows
		over()
		p.Flow(proxy.Both)
	}},
	{"force-close", func(t *testing.T, _ *crowd, s *server.Server, _ *proxy.Proxy, over func()) {
		var names []string
		eventually(t, 30*time.Second, "the management API knows the connections", func() bool {
			names = connections(t, t.Name())
			return len(names) >= 2
		})
		over()
		for _, n := range names {
			managed(t, http.MethodDelete, "connections/"+url.PathEscape(n), nil)
		}
	}},
	{"cancel and delete", func(t *testing.T, c *crowd, s *server.Server, _ *proxy.Proxy, over func()) {
		c.quiet.Lock()
		defer c.quiet.Unlock()
		<-c.led.NothingDue()
		// The broker cancels the consumers of a queue that goes.
		peer, err := gombu.Open(s.URL(), nil)
		must(t, err)
		must(t, peer.Delete(t.Context(), c.topo, nil))
		wait(t, time.Second)
		must(t, peer.Declare(t.Context(), c.topo))
		over()
		must(t, peer.Close())
	}},
}

// wait is for the length of a fault; what follows from it is waited for otherwise.
func wait(t *testing.T, d time.Duration) {
	t.Helper()
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-t.Context().Done():
	}
}

// Whatever befalls the broker or the way to it, deliveries go on soon after it
// answers again, nothing confirmed is lost, and nothing is left behind.
func TestNoConsumerFallsSilent(t *testing.T) {
	s := node(t)
	b, p := through(t, broker{name: "rabbitmq", url: s.URL()})
	cfg := marked(t.Name())
	cfg.Dial.Heartbeat = 2 * time.Second // so that the faults outlast it
	cfg.Dial.ConnectTimeout = 2 * time.Second
	queues := []gombu.Queue{
		{Name: name(t, "classic")}, {Name: name(t, "classic2")},
		{Name: name(t, "quorum"), Args: gombu.Headers{{Key: "x-queue-type", Value: "quorum"}}},
	}
	c := crowded(t, b.url, cfg, queues...)
	var before held
	for round := range max(byHand(t, "GOMBU_TEST_ROUNDS", 2), 2) {
		if round == 1 {
			before = holding(t) // retry queues, which the first redelivery makes, included
		}
		for _, f := range faults {
			mark := c.led.Mark(f.name)
			f.inject(t, c, s, p, mark.Over)
			r := c.settled()
			last := r.Faults[len(r.Faults)-1]
			t.Logf("%s: deliveries resume after %v", f.name, last.Resume)
			if last.Resume > resumed {
				t.Errorf("%s: deliveries resume after %v", f.name, last.Resume)
			}
		}
	}
	noMoreThan(t, before)
	c.stop()
	c.wg.Wait()
	<-c.led.NothingDue()
	r := c.led.Report()
	t.Logf("%d sent, %d confirmed, %d duplicated, longest silence %v", r.Sent, r.Confirmed, r.Duplicated, r.LongestSilence)
	if r.Lost != 0 || r.Ghosts != 0 || r.Strangers != 0 {
		t.Errorf("lost %d %v, %d ghosts, %d strangers", r.Lost, r.LostIDs, r.Ghosts, r.Strangers)
	}
}

// What ends the process of the broker ends no promise: each message whose
// publish said nil is in a queue afterwards.
func TestEveryNilIsInAQueue(t *testing.T) {
	s := node(t)
	for _, kind := range []string{"classic", "quorum"} {
		t.Run(kind, func(t *testing.T) {
			conn := opened(t, s.URL(), nil)
			q := name(t, kind)
			must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: q, Args: gombu.Headers{{Key: "x-queue-type", Value: kind}}}}}))
			n := byHand(t, "GOMBU_TEST_PUBLISHES", 5000) / 2 / producers * producers
			led := ledger.New()
			lasting(t)
			publishAround(t, conn, q, n, led, func() {
				must(t, s.Kill())
				must(t, s.Start(t.Context()))
			})
			r := led.Report()
			if r.Confirmed < n/2 || r.Sent != n {
				t.Errorf("%d of %d were confirmed", r.Confirmed, r.Sent)
			}
			running(t, conn, gombu.ConsumerConfig{Queues: []string{q}, Prefetch: 500}, func(_ context.Context, d *gombu.Delivery) error {
				id, err := ledger.ParseID(string(d.Body))
				led.Handled(id)
				return err
			})
			select {
			case <-led.NothingDue():
			case <-time.After(time.Minute):
			}
			r = led.Report()
			t.Logf("%d sent, %d confirmed, %d uncertain, %d not sent: %d handled, %d twice", r.Sent, r.Confirmed, r.Uncertain, r.NotSent, r.Handled, r.Duplicated)
			if r.Lost != 0 || r.Ghosts != 0 || r.Strangers != 0 {
				t.Errorf("lost %d %v, %d ghosts, %d strangers", r.Lost, r.LostIDs, r.Ghosts, r.Strangers)
			}
		})
	}
}

const producers = 8

// publishAround publishes n messages from as many goroutines, without repeating
// what is uncertain, and calls disturb when a quarter of them are out.
func publishAround(t *testing.T, conn *gombu.Conn, q string, n int, led *ledger.Ledger, disturb func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	quarter := make(chan struct{})
	once := sync.OnceFunc(func() { close(quarter) })
	p := conn.Producer(nil)
	var wg sync.WaitGroup
	for i := range producers {
		wg.Go(func() {
			defer once()
			var line []func()
			for seq := range n / producers {
				if seq == n/producers/4 {
					once()
				}
				id := ledger.ID{Producer: i, Seq: seq}
				led.Sent(id)
				w, err := p.PublishAsync(ctx, &gombu.Message{Queue: q, Body: []byte(id.String())})
				if err != nil {
					led.Outcome(id, err)
					continue
				}
				if line = append(line, func() { led.Outcome(id, w.Wait(ctx)) }); len(line) >= 16 {
					line[0]()
					line = line[1:]
				}
			}
			for _, answer := range line {
				answer()
			}
		})
	}
	<-quarter
	disturb()
	wg.Wait()
}

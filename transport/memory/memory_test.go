package memory

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/drivertest"
	"github.com/gombu/gombu/driver/dsn"
	"github.com/gombu/gombu/internal/leak"
	"github.com/gombu/gombu/virtual"
	"github.com/gombu/gombu/virtual/storetest"
)

func TestMain(m *testing.M) { leak.Main(m) }

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		New:        func(*testing.T) driver.Connector { return New(Config{}) },
		KeepsExtra: true,
	})
}

func TestStore(t *testing.T) {
	b := newBroker()
	storetest.Run(t, storetest.Harness{Open: func(*testing.T) virtual.Store { return &session{b: b} }})
}

func fromURL(t *testing.T, url string) driver.Connector {
	t.Helper()
	cs, err := dsn.Open(url, driver.DialConfig{})
	if err != nil {
		t.Fatal(err)
	}
	return cs[0]
}

func TestURLNamesABroker(t *testing.T) {
	for _, c := range []struct {
		a, b string
		same bool
	}{
		{"memory://", "memory://", true}, {"memory://", "memory:///", true}, {"memory://one", "memory://one", true},
		{"memory://one", "memory://two", false}, {"memory://one", "memory://one/sub", false}, {"memory://one", "memory://", false},
		{"memory://one:1", "memory://one", false},
	} {
		if same := fromURL(t, c.a) == fromURL(t, c.b); same != c.same {
			t.Errorf("%s and %s: the same is %v", c.a, c.b, same)
		}
	}
	if New(Config{}) == New(Config{}) || New(Config{Name: "one"}) == fromURL(t, "memory://one") {
		t.Error("a private broker is shared")
	}
	if got := fromURL(t, "memory://one").String(); got != "memory://one" {
		t.Error(got)
	}
}

// What is declared by one holds for everybody who names the broker.
func TestNamedBrokerSharesItsState(t *testing.T) {
	url := "memory://" + t.Name()
	a, b := connect(t, fromURL(t, url)), connect(t, fromURL(t, url))
	a.declare(driver.Step{Exchange: &driver.Exchange{Name: "x"}}, driver.Step{Queue: &driver.Queue{Name: "q"}},
		driver.Step{Binding: &driver.Binding{Exchange: "x", Queue: "q", Key: "k"}})
	b.publish(driver.Outgoing{Exchange: "x", Key: "k", Body: []byte("m")})
	if got := a.receive(a.consume("q", 1)); string(got.Body) != "m" {
		t.Errorf("%q", got.Body)
	}
}

func TestUnknownOption(t *testing.T) {
	_, err := dsn.Open("memory://?heartbeat=1", driver.DialConfig{})
	if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), "heartbeat") {
		t.Error(err)
	}
	if _, err := dsn.Open("memory+x://", driver.DialConfig{}); !errors.Is(err, driver.ErrInvalid) {
		t.Error(err)
	}
}

func TestBadArguments(t *testing.T) {
	c := connect(t, New(Config{}))
	for _, a := range []driver.Header{
		{Key: "x-max-priority", Value: 256}, {Key: "x-max-priority", Value: "9"}, {Key: "x-message-ttl", Value: -1},
		{Key: "x-overflow", Value: "explode"}, {Key: "x-max-length", Value: 1.5}, {Key: "x-expires", Value: int64(-1)},
	} {
		s := []driver.Step{{Queue: &driver.Queue{Name: "q", Args: driver.Headers{a}}}, {Op: driver.Check, Queue: &driver.Queue{Name: "q"}}}
		if err := c.Apply(c.ctx, s); err != nil {
			t.Fatal(err)
		}
		if !errors.Is(s[0].Err, driver.ErrInvalid) || !strings.Contains(s[0].Err.Error(), a.Key) {
			t.Errorf("%v: %v", a, s[0].Err)
		}
		if !errors.Is(s[1].Err, driver.ErrNotFound) {
			t.Errorf("%v: a refused queue is there: %v", a, s[1].Err)
		}
	}
}

// client is a session with the calls that these tests need.
type client struct {
	*testing.T
	driver.Conn
	ctx context.Context
}

func connect(t *testing.T, connector driver.Connector) *client {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	c, err := connector.Connect(ctx, env())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := c.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	return &client{t, c, ctx}
}

func (c *client) declare(steps ...driver.Step) {
	c.Helper()
	if err := c.Apply(c.ctx, steps); err != nil {
		c.Fatal(err)
	}
	for _, s := range steps {
		if s.Err != nil {
			c.Fatal(s.Err)
		}
	}
}

func (c *client) publish(m driver.Outgoing) {
	c.Helper()
	s, err := c.OpenSender(c.ctx, driver.SenderConfig{Window: 1})
	if err != nil {
		c.Fatal(err)
	}
	batch := []driver.Outgoing{m}
	if n, err := s.Submit(c.ctx, batch); n != 1 || err != nil || batch[0].Err != nil {
		c.Fatal(n, err, batch[0].Err)
	}
}

func (c *client) consume(queue string, prefetch int) driver.Receiver {
	c.Helper()
	r, err := c.OpenReceiver(c.ctx, driver.ReceiverConfig{Queue: queue, Prefetch: prefetch})
	if err != nil {
		c.Fatal(err)
	}
	return r
}

func (c *client) receive(r driver.Receiver) driver.Incoming {
	c.Helper()
	var in [1]driver.Incoming
	if n, err := r.Receive(c.ctx, in[:]); n != 1 || err != nil {
		c.Fatal(n, err)
	}
	return in[0]
}

func (c *client) settle(r driver.Receiver, o driver.Outcome, in driver.Incoming) {
	c.Helper()
	s := []driver.Settlement{{Tag: in.Tag, Outcome: o}}
	if err := r.Settle(c.ctx, s); err != nil || s[0].Err != nil {
		c.Fatal(err, s[0].Err)
	}
}

// What came back may have been started once; further starts are told by Begin.
// A release is none; both are redelivered.
func TestAttempts(t *testing.T) {
	c := connect(t, New(Config{}))
	c.declare(driver.Step{Queue: &driver.Queue{Name: "q"}})
	c.publish(driver.Outgoing{Key: "q"})
	r := c.consume("q", 1)
	for i, step := range []struct {
		outcome driver.Outcome
		attempt int
		begin   bool
	}{
		{driver.Release, 1, false},
		{driver.Requeue, 1, false},
		{driver.Requeue, 2, false},
		{driver.Requeue, 2, true},
		{driver.Release, 3, true},
		{driver.Requeue, 4, false},
		{driver.Ack, 4, false},
	} {
		in := c.receive(r)
		if in.Attempt != step.attempt || in.Redelivered != (i > 0) {
			t.Errorf("delivery %d: attempt %d, redelivered %v", i, in.Attempt, in.Redelivered)
		}
		if step.begin {
			starts := []driver.Start{{Tag: in.Tag, Attempt: in.Attempt}}
			if err := r.(driver.Counter).Begin(c.ctx, starts); err != nil || starts[0].Err != nil {
				t.Fatal(err, starts[0].Err)
			}
		}
		c.settle(r, step.outcome, in)
	}
}

// Of the same priority a requeued message is first again, among others that
// came back in any order.
func TestRequeuedTakesItsPlace(t *testing.T) {
	c := connect(t, New(Config{}))
	c.declare(driver.Step{Queue: &driver.Queue{Name: "q", MaxPriority: 3}})
	for i := range 40 {
		c.publish(driver.Outgoing{Key: "q", Body: fmt.Append(nil, i), Props: driver.Properties{Priority: uint8(i % 2)}})
	}
	r := c.consume("q", 30)
	var got []driver.Incoming
	for range 30 {
		got = append(got, c.receive(r))
	}
	for _, i := range []int{29, 3, 17, 0, 8, 28, 1} {
		c.settle(r, driver.Requeue, got[i])
	}
	last := -1
	for n := range 17 { // 7 that came back, 10 that were never out
		in := c.receive(r)
		var i int
		if _, err := fmt.Sscan(string(in.Body), &i); err != nil {
			t.Fatal(err)
		}
		if i%2 == 0 {
			i += 100 // the low priority comes last
		}
		if i <= last {
			t.Fatalf("delivery %d: %q came too late", n, in.Body)
		}
		last = i
		c.settle(r, driver.Ack, in)
	}
}

// A woken Claim that ends must not swallow the wake of another.
func TestWakeIsPassedOn(t *testing.T) {
	c := connect(t, New(Config{}))
	c.declare(driver.Step{Queue: &driver.Queue{Name: "q"}})
	patient, hasty := c.consume("q", 1), c.consume("q", 1)
	for i := range 200 {
		var wg sync.WaitGroup
		got := make(chan struct{}, 2)
		receive := func(ctx context.Context, r driver.Receiver) {
			var in [1]driver.Incoming
			if n, _ := r.Receive(ctx, in[:]); n == 1 {
				_ = r.Settle(c.ctx, []driver.Settlement{{Tag: in[0].Tag}})
				got <- struct{}{}
			}
		}
		soon, leave := context.WithCancel(c.ctx)
		late, stop := context.WithCancel(c.ctx)
		wg.Go(func() { receive(soon, hasty) })
		wg.Go(func() { receive(late, patient) })
		wg.Go(leave)
		c.publish(driver.Outgoing{Key: "q", Body: fmt.Append(nil, i)})
		select {
		case <-got:
		case <-c.ctx.Done():
			t.Fatal("nobody got it")
		}
		stop()
		wg.Wait()
	}
}

// The engine's share of an idle consumer: nothing is allocated per wake but
// the delivered body.
func TestWakingAllocatesNothing(t *testing.T) {
	c := connect(t, New(Config{}))
	c.declare(driver.Step{Queue: &driver.Queue{Name: "q"}})
	r := c.consume("q", 1)
	ctx, stop := context.WithCancel(c.ctx)
	next := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {

		var (
			in     [1]driver.Incoming
			settle [1]driver.Settlement
		)
		for {
			n, err := r.Receive(ctx, in[:])
			if n != 1 {
				if ctx.Err() == nil {
					t.Error(n, err)
				}
				return
			}
			settle[0] = driver.Settlement{Tag: in[0].Tag}
			_ = r.Settle(ctx, settle[:])
			next <- struct{}{}
		}
	})
	s, err := c.OpenSender(c.ctx, driver.SenderConfig{Window: 1})
	if err != nil {
		t.Fatal(err)
	}
	out := []driver.Outgoing{{Key: "q", Body: []byte("hello")}}
	if n := testing.AllocsPerRun(5000, func() {
		out[0].Done = false
		_, _ = s.Submit(c.ctx, out)
		<-next
	}); n > 1 {
		t.Errorf("%v allocations a message, want 1", n)
	}
	stop()
	wg.Wait()
}

func TestRing(t *testing.T) {
	var r ring
	items := make([]*item, 5000)
	for i := range items {
		items[i] = &item{seq: uint64(i)}
		r.push(items[i])
	}
	for i := range 100 {
		if r.pop() != items[i] {
			t.Fatal(i)
		}
	}
	for _, i := range []int{99, 0, 50, 51, 49} {
		r.put(items[i])
	}
	for _, i := range []int{0, 49, 50, 51, 99, 100} {
		if got := r.pop(); got != items[i] {
			t.Fatalf("%d, want %d", got.seq, i)
		}
	}
	for r.n > 0 {
		r.pop()
	}
	if r.buf != nil {
		t.Errorf("an emptied ring keeps %d places", len(r.buf))
	}
}

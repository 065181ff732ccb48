package virtual_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/drivertest"
	"github.com/gombu/gombu/internal/leak"
	"github.com/gombu/gombu/virtual"
	"github.com/gombu/gombu/virtual/storetest"
)

func TestMain(m *testing.M) { leak.Main(m) }

// The engine over sockets: claimers, pushers, envelopes, shared tables, native
// fan-out. Memory's tests are those of the inline path.
func TestConformance(t *testing.T) {
	for name, make := range map[string]func() *fake{
		"sole":           func() *fake { return newFake(false) },
		"shared":         func() *fake { return newFake(true) },
		"queue by queue": func() *fake { f := newFake(false); f.claimQueues = 1; return f },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var k *killable
			drivertest.Run(t, drivertest.Harness{
				New: func(*testing.T) driver.Connector {
					k = make().killable()
					return k
				},
				Kill:           func(_ *testing.T, c driver.Conn) { k.kill(c) },
				KeepsExtra:     true,
				ImplicitQueues: name == "shared",
			})
		})
	}
}

func TestStore(t *testing.T) {
	for _, shared := range []bool{false, true} {
		t.Run(fmt.Sprint("shared ", shared), func(t *testing.T) {
			f := newFake(shared)
			storetest.Run(t, storetest.Harness{
				Open:           func(*testing.T) virtual.Store { return f.open(driver.Env{}) },
				ImplicitQueues: shared,
			})
		})
	}
}

// peer is one process: a connector with a session, and what happened to it.
type peer struct {
	*testing.T
	ctx  context.Context
	conn driver.Conn
	fake *fakeSession

	mu     sync.Mutex
	events []driver.Event
}

func newPeer(t *testing.T, f *fake) *peer { return connectPeer(t, f, f.connector()) }

func connectPeer(t *testing.T, f *fake, c driver.Connector) *peer {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	p := &peer{T: t, ctx: ctx}
	conn, err := c.Connect(ctx, driver.Env{Epoch: 1, Owner: "peer", Log: slog.New(slog.DiscardHandler), Notify: func(e driver.Event) {
		p.mu.Lock()
		p.events = append(p.events, e)
		p.mu.Unlock()
	}})
	if err != nil {
		t.Fatal(err)
	}
	p.conn, p.fake = conn, f.last
	t.Cleanup(func() {
		cancel()
		if err := conn.Close(context.WithoutCancel(ctx)); err != nil {
			t.Error(err)
		}
	})
	return p
}

func (p *peer) apply(op driver.Op, what ...any) error {
	p.Helper()
	var errs []error
	for _, w := range what {
		s := []driver.Step{{Op: op}}
		switch w := w.(type) {
		case driver.Exchange:
			s[0].Exchange = &w
		case driver.Queue:
			s[0].Queue = &w
		case driver.Binding:
			s[0].Binding = &w
		}
		errs = append(errs, p.conn.Apply(p.ctx, s), s[0].Err)
	}
	return errors.Join(errs...)
}

func (p *peer) declare(what ...any) {
	p.Helper()
	if err := p.apply(driver.Declare, what...); err != nil {
		p.Fatal(err)
	}
}

func (p *peer) sender(window int) driver.Sender {
	p.Helper()
	s, err := p.conn.OpenSender(p.ctx, driver.SenderConfig{Window: window})
	if err != nil {
		p.Fatal(err)
	}
	return s
}

// publish sends one message and returns its outcome.
func (p *peer) publish(exchange, key, body string) error {
	p.Helper()
	s := p.sender(1)
	defer func() { _ = s.Close(p.ctx) }()
	m := []driver.Outgoing{{Seq: 1, Exchange: exchange, Key: key, Body: []byte(body)}}
	if n, err := s.Submit(p.ctx, m); n != 1 || err != nil {
		p.Fatal(n, err)
	}
	if m[0].Done {
		return m[0].Err
	}
	var r [1]driver.Receipt
	if n, err := s.Outcomes(p.ctx, r[:]); n != 1 || err != nil {
		p.Fatal(n, err)
	}
	return r[0].Err
}

func (p *peer) consume(queue string, prefetch int) driver.Receiver {
	p.Helper()
	r, err := p.conn.OpenReceiver(p.ctx, driver.ReceiverConfig{Queue: queue, Prefetch: prefetch})
	if err != nil {
		p.Fatal(err)
	}
	return r
}

func (p *peer) receive(r driver.Receiver, n int) []driver.Incoming {
	p.Helper()
	var out []driver.Incoming
	for len(out) < n {
		dst := make([]driver.Incoming, n-len(out))
		got, err := r.Receive(p.ctx, dst)
		if err != nil {
			p.Fatalf("%d of %d: %v", len(out), n, err)
		}
		out = append(out, dst[:got]...)
	}
	return out
}

// silent makes sure that nothing comes for a while.
func (p *peer) silent(r driver.Receiver) {
	p.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, 50*time.Millisecond)
	defer cancel()
	var in [1]driver.Incoming
	if n, err := r.Receive(ctx, in[:]); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
		p.Fatalf("%d (%q), %v", n, in[0].Body, err)
	}
}

func (p *peer) has(kind driver.EventKind) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.events, func(e driver.Event) bool { return e.Kind == kind })
}

// Session death: what was on its way is uncertain, what was not is not sent,
// and each message has one outcome.
func TestKilledWhilePublishing(t *testing.T) {
	f := newFake(false)
	p := newPeer(t, f)
	p.declare(driver.Queue{Name: "q"})
	inPush, goOn := make(chan struct{}), make(chan struct{})
	var once sync.Once
	f.pushing = func() {
		once.Do(func() {
			close(inPush)
			<-goOn
		})
	}
	s := p.sender(10)
	batch := make([]driver.Outgoing, 3)
	for i := range batch {
		batch[i] = driver.Outgoing{Seq: uint64(i), Key: "q", Body: []byte("m")}
	}
	if n, err := s.Submit(p.ctx, batch[:1]); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	<-inPush
	if n, err := s.Submit(p.ctx, batch[1:]); n != 2 || err != nil {
		t.Fatal(n, err)
	}
	p.fake.finish(errKilled)
	<-p.conn.Done()
	close(goOn)
	outcomes := map[uint64]error{}
	for {
		var r [2]driver.Receipt
		n, err := s.Outcomes(p.ctx, r[:])
		if err != nil {
			if !errors.Is(err, driver.ErrUnavailable) || n != 0 {
				t.Errorf("%d, %v", n, err)
			}
			break
		}
		for _, r := range r[:n] {
			if outcomes[r.Seq] != nil {
				t.Errorf("%d has two outcomes", r.Seq)
			}
			outcomes[r.Seq] = r.Err
		}
	}
	if !errors.Is(outcomes[0], driver.ErrUncertain) || !errors.Is(outcomes[1], driver.ErrNotSent) || !errors.Is(outcomes[2], driver.ErrNotSent) {
		t.Errorf("%v", outcomes)
	}
	if n, err := s.Submit(p.ctx, batch); n != 0 || !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("submit to a dead session: %d, %v", n, err)
	}
	if _, err := p.conn.OpenReceiver(p.ctx, driver.ReceiverConfig{Queue: "q", Prefetch: 1}); !errors.Is(err, driver.ErrUnavailable) {
		t.Errorf("consume in a dead session: %v", err)
	}
}

// Submit waits for room under its context, and says how many it took.
func TestSubmitWaitsForRoom(t *testing.T) {
	f := newFake(false)
	p := newPeer(t, f)
	p.declare(driver.Queue{Name: "q"})
	s := p.sender(2)
	cause := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(p.ctx, 30*time.Millisecond, cause)
	defer cancel()
	batch := make([]driver.Outgoing, 5)
	for i := range batch {
		batch[i] = driver.Outgoing{Seq: uint64(i), Key: "q"}
	}
	if n, err := s.Submit(ctx, batch); n != 2 || !errors.Is(err, cause) {
		t.Fatal(n, err)
	}
	var r [5]driver.Receipt
	for got := 0; got < 2; {
		n, err := s.Outcomes(p.ctx, r[got:])
		if err != nil {
			t.Fatal(err)
		}
		got += n
	}
	if n, err := s.Submit(p.ctx, batch[2:4]); n != 2 || err != nil {
		t.Fatal(n, err)
	}
}

// The sessions of one connector share what was declared; an exclusive queue
// whose session died can be declared by the next.
func TestSessionsShareTheEngine(t *testing.T) {
	f := newFake(false)
	c := f.connector()
	first, second := connectPeer(t, f, c), connectPeer(t, f, c)
	q := driver.Queue{Name: "mine", Exclusive: true}
	first.declare(driver.Exchange{Name: "x"}, driver.Queue{Name: "q"}, driver.Binding{Exchange: "x", Queue: "q", Key: "k"}, q)
	if err := second.publish("x", "k", "m"); err != nil {
		t.Fatal(err)
	}
	if err := second.apply(driver.Declare, q); !errors.Is(err, driver.ErrConflict) {
		t.Fatal(err)
	}
	first.fake.finish(errKilled)
	<-first.conn.Done()
	second.declare(q)
	second.receive(second.consume("q", 1), 1)
}

// The next session deletes what a dead one could not: its exclusive queues and
// their shared bindings.
func TestOrphanedQueuesAreSwept(t *testing.T) {
	f := newFake(true)
	c := f.connector()
	first := connectPeer(t, f, c)
	first.declare(driver.Exchange{Name: "x"}, driver.Queue{Name: "reply", Exclusive: true}, driver.Binding{Exchange: "x", Queue: "reply", Key: "k"})
	if err := first.publish("x", "k", "m"); err != nil {
		t.Fatal(err)
	}
	first.fake.finish(errKilled)
	<-first.conn.Done()
	if err := first.conn.Close(first.ctx); err != nil {
		t.Error(err)
	}
	second := connectPeer(t, f, c)
	second.declare(driver.Queue{Name: "anything"})
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.lists["reply"] != nil || len(f.tables["x"].members) != 0 {
		t.Errorf("%v, %v", f.lists["reply"], f.tables["x"].members)
	}
}

// What is too large is known before anything is sent.
func TestMessageTooLarge(t *testing.T) {
	f := newFake(false)
	p := newPeer(t, f)
	p.declare(driver.Queue{Name: "q"})
	s := p.sender(2)
	m := []driver.Outgoing{{Key: "q", Body: make([]byte, 4<<20+1)}, {Seq: 1, Key: "q"}}
	if n, err := s.Submit(p.ctx, m); n != 2 || err != nil || !m[0].Done || !errors.Is(m[0].Err, driver.ErrTooLarge) || m[1].Done {
		t.Fatal(n, err, m[0].Err)
	}
}

package virtual_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
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

// A publish that starts after a peer's bind returned reaches the new queue, and
// an unbind is as sharp.
func TestPeersBindIsSeenAtOnce(t *testing.T) {
	f := newFake(true)
	binder, publisher := newPeer(t, f), newPeer(t, f)
	x := driver.Exchange{Name: "x", Type: driver.TypeTopic}
	binder.declare(x)
	publisher.declare(x)
	for i := range 100 {
		b := driver.Binding{Exchange: "x", Queue: "q", Key: fmt.Sprintf("a.%d", i)}
		binder.declare(b)
		if err := publisher.publish("x", b.Key, "m"); err != nil {
			t.Fatal(i, err)
		}
		if err := binder.apply(driver.Delete, b); err != nil {
			t.Fatal(err)
		}
		if err := publisher.publish("x", b.Key, "m"); !errors.Is(err, driver.ErrUnroutable) {
			t.Fatal(i, err)
		}
	}
}

// An unchanged table is not read again.
func TestTableIsReadOncePerVersion(t *testing.T) {
	f := newFake(true)
	p := newPeer(t, f)
	p.declare(driver.Exchange{Name: "x"}, driver.Binding{Exchange: "x", Queue: "q", Key: "k"})
	for range 20 {
		if err := p.publish("x", "k", "m"); err != nil {
			t.Fatal(err)
		}
	}
	if f.reads != 1 {
		t.Errorf("%d reads, want 1", f.reads)
	}
}

// An exchange that was not declared here has the type that the shared table
// shows: a stored pattern means topic, else direct.
func TestUndeclaredExchange(t *testing.T) {
	f := newFake(true)
	other, p := newPeer(t, f), newPeer(t, f)
	err := p.publish("topic", "a.b", "m")
	if !errors.Is(err, driver.ErrUnroutable) || !strings.Contains(err.Error(), "declare") || !strings.Contains(err.Error(), `"topic"`) || !strings.Contains(err.Error(), `"a.b"`) {
		t.Fatal(err)
	}
	if err := p.apply(driver.Declare, driver.Binding{Exchange: "topic", Queue: "q"}); !errors.Is(err, driver.ErrNotFound) {
		t.Fatal(err)
	}
	other.declare(driver.Exchange{Name: "topic", Type: driver.TypeTopic}, driver.Binding{Exchange: "topic", Queue: "q", Key: "a.*"},
		driver.Exchange{Name: "direct"}, driver.Binding{Exchange: "direct", Queue: "q", Key: "a.*"})
	if err := p.publish("topic", "a.b", "1"); err != nil {
		t.Error(err)
	}
	if err := p.publish("direct", "a.b", "m"); !errors.Is(err, driver.ErrUnroutable) {
		t.Error(err)
	}
	if err := p.publish("direct", "a.*", "2"); err != nil {
		t.Error(err)
	}
	p.declare(driver.Binding{Exchange: "topic", Queue: "mine", Key: "#.c"}) // bound by the type of the table
	if err := other.publish("topic", "x.y.c", "3"); err != nil {
		t.Error(err)
	}
	p.receive(p.consume("q", 5), 2)
	p.receive(p.consume("mine", 5), 1)
	p.declare(driver.Exchange{Name: "topic", Type: driver.TypeTopic}) // what was assumed may be declared
	if err := p.apply(driver.Declare, driver.Exchange{Name: "topic"}); !errors.Is(err, driver.ErrConflict) {
		t.Error(err)
	}
}

// Deleting takes bindings out of the shared table, those of others too.
func TestDeleteCleansTheSharedTable(t *testing.T) {
	f := newFake(true)
	a, b := newPeer(t, f), newPeer(t, f)
	x := driver.Exchange{Name: "x", Type: driver.TypeTopic}
	a.declare(x, driver.Binding{Exchange: "x", Queue: "q", Key: "a"}, driver.Binding{Exchange: "x", Queue: "other", Key: "a"})
	b.declare(x, driver.Queue{Name: "q"}, driver.Binding{Exchange: "x", Queue: "q", Key: "b"})
	if err := b.apply(driver.Delete, driver.Queue{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	if got := len(f.tables["x"].members); got != 1 {
		t.Errorf("%v", f.tables["x"].members)
	}
	if err := a.publish("x", "b", "m"); !errors.Is(err, driver.ErrUnroutable) {
		t.Error(err)
	}
	if err := b.apply(driver.Delete, x); err != nil {
		t.Fatal(err)
	}
	if got := len(f.tables["x"].members); got != 0 {
		t.Errorf("%v", f.tables["x"].members)
	}
}

// Every queue's copy has a delivery tag of its own.
func TestBehaviour172_TagPerCopy(t *testing.T) {
	f := newFake(true)
	p := newPeer(t, f)
	p.declare(driver.Exchange{Name: "x"})
	for i := range 3 {
		p.declare(driver.Binding{Exchange: "x", Queue: fmt.Sprint("q", i), Key: "k"})
	}
	for range 2 {
		if err := p.publish("x", "k", "m"); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for i := range 3 {
		for _, m := range f.lists[fmt.Sprint("q", i)].ready {
			_, tag, _ := strings.Cut(string(m.raw), `"delivery_tag": "`)
			seen[tag] = true
			if len(tag) != 36+len(`"}}`) {
				t.Errorf("tag %q", tag)
			}
		}
	}
	if len(seen) != 6 {
		t.Errorf("%d tags for 6 copies", len(seen))
	}
}

// What is no envelope is delivered as it is, with the reason, and can be moved.
func TestGarbage(t *testing.T) {
	f := newFake(true)
	p := newPeer(t, f)
	p.declare(driver.Queue{Name: "q"}, driver.Queue{Name: "parked"})
	f.mu.Lock()
	f.list("q").ready = []stored{{seq: 1, raw: []byte("garbage")}}
	f.mu.Unlock()
	if err := p.publish("", "q", "good"); err != nil {
		t.Fatal(err)
	}
	r := p.consume("q", 5)
	in := p.receive(r, 2)
	if !errors.Is(in[0].DecodeErr, driver.ErrUndecodable) || string(in[0].Raw) != "garbage" || in[0].Queue != "q" || string(in[1].Body) != "good" {
		t.Fatalf("%+v", in)
	}
	moves := []driver.Move{{Tag: in[0].Tag, To: driver.Outgoing{Key: "parked"}, Verbatim: true}}
	if err := r.(driver.Mover).Move(p.ctx, moves); err != nil || moves[0].Err != nil {
		t.Fatal(err, moves[0].Err)
	}
	if got := string(f.lists["parked"].ready[0].raw); got != "garbage" {
		t.Errorf("parked %q", got)
	}
}

// A receiver follows the bindings that its queue gets and loses while it is open.
func TestFanoutFollowsBindings(t *testing.T) {
	f := newFake(true)
	p, other := newPeer(t, f), newPeer(t, f)
	x, y := driver.Exchange{Name: "x", Type: driver.TypeFanout}, driver.Exchange{Name: "y", Type: driver.TypeFanout}
	other.declare(x, y)
	p.declare(x, y, driver.Queue{Name: "q"})
	r := p.consume("q", 10)
	publish := func(exchange, key, body string) {
		t.Helper()
		if err := other.publish(exchange, key, body); err != nil {
			t.Fatal(err)
		}
	}
	publish("x", "", "nobody listens, and that is no error")
	p.declare(driver.Binding{Exchange: "x", Queue: "q"})
	publish("x", "", "1")
	p.declare(driver.Binding{Exchange: "x", Queue: "q", Key: "k"}, driver.Binding{Exchange: "y", Queue: "q"})
	publish("x", "k", "2")
	publish("y", "", "3")
	got := p.receive(r, 3)
	if err := p.apply(driver.Delete, driver.Binding{Exchange: "y", Queue: "q"}); err != nil {
		t.Fatal(err)
	}
	publish("y", "", "unheard")
	if err := other.publish("", "q", "4"); err != nil { // every queue hears the default exchange
		t.Fatal(err)
	}
	got = append(got, p.receive(r, 1)...)
	var bodies []string
	settle := make([]driver.Settlement, len(got))
	for i, m := range got {
		bodies = append(bodies, string(m.Body))
		settle[i] = driver.Settlement{Tag: m.Tag, Outcome: driver.Requeue}
	}
	if slices.Sort(bodies); !slices.Equal(bodies, []string{"1", "2", "3", "4"}) {
		t.Fatalf("%q", bodies)
	}
	if err := r.Settle(p.ctx, settle); err != nil {
		t.Fatal(err)
	}
	for _, s := range settle {
		if s.Err != nil {
			t.Error(s.Err)
		}
	}
	if in := p.receive(r, 1); string(in[0].Body) != "4" || !in[0].Redelivered {
		t.Errorf("%+v: a broadcast is never settled in the store", in)
	}
	p.silent(r)
	if err := p.apply(driver.Delete, x); err != nil {
		t.Fatal(err)
	}
	if n := len(f.subs); n != 0 {
		t.Errorf("%d subscriptions to deleted exchanges", n)
	}
}

// The credit holds over broadcasts and claims together; what is too much for
// the subscription's own buffer is lost, and told.
func TestFanoutCredit(t *testing.T) {
	f := newFake(true)
	p := newPeer(t, f)
	p.declare(driver.Exchange{Name: "x", Type: driver.TypeFanout}, driver.Binding{Exchange: "x", Queue: "q"})
	r := p.consume("q", 3)
	s := p.sender(400)
	for i := range 300 {
		m := []driver.Outgoing{{Seq: uint64(i), Exchange: "x", Body: fmt.Append(nil, i)}}
		if _, err := s.Submit(p.ctx, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := p.publish("", "q", "claimed"); err != nil {
		t.Fatal(err)
	}
	in := p.receive(r, 3)
	p.silent(r)
	seen := 3
	for len(in) > 0 {
		settle := make([]driver.Settlement, len(in))
		for i := range in {
			settle[i].Tag = in[i].Tag
		}
		if err := r.Settle(p.ctx, settle); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(p.ctx, 100*time.Millisecond)
		in = make([]driver.Incoming, 10)
		n, err := r.Receive(ctx, in)
		cancel()
		if err != nil && !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if in = in[:n]; n > 3 {
			t.Fatalf("%d deliveries for a credit of 3", n)
		}
		seen += n
	}
	if dropped := p.has(driver.Dropped); dropped != (seen < 301) {
		t.Errorf("%d of 301 arrived, dropped: %v", seen, dropped)
	}
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

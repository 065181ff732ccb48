package virtual_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
)

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

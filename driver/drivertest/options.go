package drivertest

import (
	"errors"
	"fmt"
	"time"

	"github.com/gombu/gombu/driver"
)

var optionCases = []testCase{
	{"Move", move},
	{"MoveVerbatim", moveVerbatim},
	{"Extend", extend},
	{"Begin", begin},
	{"StartsNotDeliveries", startsNotDeliveries},
	{"Pull", pull},
	{"Replicas", replicas},
	{"Tell", told},
	{"ConnectorIsQuiet", connectorText},
}

// replicas are waited for, or refused before anything is sent; too few are
// ErrUncertain with their number.
func replicas(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	for _, cfg := range []driver.SenderConfig{{Window: 1, Replicas: 1 << 10}, {Window: 1, Fsync: true}} {
		sender, err := s.publisher.OpenSender(k.ctx, cfg)
		if err != nil {
			k.wantKind(err, driver.ErrUnsupported)
			continue
		}
		m := message("", q, "kept")
		m.Seq, m.Until = 1, time.Now().Add(200*time.Millisecond)
		_, err = sender.Submit(k.ctx, []driver.Outgoing{m})
		k.must(err)
		receipts := make([]driver.Receipt, 1)
		_, err = sender.Outcomes(k.ctx, receipts)
		k.must(err)
		if cfg.Replicas > 0 {
			k.wantKind(receipts[0].Err, driver.ErrUncertain)
			if e, ok := errors.AsType[*driver.ReplicaError](receipts[0].Err); !ok || e.Want != cfg.Replicas {
				k.Errorf("have %v", receipts[0].Err)
			}
		}
		k.must(sender.Close(k.ctx))
	}
}

// Who is told hears of each message once, and of the end last, before Close is over.
func told(k *kit) {
	s := k.connect()
	q, x := k.name("q"), k.name("x")
	s.declare(driver.Queue{Name: q}, driver.Exchange{Name: x})
	const n = 100
	sender, err := s.publisher.OpenSender(k.ctx, driver.SenderConfig{Window: n + 1})
	k.must(err)
	teller, ok := sender.(driver.Teller)
	if !ok {
		k.Skip("the sender tells nothing")
	}
	outcomes, inside := make(chan driver.Receipt, 2*n), make(chan struct{}, 1)
	var end error // of whoever is inside
	teller.Tell(func(receipts []driver.Receipt, err error) {
		select {
		case inside <- struct{}{}:
		default:
			k.Error("told twice at a time")
		}
		if end != nil {
			k.Errorf("told %v, %v after the end", receipts, err)
		}
		end = err
		for _, r := range receipts {
			outcomes <- r
		}
		<-inside
	})
	ms := append(numbered(q, n), message(x, "nobody", "lost"))
	for i := range ms {
		ms[i].Seq = uint64(i + 1)
	}
	for from := 0; from < len(ms); from += 10 {
		_, err := sender.Submit(k.ctx, ms[from:min(len(ms), from+10)])
		k.must(err)
	}
	seen := map[uint64]error{}
	for range ms {
		select {
		case r := <-outcomes:
			if _, twice := seen[r.Seq]; twice {
				k.Errorf("%d has two outcomes", r.Seq)
			}
			seen[r.Seq] = r.Err
		case <-k.ctx.Done():
			k.Fatalf("%d outcomes", len(seen))
		}
	}
	for i := range n {
		k.must(seen[uint64(i+1)])
	}
	k.wantKind(seen[n+1], driver.ErrUnroutable)
	k.must(sender.Close(k.ctx))
	inside <- struct{}{} // nobody tells any more
	if end == nil || len(outcomes) > 0 {
		k.Errorf("the end: %v, and %d outcomes more", end, len(outcomes))
	}
	late, err := s.publisher.OpenSender(k.ctx, driver.SenderConfig{Window: 1})
	k.must(err)
	s.end()
	over := make(chan error, 2)
	late.(driver.Teller).Tell(func(_ []driver.Receipt, err error) { over <- err })
	if len(over) != 1 || <-over == nil {
		k.Error("who comes when a sender is over is not told so, once")
	}
}

func move(k *kit) {
	s := k.connect()
	from, to, x := k.name("from"), k.name("to"), k.name("x")
	s.declare(driver.Queue{Name: from}, driver.Queue{Name: to}, driver.Exchange{Name: x}, driver.Binding{Exchange: x, Queue: to, Key: "k"})
	s.mustPublish(numbered(from, 2)...)
	r := s.consume(from, 1)
	mover, ok := r.(driver.Mover)
	if !ok {
		k.Skip("the receiver cannot move")
	}
	in := k.receive(r, 1)
	moves := []driver.Move{{Tag: in[0].Tag, To: message(x, "nobody", "m")}}
	k.must(mover.Move(k.ctx, moves))
	k.wantKind(moves[0].Err, driver.ErrUnroutable)
	k.nothing(r) // the claim stays
	moves = []driver.Move{{Tag: in[0].Tag, To: message(x, "k", "moved")}, {Tag: driver.Tag{ID: 1 << 61}, To: message(x, "k", "never")}}
	k.must(mover.Move(k.ctx, moves))
	k.must(moves[0].Err)
	k.wantKind(moves[1].Err, driver.ErrLeaseLost)
	target := s.consume(to, 5)
	got := k.receive(target, 1)
	k.wantBodies(got, "moved")
	if got[0].Redelivered {
		k.Error("a moved message is a new one")
	}
	k.nothing(target)
	k.wantBodies(k.receive(r, 1), "2")
}

func moveVerbatim(k *kit) {
	s := k.connect()
	from, to := k.name("from"), k.name("to")
	s.declare(driver.Queue{Name: from}, driver.Queue{Name: to})
	m := message("", from, "as it is")
	m.Props.MessageID, m.Props.Headers = "id", driver.Headers{{Key: "h", Value: "1"}}
	s.mustPublish(m)
	r := s.consume(from, 1)
	mover, ok := r.(driver.Mover)
	if !ok {
		k.Skip("the receiver cannot move")
	}
	in := k.receive(r, 1)
	moves := []driver.Move{{Tag: in[0].Tag, To: message("", to, "ignored"), Verbatim: true}}
	k.must(mover.Move(k.ctx, moves))
	k.must(moves[0].Err)
	got := k.receive(s.consume(to, 1), 1)
	k.wantBodies(got, "as it is")
	if got[0].Props.MessageID != "id" || got[0].Props.Headers.Get("h") != "1" || got[0].Key != from {
		k.Errorf("%+v", got[0])
	}
	k.must(r.Close(k.ctx))
	s.ready(from, 0)
}

func extend(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 1)...)
	r := s.consume(q, 1)
	leaser, ok := r.(driver.Leaser)
	if ok != r.Features().Lease {
		k.Fatalf("Lease is %v, Leaser %v", r.Features().Lease, ok)
	}
	if !ok {
		k.Skip("claims do not expire")
	}
	in := k.receive(r, 1)
	l := []driver.Lease{{Tag: in[0].Tag}, {Tag: driver.Tag{ID: 1 << 61}}}
	k.must(leaser.Extend(k.ctx, l, time.Minute))
	k.must(l[0].Err)
	k.wantKind(l[1].Err, driver.ErrLeaseLost)
	k.settle(r, driver.Ack, in...)
}

func begin(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 1)...)
	r := s.consume(q, 1)
	counter, ok := r.(driver.Counter)
	if !ok {
		k.Skip("the transport counts by itself or not at all")
	}
	k.settle(r, driver.Requeue, k.receive(r, 1)...)
	in := k.receive(r, 1)
	starts := []driver.Start{{Tag: in[0].Tag, Attempt: 2}, {Tag: driver.Tag{ID: 1 << 61}, Attempt: 2}}
	k.must(counter.Begin(k.ctx, starts))
	k.must(starts[0].Err)
	k.wantKind(starts[1].Err, driver.ErrLeaseLost)
	if !starts[0].Moved {
		k.settle(r, driver.Requeue, in...)
	}
	again := k.receive(r, 1)
	if again[0].Attempt != 3 {
		k.Errorf("attempt %d after the second start, want 3", again[0].Attempt)
	}
}

// A claim that was never begun counts as one start, however often it was lost.
func startsNotDeliveries(k *kit) {
	first := k.connect()
	q := k.name("q")
	first.declare(driver.Queue{Name: q})
	first.mustPublish(numbered(q, 2)...)
	for range 3 {
		s := k.connect()
		r := s.consume(q, 2)
		if _, ok := r.(driver.Counter); !ok || r.Features().Counts != driver.CountStarts {
			k.Skip("the transport does not count starts")
		}
		k.receive(r, 2)
		s.end()
	}
	r := first.consume(q, 2)
	for _, in := range k.receive(r, 2) {
		if in.Attempt != 2 || !in.Redelivered {
			k.Errorf("%q: attempt %d, redelivered %v; it was never begun", in.Body, in.Attempt, in.Redelivered)
		}
		k.settle(r, driver.Ack, in)
	}
}

func pull(k *kit) {
	s := k.connect()
	p, ok := s.Conn.(driver.Puller)
	if !ok {
		k.Skip("the session cannot pull")
	}
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	r, err := p.OpenPuller(k.ctx, q)
	k.must(err)
	dst := make([]driver.Incoming, 4)
	empty := func() {
		k.Helper()
		if n, err := r.Receive(k.ctx, dst); n != 0 || err != nil {
			k.Fatalf("an empty queue gave %d, %v", n, err)
		}
	}
	empty()
	s.mustPublish(numbered(q, 3)...)
	for i := range 2 { // both stay unsettled: there is no prefetch
		n, err := r.Receive(k.ctx, dst[i:i+1])
		k.must(err)
		k.wantBodies(dst[i:i+n], fmt.Sprint(i+1))
		if dst[i].Redelivered {
			k.Error("redelivered at first")
		}
	}
	s.ready(q, 1)                   // nothing was taken ahead
	k.must(r.SetPrefetch(k.ctx, 0)) // has no meaning, and does no harm
	k.settle(r, driver.Requeue, dst[1])
	k.settle(r, driver.Ack, dst[0])
	n, err := r.Receive(k.ctx, dst[:1])
	k.must(err)
	k.wantBodies(dst[:n], "2")
	if !dst[0].Redelivered {
		k.Error("what came back is not marked")
	}
	k.must(r.Close(k.ctx))
	back := k.receive(s.consume(q, 3), 2)
	k.wantBodies(back, "2", "3")
	if missing, err := p.OpenPuller(k.ctx, k.name("missing")); err == nil {
		_, err = missing.Receive(k.ctx, dst)
		k.wantKind(err, driver.ErrNotFound)
	} else {
		k.wantKind(err, driver.ErrNotFound)
	}
}

func connectorText(k *kit) {
	if k.connector.String() == "" {
		k.Error("a connector without a text")
	}
	if len(k.features.Types) == 0 || k.features.Types[0] == "" {
		k.Errorf("types %q", k.features.Types)
	}
}

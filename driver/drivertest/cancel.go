package drivertest

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gombu/gombu/driver"
)

var cancelCases = []testCase{
	{"EveryMethod", everyMethod},
	{"ReceiveIsWokenAndLosesNothing", receiveCancelled},
	{"BlockedReceive", blockedReceive},
}

// slack is how long a method may take to notice the end of its context.
const slack = 100 * time.Millisecond

// everyMethod calls with a context that has ended: each returns at once.
func everyMethod(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 3)...)
	r := s.consume(q, 1)
	in := k.receive(r, 1)
	dead, cancel := context.WithCancel(k.ctx)
	cancel()
	for what, call := range map[string]func(){
		"apply":    func() { _ = s.Apply(dead, []driver.Step{step(driver.Declare, driver.Queue{Name: q})}) },
		"inspect":  func() { _, _ = s.Inspect(dead, q) },
		"purge":    func() { _, _ = s.Purge(dead, k.name("other")) },
		"sender":   func() { _, _ = s.publisher.OpenSender(dead, driver.SenderConfig{Window: 1}) },
		"receiver": func() { _, _ = s.OpenReceiver(dead, driver.ReceiverConfig{Queue: k.name("other"), Prefetch: 1}) },
		"outcomes": func() { _, _ = s.sender.Outcomes(dead, make([]driver.Receipt, 1)) },
		"receive":  func() { _, _ = r.Receive(dead, make([]driver.Incoming, 1)) },
		"prefetch": func() { _ = r.SetPrefetch(dead, 1) },
	} {
		start := time.Now()
		call()
		if d := time.Since(start); d > slack {
			k.Errorf("%s took %v with a context that had ended", what, d)
		}
	}
	k.settle(r, driver.Ack, in...)
}

func receiveCancelled(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	r := s.consume(q, 4)
	const n = 60
	for i := range n {
		s.mustPublish(message("", q, fmt.Sprint(i)))
	}
	var got []driver.Incoming
	for i := 0; len(got) < n; i++ {
		cause := fmt.Errorf("cause %d", i)
		ctx, cancel := context.WithTimeoutCause(k.ctx, time.Duration(i%5)*100*time.Microsecond, cause)
		var dst [3]driver.Incoming
		m, err := r.Receive(ctx, dst[:])
		cancel()
		if err != nil && (!errors.Is(err, cause) || m != 0) {
			k.Fatalf("%d, %v, want %v", m, err, cause)
		}
		if k.ctx.Err() != nil {
			k.Fatalf("%d of %d: %v", len(got), n, k.ctx.Err())
		}
		got = append(got, dst[:m]...)
		k.settle(r, driver.Ack, dst[:m]...)
	}
	for i, m := range got {
		if string(m.Body) != fmt.Sprint(i) || m.Redelivered {
			k.Fatalf("delivery %d is %q, redelivered %v", i, m.Body, m.Redelivered)
		}
	}
	k.nothing(r)
}

func blockedReceive(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	r := s.consume(q, 1)
	cause := errors.New("enough")
	for range 3 {
		ctx, cancel := context.WithCancelCause(k.ctx)
		type result struct {
			n   int
			err error
		}
		done := make(chan result, 1)
		k.background(func() {
			n, err := r.Receive(ctx, make([]driver.Incoming, 1))
			done <- result{n, err}
		})
		timer := time.NewTimer(20 * time.Millisecond)
		select {
		case got := <-done:
			k.Fatalf("returned early: %+v", got)
		case <-timer.C:
		}
		start := time.Now()
		cancel(cause)
		got := <-done
		if d := time.Since(start); d > slack || got.n != 0 || !errors.Is(got.err, cause) {
			k.Fatalf("after %v: %+v", d, got)
		}
	}
	s.mustPublish(message("", q, "m"))
	k.wantBodies(k.receive(r, 1), "m")
}

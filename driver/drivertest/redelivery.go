package drivertest

import (
	"fmt"

	"github.com/gombu/gombu/driver"
)

var redeliveryCases = []testCase{
	{"AfterReceiverClose", func(k *kit) {
		k.redelivered(func(_ *session, r driver.Receiver) { k.must(r.Close(k.ctx)) })
	}},
	{"Behaviour170_AfterSessionClose", func(k *kit) { k.redelivered(func(s *session, _ driver.Receiver) { s.end() }) }},
	{"AfterKill", afterKill},
	{"SettleAfterSessionEnd", settleAfterEnd},
	{"ClosedSession", closedSession},
}

// redelivered checks that what was unsettled comes back, in its place.
func (k *kit) redelivered(end func(*session, driver.Receiver)) {
	k.Helper()
	first, second := k.connect(), k.connect()
	q := k.name("q")
	first.declare(driver.Queue{Name: q})
	first.mustPublish(numbered(q, 6)...)
	r := first.consume(q, 4)
	in := k.receive(r, 4)
	k.settle(r, driver.Ack, in[1])
	end(first, r)
	other := second.consume(q, 10)
	back := k.receive(other, 5)
	if other.Features().Ordered {
		k.wantBodies(back, "1", "3", "4", "5", "6")
	}
	for _, m := range back { // "5" took the credit of "2", and may have been on its way
		if body := string(m.Body); body != "5" && m.Redelivered != (body < "5") {
			k.Errorf("%q: redelivered %v", m.Body, m.Redelivered)
		}
	}
	k.settle(other, driver.Ack, back...)
	k.nothing(other)
}

func afterKill(k *kit) {
	if k.h.Kill == nil {
		k.Skip("the harness cannot kill a session")
	}
	k.redelivered(func(s *session, _ driver.Receiver) {
		k.h.Kill(k.T, s.Conn)
		<-s.Done()
		if s.Err() == nil {
			k.Error("a dead session without an error")
		}
	})
}

func settleAfterEnd(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 2)...)
	r := s.consume(q, 2)
	in := k.receive(r, 2)
	s.end()
	batch := []driver.Settlement{{Tag: in[0].Tag}, {Tag: in[1].Tag, Outcome: driver.Requeue}}
	_ = r.Settle(k.ctx, batch) // about the session, of which we know
	for i := range batch {
		k.wantKind(batch[i].Err, driver.ErrLeaseLost)
	}
	back := k.receive(k.connect().consume(q, 2), 2)
	k.wantBodies(back, "1", "2")
}

func closedSession(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(message("", q, "m"))
	sender, r := s.sender, s.consume(q, 1)
	if err := s.Err(); err != nil {
		k.Errorf("a living session says %v", err)
	}
	s.end()
	<-s.Done()
	k.wantKind(s.Err(), driver.ErrClosed)
	if n, err := sender.Submit(k.ctx, []driver.Outgoing{message("", q, "late")}); n != 0 || err == nil {
		k.Errorf("submit after close: %d, %v", n, err)
	}
	if n, err := sender.Outcomes(k.ctx, make([]driver.Receipt, 1)); n != 0 || err == nil {
		k.Errorf("outcomes after close: %d, %v", n, err)
	}
	if n, err := r.Receive(k.ctx, make([]driver.Incoming, 1)); n != 0 || err == nil {
		k.Errorf("receive after close: %d, %v", n, err)
	}
	for what, err := range map[string]error{
		"apply":   s.Apply(k.ctx, []driver.Step{step(driver.Declare, driver.Queue{Name: q})}),
		"inspect": second(s.Inspect(k.ctx, q)), "purge": second(s.Purge(k.ctx, q)),
		"open sender":   second(s.publisher.OpenSender(k.ctx, driver.SenderConfig{Window: 1})),
		"open receiver": second(s.OpenReceiver(k.ctx, driver.ReceiverConfig{Queue: q, Prefetch: 1})),
	} {
		if err == nil {
			k.Errorf("%s after close succeeded", what)
		}
	}
	for range 2 { // again does no harm
		s.end()
	}
	if text := fmt.Sprint(s.Err()); text == "" {
		k.Error("the end has no words")
	}
}

func second[T any](_ T, err error) error { return err }

package drivertest

import (
	"errors"
	"fmt"

	"github.com/gombu/gombu/driver"
)

var settlementCases = []testCase{
	{"Ack", ack},
	{"RequeueToTheHead", requeue},
	{"RequeueKeepsOrder", requeueOrder},
	{"Release", releaseOne},
	{"Reject", reject},
	{"UnknownAndTwice", settleTwice},
	{"OrderIsKept", order},
	{"NoAck", noAck},
	{"ConsumerTag", consumerTag},
}

func ack(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 2)...)
	r := s.consume(q, 10)
	in := k.receive(r, 2)
	k.wantBodies(in, "1", "2")
	for _, m := range in {
		if m.Redelivered || m.Attempt > 1 {
			k.Errorf("a first delivery: %+v", m)
		}
	}
	k.settle(r, driver.Ack, in...)
	k.must(r.Close(k.ctx))
	s.ready(q, 0)
	k.nothing(s.consume(q, 1))
}

func requeue(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 3)...)
	r := s.consume(q, 1)
	if !r.Features().Requeue {
		k.Skip("the queue cannot requeue")
	}
	for range 3 {
		in := k.receive(r, 1)
		k.wantBodies(in, "1")
		k.settle(r, driver.Requeue, in...)
	}
	in := k.receive(r, 1)
	k.wantBodies(in, "1")
	if !in[0].Redelivered {
		k.Error("not marked as redelivered")
	}
	if r.Features().Counts == driver.CountDeliveries && in[0].Attempt != 4 {
		k.Errorf("attempt %d, want 4", in[0].Attempt)
	}
	for _, want := range []string{"1", "2", "3"} {
		k.wantBodies(in, want)
		k.settle(r, driver.Ack, in...)
		if want != "3" {
			in = k.receive(r, 1)
		}
	}
}

func requeueOrder(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 7)...)
	r := s.consume(q, 5)
	if f := r.Features(); !f.Requeue || !f.Ordered {
		k.Skip("the queue keeps no order of what is requeued")
	}
	in := k.receive(r, 5)
	k.must(r.SetPrefetch(k.ctx, 0)) // else a broker delivers into the credit of the first, while the last is on its way back
	k.settle(r, driver.Requeue, in...)
	s.ready(q, 7)
	k.must(r.SetPrefetch(k.ctx, 1))
	for i := range 7 {
		in := k.receive(r, 1)
		k.wantBodies(in, fmt.Sprint(i+1))
		k.settle(r, driver.Ack, in...)
	}
}

func releaseOne(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 2)...)
	r := s.consume(q, 1)
	k.settle(r, driver.Release, k.receive(r, 1)...)
	in := k.receive(r, 1)
	k.wantBodies(in, "1")
	if r.Features().Counts == driver.CountStarts && in[0].Attempt > 2 {
		k.Errorf("attempt %d after a release", in[0].Attempt)
	}
}

func reject(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 2)...)
	r := s.consume(q, 1)
	k.settle(r, driver.Reject, k.receive(r, 1)...)
	k.wantBodies(k.receive(r, 1), "2")
}

func settleTwice(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 3)...)
	r := s.consume(q, 1)
	in := k.receive(r, 1)
	batch := []driver.Settlement{{Tag: driver.Tag{ID: 1 << 61, Ref: "never"}}, {Tag: in[0].Tag}}
	k.must(r.Settle(k.ctx, batch))
	k.wantKind(batch[0].Err, driver.ErrLeaseLost)
	k.must(batch[1].Err)
	again := []driver.Settlement{{Tag: in[0].Tag, Outcome: driver.Requeue}}
	k.must(r.Settle(k.ctx, again))
	if err := again[0].Err; err != nil && !errors.Is(err, driver.ErrLeaseLost) {
		k.Errorf("settled twice: %v", err)
	}
	for _, want := range []string{"2", "3"} { // the credit is as it was
		in := k.receive(r, 1)
		k.wantBodies(in, want)
		k.nothing(r)
		k.settle(r, driver.Ack, in...)
	}
	k.nothing(r)
}

func order(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	const n = 300
	r := s.consume(q, 20)
	if !r.Features().Ordered {
		k.Skip("the queue keeps no order")
	}
	s.mustPublish(numbered(q, n)...)
	for i := 0; i < n; {
		in := k.receive(r, 1)
		for _, m := range in {
			if i++; string(m.Body) != fmt.Sprint(i) {
				k.Fatalf("%q, want %d", m.Body, i)
			}
		}
		k.settle(r, driver.Ack, in...)
	}
}

func noAck(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 5)...)
	r := s.consumeWith(driver.ReceiverConfig{Queue: q, Prefetch: 2, NoAck: true})
	k.wantBodies(k.receive(r, 5), "1", "2", "3", "4", "5")
	k.must(r.Close(k.ctx))
	s.ready(q, 0)
	k.nothing(s.consume(q, 1))
}

func consumerTag(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 2)...)
	r := s.consumeWith(driver.ReceiverConfig{Queue: q, Prefetch: 1, Tag: k.name("tag")})
	if in := k.receive(r, 1); in[0].ConsumerTag != k.name("tag") {
		k.Errorf("consumer tag %q", in[0].ConsumerTag)
	}
	if in := k.receive(s.consume(q, 1), 1); in[0].ConsumerTag == "" {
		k.Error("no consumer tag was made up")
	}
}

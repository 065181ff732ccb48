package drivertest

import (
	"github.com/gombu/gombu/driver"
)

var creditCases = []testCase{
	{"Behaviour169_PrefetchHolds", prefetchHolds},
	{"PrefetchLive", prefetchLive},
	{"ZeroDrainResume", zeroDrainResume},
	{"ZeroGivesBack", zeroGivesBack},
	{"TwoReceiversShare", twoReceivers},
}

func prefetchHolds(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 10)...)
	r := s.consume(q, 3)
	in := k.receive(r, 3)
	k.nothing(r)
	s.ready(q, 7)
	k.settle(r, driver.Ack, in[0])
	more := k.receive(r, 1)
	k.nothing(r)
	k.settle(r, driver.Ack, in[1], in[2], more[0])
	k.wantBodies(k.receive(r, 3), "5", "6", "7")
	k.nothing(r)
}

func prefetchLive(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 10)...)
	r := s.consume(q, 2)
	in := k.receive(r, 2)
	k.nothing(r)
	k.must(r.SetPrefetch(k.ctx, 5))
	in = append(in, k.receive(r, 3)...)
	k.nothing(r)
	k.must(r.SetPrefetch(k.ctx, 1))
	k.nothing(r)
	k.settle(r, driver.Ack, in...)
	last := k.receive(r, 1)
	k.wantBodies(append(in, last...), "1", "2", "3", "4", "5", "6")
	for _, m := range append(in, last...) {
		if m.Redelivered {
			k.Errorf("%q was redelivered", m.Body)
		}
	}
	k.nothing(r)
}

func zeroDrainResume(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 4)...)
	r := s.consume(q, 2)
	in := k.receive(r, 2)
	k.must(r.SetPrefetch(k.ctx, 0))
	k.settle(r, driver.Ack, in...) // what was received can be settled
	k.nothing(r)
	s.ready(q, 2)
	k.must(r.SetPrefetch(k.ctx, 2))
	k.wantBodies(k.receive(r, 2), "3", "4")
}

// What a stopped receiver had not handed out is there for others, in order.
func zeroGivesBack(k *kit) {
	s, other := k.connect(), k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(numbered(q, 6)...)
	r := s.consume(q, 5)
	in := k.receive(r, 1)
	k.wantBodies(in, "1")
	k.must(r.SetPrefetch(k.ctx, 0))
	s.ready(q, 5)
	k.wantBodies(k.receive(other.consume(q, 10), 5), "2", "3", "4", "5", "6")
	k.settle(r, driver.Ack, in...)
	k.nothing(r)
}

func twoReceivers(k *kit) {
	s := k.connect()
	a, b := k.name("a"), k.name("b")
	s.declare(driver.Queue{Name: a}, driver.Queue{Name: b})
	s.mustPublish(numbered(a, 20)...)
	s.mustPublish(numbered(b, 1)...)
	onA, onB := s.consume(a, 5), s.consume(b, 5)
	k.wantBodies(k.receive(onB, 1), "1") // a busy neighbour takes nothing away
	second := s.consume(a, 5)
	k.receive(onA, 5)
	k.receive(second, 5)
	k.nothing(onA)
	s.ready(a, 10)
}

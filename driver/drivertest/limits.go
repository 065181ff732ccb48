package drivertest

import (
	"errors"
	"fmt"
	"time"

	"github.com/gombu/gombu/driver"
)

var limitCases = []testCase{
	{"Behaviour199_Expiration", expiration},
	{"Behaviour199_QueueTTL", queueTTL},
	{"ExpiresAtOnce", expiresAtOnce},
	{"QueueExpires", queueExpires},
	{"MaxLengthDropsHead", maxLength},
	{"MaxLengthRejects", maxLengthRejects},
	{"MaxLengthBytes", maxLengthBytes},
	{"Behaviour198_Priority", priority},
}

func expiration(k *kit) {
	k.needs("expiration")
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	m := message("", q, "short")
	m.Props.Expiration = 50 * time.Millisecond
	s.mustPublish(m)
	s.ready(q, 0)
	m = message("", q, "long")
	m.Props.Expiration = time.Hour
	s.mustPublish(m)
	r := s.consume(q, 10)
	k.wantBodies(k.receive(r, 1), "long")
	k.nothing(r)
}

func queueTTL(k *kit) {
	k.needs("x-message-ttl")
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q, MessageTTL: 50 * time.Millisecond})
	s.mustPublish(message("", q, "short"))
	s.ready(q, 0)
	k.nothing(s.consume(q, 10))
}

func expiresAtOnce(k *kit) {
	k.needs("expiration")
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	m := message("", q, "now or never")
	m.Props.Expiration = -1
	s.mustPublish(m)
	s.ready(q, 0)
	r := s.consume(q, 10)
	k.nothing(r)
	done := make(chan []driver.Incoming, 1)
	k.background(func() {
		dst := make([]driver.Incoming, 1)
		n, _ := r.Receive(k.ctx, dst)
		done <- dst[:n]
	})
	k.eventually("a consumer that waits gets it", func() bool {
		s.mustPublish(m)
		select {
		case in := <-done:
			k.wantBodies(in, "now or never")
			return true
		default:
			return false
		}
	})
}

func queueExpires(k *kit) {
	k.needs("x-expires")
	s := k.connect()
	q := driver.Queue{Name: k.name("q"), Expires: 300 * time.Millisecond}
	s.declare(q)
	r := s.consume(q.Name, 1)
	used := time.NewTimer(2 * q.Expires)
	defer used.Stop()
	<-used.C
	k.must(s.apply(step(driver.Check, q)))
	k.must(r.Close(k.ctx))
	s.mustPublish(message("", q.Name, "goes with its queue"))
	unused := time.NewTicker(2 * q.Expires) // in case that asking counts as using
	defer unused.Stop()
	k.eventually("the unused queue goes, and what it holds", func() bool {
		<-unused.C
		info, err := s.Inspect(k.ctx, q.Name)
		return errors.Is(err, driver.ErrNotFound) || err == nil && info.Ready == 0
	})
}

func maxLength(k *kit) {
	k.needs("x-max-length")
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q, MaxLength: 3})
	s.mustPublish(numbered(q, 5)...)
	k.wantBodies(k.receive(s.consume(q, 10), 3), "3", "4", "5")
}

func maxLengthRejects(k *kit) {
	k.needs("x-max-length", "x-overflow")
	if !k.features.Confirm {
		k.Skip("without confirms a refusal is silent")
	}
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q, MaxLength: 2, Args: driver.Headers{{Key: "x-overflow", Value: "reject-publish"}}})
	s.mustPublish(numbered(q, 2)...)
	k.wantKind(s.publish(message("", q, "3"))[0], driver.ErrRefused)
	r := s.consume(q, 10)
	in := k.receive(r, 2)
	k.wantBodies(in, "1", "2")
	k.settle(r, driver.Ack, in...)
	s.mustPublish(message("", q, "4"))
	k.wantBodies(k.receive(r, 1), "4")
}

func maxLengthBytes(k *kit) {
	k.needs("x-max-length-bytes")
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q, MaxLengthBytes: 10})
	for i := range 5 {
		s.mustPublish(message("", q, fmt.Sprintf("%d...", i)))
	}
	k.wantBodies(k.receive(s.consume(q, 10), 2), "3...", "4...")
}

func priority(k *kit) {
	k.needs("x-max-priority")
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q, MaxPriority: 9})
	for i, p := range []uint8{3, 6, 3, 0, 200} {
		m := message("", q, fmt.Sprintf("%d:%d", i, p))
		m.Props.Priority = p
		s.mustPublish(m)
	}
	r := s.consume(q, 1)
	for _, want := range []string{"4:200", "1:6", "0:3", "2:3", "3:0"} {
		in := k.receive(r, 1)
		k.wantBodies(in, want)
		k.settle(r, driver.Ack, in...)
	}
}

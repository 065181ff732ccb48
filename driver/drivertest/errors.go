package drivertest

import (
	"errors"

	"github.com/gombu/gombu/driver"
)

var errorCases = []testCase{
	{"ConsumeMissingQueue", consumeMissing},
	{"PublishToMissingExchange", publishMissing},
	{"PublishToInternalExchange", publishInternal},
	{"TooLarge", tooLarge},
	{"UnsupportedHeader", unsupportedHeader},
	{"QueueDeletedWhileConsumed", deletedWhileConsumed},
	{"ExclusiveConsumer", exclusiveConsumer},
	{"DefaultExchangeStays", defaultExchangeStays},
	{"UnknownExchangeType", unknownType},
}

func consumeMissing(k *kit) {
	if k.h.ImplicitQueues {
		k.Skip("no queue is ever missing")
	}
	s := k.connect()
	s.declare(driver.Queue{Name: k.name("q")})
	good := s.consume(k.name("q"), 1)
	_, err := s.OpenReceiver(k.ctx, driver.ReceiverConfig{Queue: k.name("missing"), Prefetch: 1})
	k.wantKind(err, driver.ErrNotFound)
	s.mustPublish(message("", k.name("q"), "m"))
	k.wantBodies(k.receive(good, 1), "m") // the others live on
}

func publishMissing(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	if !k.features.Mandatory {
		k.Skip("the transport does not know where messages go")
	}
	err := s.publish(message(k.name("x"), "k", "m"))[0]
	if !errors.Is(err, driver.ErrNotFound) && !errors.Is(err, driver.ErrUnroutable) {
		k.Fatalf("%v, want not found or unroutable", err)
	}
	s.mustPublish(message("", q, "the sender lives on"))
	k.wantBodies(k.receive(s.consume(q, 1), 1), "the sender lives on")
}

func publishInternal(k *kit) {
	k.needs("internal")
	s := k.connect()
	s.declare(driver.Exchange{Name: k.name("x"), Internal: true}, driver.Queue{Name: k.name("q")},
		driver.Binding{Exchange: k.name("x"), Queue: k.name("q"), Key: "k"})
	k.wantKind(s.publish(message(k.name("x"), "k", "m"))[0], driver.ErrDenied)
	s.mustPublish(message("", k.name("q"), "the sender lives on"))
}

func tooLarge(k *kit) {
	limit := k.features.MaxBody
	if limit == 0 || limit > 8<<20 {
		k.Skip("no limit of its own within reach")
	}
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	k.wantKind(s.publish(driver.Outgoing{Key: q, Body: make([]byte, limit+1)})[0], driver.ErrTooLarge)
	s.mustPublish(message("", q, "m"))
}

func unsupportedHeader(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	bad := message("", q, "m")
	bad.Props.Headers = driver.Headers{{Key: "channel", Value: make(chan int)}}
	errs := s.publish(message("", q, "1"), bad, message("", q, "2"))
	k.must(errs[0])
	k.wantKind(errs[1], driver.ErrInvalid)
	k.must(errs[2])
	k.wantBodies(k.receive(s.consume(q, 5), 2), "1", "2")
}

func deletedWhileConsumed(k *kit) {
	s := k.connect()
	q := driver.Queue{Name: k.name("q")}
	s.declare(q)
	r := s.consume(q.Name, 1)
	k.nothing(r)
	result := make(chan error, 1)
	k.background(func() { result <- second(r.Receive(k.ctx, make([]driver.Incoming, 1))) })
	k.must(s.apply(step(driver.Delete, q)))
	k.wantKind(<-result, driver.ErrNotFound)
	k.eventually("the session says that the queue is gone", func() bool { return s.has(driver.Gone, q.Name) })
	k.must(r.Close(k.ctx))
	s.declare(q) // the session lives on
	s.mustPublish(message("", q.Name, "m"))
	k.wantBodies(k.receive(s.consume(q.Name, 1), 1), "m")
}

func exclusiveConsumer(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	only := s.consumeWith(driver.ReceiverConfig{Queue: q, Prefetch: 1, Exclusive: true})
	_, err := s.OpenReceiver(k.ctx, driver.ReceiverConfig{Queue: q, Prefetch: 1})
	k.wantKind(err, driver.ErrConflict)
	k.must(only.Close(k.ctx))
	k.eventually("the queue is free again", func() bool {
		r, err := s.OpenReceiver(k.ctx, driver.ReceiverConfig{Queue: q, Prefetch: 1})
		return err == nil && r.Close(k.ctx) == nil
	})
}

// Every queue is bound to the default exchange by its name; nobody need, and
// nobody can, do anything about it.
func defaultExchangeStays(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Exchange{}, driver.Queue{Name: q}, driver.Binding{Queue: q, Key: q})
	k.must(s.apply(step(driver.Check, driver.Exchange{})))
	if s.apply(step(driver.Declare, driver.Binding{ToExchange: "amq.direct", Key: q})) == nil {
		k.Error("bound an exchange to the default exchange")
	}
	s.mustPublish(message("", q, "m"))
	k.wantBodies(k.receive(s.consume(q, 1), 1), "m")
}

func unknownType(k *kit) {
	s := k.connect()
	if s.apply(step(driver.Declare, driver.Exchange{Name: k.name("x"), Type: "no-such-type"})) == nil {
		k.Error("an exchange of a type that does not exist")
	}
	s.declare(driver.Queue{Name: k.name("q")}) // the session lives on
}

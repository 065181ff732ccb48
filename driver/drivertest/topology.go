package drivertest

import (
	"strings"

	"github.com/gombu/gombu/driver"
)

var topologyCases = []testCase{
	{"Behaviour171_Redeclare", redeclare},
	{"OneBadStepFailsAlone", oneBadStep},
	{"Check", check},
	{"DeleteMissing", deleteMissing},
	{"DeleteIfUnused", deleteIfUnused},
	{"Behaviour178_DeleteIfEmpty", deleteIfEmpty},
	{"DeletedQueueLosesItsBindings", deletedQueueUnbound},
	{"BindTwiceUnbindOnce", bindTwice},
	{"BindMissingExchange", bindMissing},
	{"Exclusive", exclusive},
	{"AutoDeleteQueue", autoDeleteQueue},
	{"AutoDeleteExchange", autoDeleteExchange},
	{"PurgeAndInspect", purgeAndInspect},
	{"List", list},
}

func redeclare(k *kit) {
	s := k.connect()
	x := driver.Exchange{Name: k.name("x"), Type: driver.TypeDirect}
	q := driver.Queue{Name: k.name("q")}
	s.declare(x, q, x, q)
	x.Type = driver.TypeTopic
	err := s.apply(step(driver.Declare, x))
	k.wantKind(err, driver.ErrConflict)
	if !strings.Contains(err.Error(), "type") {
		k.Errorf("%v: want the field that differs", err)
	}
	x.Type, x.AutoDelete = driver.TypeDirect, true
	k.wantKind(s.apply(step(driver.Declare, x)), driver.ErrConflict)
	q.MaxLength = 7
	err = s.apply(step(driver.Declare, q))
	k.wantKind(err, driver.ErrConflict)
	if !strings.Contains(err.Error(), "x-max-length") {
		k.Errorf("%v: want the argument that differs", err)
	}
}

func oneBadStep(k *kit) {
	s := k.connect()
	s.declare(driver.Exchange{Name: k.name("x")}, driver.Queue{Name: k.name("q")})
	steps := []driver.Step{
		step(driver.Declare, driver.Exchange{Name: k.name("x"), Type: driver.TypeFanout}),
		step(driver.Check, driver.Exchange{Name: k.name("missing")}),
		step(driver.Declare, driver.Binding{Exchange: k.name("x"), Queue: k.name("q"), Key: "k"}),
	}
	k.must(s.Apply(k.ctx, steps))
	k.wantKind(steps[0].Err, driver.ErrConflict)
	k.wantKind(steps[1].Err, driver.ErrNotFound)
	k.must(steps[2].Err)
	s.mustPublish(message(k.name("x"), "k", "m"))
	k.wantBodies(k.receive(s.consume(k.name("q"), 1), 1), "m")
}

func check(k *kit) {
	s := k.connect()
	x, q := driver.Exchange{Name: k.name("x")}, driver.Queue{Name: k.name("q")}
	k.wantKind(s.apply(step(driver.Check, x)), driver.ErrNotFound)
	k.wantKind(s.apply(step(driver.Check, q)), driver.ErrNotFound)
	s.declare(x, q)
	k.must(s.apply(step(driver.Check, x)))
	k.must(s.apply(step(driver.Check, q)))
	k.must(s.apply(step(driver.Delete, x)))
	k.must(s.apply(step(driver.Delete, q)))
	k.wantKind(s.apply(step(driver.Check, x)), driver.ErrNotFound)
	k.wantKind(s.apply(step(driver.Check, q)), driver.ErrNotFound)
}

func deleteMissing(k *kit) {
	s := k.connect()
	s.declare(driver.Exchange{Name: k.name("there")}, driver.Queue{Name: k.name("q")})
	k.must(s.apply(step(driver.Delete, driver.Exchange{Name: k.name("x")})))
	k.must(s.apply(step(driver.Delete, driver.Queue{Name: k.name("none")})))
	k.must(s.apply(step(driver.Delete, driver.Binding{Exchange: k.name("there"), Queue: k.name("q"), Key: "never"})))
}

func deleteIfUnused(k *kit) {
	s := k.connect()
	x, q := driver.Exchange{Name: k.name("x")}, driver.Queue{Name: k.name("q")}
	b := driver.Binding{Exchange: x.Name, Queue: q.Name, Key: "k"}
	s.declare(x, q, b)
	unused := step(driver.Delete, x)
	unused.IfUnused = true
	k.wantKind(s.apply(unused), driver.ErrConflict)
	k.must(s.apply(step(driver.Delete, b)))
	k.must(s.apply(unused))

	unused = step(driver.Delete, q)
	unused.IfUnused = true
	r := s.consume(q.Name, 1)
	k.wantKind(s.apply(unused), driver.ErrConflict)
	k.must(r.Close(k.ctx))
	k.must(s.apply(unused))
	k.wantKind(s.apply(step(driver.Check, q)), driver.ErrNotFound)
}

func deleteIfEmpty(k *kit) {
	s := k.connect()
	q := driver.Queue{Name: k.name("q")}
	s.declare(q)
	s.mustPublish(message("", q.Name, "m"))
	s.ready(q.Name, 1)
	empty := step(driver.Delete, q)
	empty.IfEmpty = true
	k.wantKind(s.apply(empty), driver.ErrConflict)
	k.must(s.apply(step(driver.Check, q)))
	if n, err := s.Purge(k.ctx, q.Name); n != 1 || err != nil {
		k.Fatal(n, err)
	}
	k.must(s.apply(empty))
	k.wantKind(s.apply(step(driver.Check, q)), driver.ErrNotFound)
}

func deletedQueueUnbound(k *kit) {
	s := k.connect()
	x, q := driver.Exchange{Name: k.name("x")}, driver.Queue{Name: k.name("q")}
	s.declare(x, q, driver.Binding{Exchange: x.Name, Queue: q.Name, Key: "k"})
	s.mustPublish(message(x.Name, "k", "lost with its queue"))
	k.must(s.apply(step(driver.Delete, q)))
	s.declare(q)
	k.unroutable(s, message(x.Name, "k", "m"))
	k.nothing(s.consume(q.Name, 1))
}

// unroutable publishes what no queue may take.
func (k *kit) unroutable(s *session, m driver.Outgoing) {
	k.Helper()
	if !k.features.Mandatory {
		m.NoMandatory = true
		s.mustPublish(m)
		return
	}
	k.wantKind(s.publish(m)[0], driver.ErrUnroutable)
	m.NoMandatory = true
	s.mustPublish(m)
}

func bindTwice(k *kit) {
	s := k.connect()
	x, q := driver.Exchange{Name: k.name("x")}, driver.Queue{Name: k.name("q")}
	b := driver.Binding{Exchange: x.Name, Queue: q.Name, Key: "k"}
	s.declare(x, q, b, b)
	s.mustPublish(message(x.Name, "k", "once"))
	r := s.consume(q.Name, 10)
	in := k.receive(r, 1)
	k.wantBodies(in, "once")
	k.nothing(r)
	k.settle(r, driver.Ack, in...)
	k.must(s.apply(step(driver.Delete, b)))
	k.unroutable(s, message(x.Name, "k", "m"))
	k.nothing(r)
}

func bindMissing(k *kit) {
	s := k.connect()
	s.declare(driver.Queue{Name: k.name("q")})
	k.wantKind(s.apply(step(driver.Declare, driver.Binding{Exchange: k.name("x"), Queue: k.name("q")})), driver.ErrNotFound)
}

func exclusive(k *kit) {
	k.needs("exclusive")
	mine, other := k.connect(), k.connect()
	q := driver.Queue{Name: k.name("q"), Exclusive: true}
	mine.declare(q)
	mine.declare(q)
	k.wantKind(other.apply(step(driver.Check, q)), driver.ErrConflict)
	k.wantKind(other.apply(step(driver.Declare, q)), driver.ErrConflict)
	_, err := other.OpenReceiver(k.ctx, driver.ReceiverConfig{Queue: q.Name, Prefetch: 1})
	k.wantKind(err, driver.ErrConflict)
	other.mustPublish(message("", q.Name, "everybody may publish"))
	k.wantBodies(k.receive(mine.consume(q.Name, 1), 1), "everybody may publish")
	mine.end()
	k.eventually("the queue goes with its session", func() bool {
		return other.apply(step(driver.Check, q)) != nil
	})
	k.wantKind(other.apply(step(driver.Check, q)), driver.ErrNotFound)
}

func autoDeleteQueue(k *kit) {
	k.needs("auto_delete")
	s := k.connect()
	q := driver.Queue{Name: k.name("q"), AutoDelete: true}
	s.declare(q)
	k.must(s.apply(step(driver.Check, q)))
	first, second := s.consume(q.Name, 1), s.consume(q.Name, 1)
	k.must(first.Close(k.ctx))
	k.must(s.apply(step(driver.Check, q)))
	k.must(second.Close(k.ctx))
	k.eventually("the queue goes with its last consumer", func() bool {
		return s.apply(step(driver.Check, q)) != nil
	})
	k.wantKind(s.apply(step(driver.Check, q)), driver.ErrNotFound)
}

func autoDeleteExchange(k *kit) {
	k.needs("auto_delete")
	s := k.connect()
	x, q := driver.Exchange{Name: k.name("x"), AutoDelete: true}, driver.Queue{Name: k.name("q")}
	b := driver.Binding{Exchange: x.Name, Queue: q.Name, Key: "k"}
	s.declare(x, q, b)
	k.must(s.apply(step(driver.Check, x)))
	k.must(s.apply(step(driver.Delete, b)))
	k.wantKind(s.apply(step(driver.Check, x)), driver.ErrNotFound)
}

func purgeAndInspect(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.ready(q, 0)
	s.mustPublish(numbered(q, 3)...)
	s.ready(q, 3)
	if n, err := s.Purge(k.ctx, q); n != 3 || err != nil {
		k.Fatal(n, err)
	}
	s.ready(q, 0)
	s.mustPublish(numbered(q, 3)...)
	r := s.consume(q, 2)
	in := k.receive(r, 2)
	s.ready(q, 1)
	if info, err := s.Inspect(k.ctx, q); err != nil || info.Consumers != 1 && info.Consumers != -1 || info.Unsettled != 2 && info.Unsettled != -1 || info.Name != q {
		k.Errorf("%+v, %v", info, err)
	}
	k.settle(r, driver.Ack, in...)
	if _, err := s.Inspect(k.ctx, k.name("none")); !k.h.ImplicitQueues {
		k.wantKind(err, driver.ErrNotFound)
	}
}

func list(k *kit) {
	s := k.connect()
	l, ok := s.Conn.(driver.Lister)
	if !ok {
		k.Skip("the transport cannot list queues")
	}
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	s.mustPublish(message("", q, "m"))
	k.eventually("the queue is listed with its message", func() bool {
		all, err := l.Queues(k.ctx)
		if err != nil {
			return false
		}
		for _, info := range all {
			if info.Name == q {
				return info.Ready == 1
			}
		}
		return false
	})
}

package amqp

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

func TestRoutingOfEachType(t *testing.T) {
	s := connect(t, brokerConfig(t))
	for _, c := range []struct {
		kind string
		b    driver.Binding
		hit  driver.Outgoing
		miss driver.Outgoing
	}{
		{driver.TypeDirect, driver.Binding{Key: "a"}, driver.Outgoing{Key: "a"}, driver.Outgoing{Key: "b"}},
		{driver.TypeTopic, driver.Binding{Key: "a.*.#"}, driver.Outgoing{Key: "a.b"}, driver.Outgoing{Key: "a"}},
		{driver.TypeFanout, driver.Binding{}, driver.Outgoing{Key: "whatever"}, driver.Outgoing{}},
		{
			driver.TypeHeaders, driver.Binding{Args: driver.Headers{{Key: "n", Value: 1}, {Key: "x-match", Value: "all"}}},
			driver.Outgoing{Props: driver.Properties{Headers: driver.Headers{{Key: "n", Value: 1}}}},
			driver.Outgoing{Props: driver.Properties{Headers: driver.Headers{{Key: "n", Value: 2}}}},
		},
	} {
		t.Run(c.kind, func(t *testing.T) {
			q := queue(t, s, driver.Queue{})
			ex := exchange(t, s, driver.Exchange{Type: c.kind})
			c.b.Exchange, c.b.Queue, c.hit.Exchange, c.miss.Exchange = ex, q, ex, ex
			apply(t, s, driver.Step{Binding: &c.b})
			if c.kind != driver.TypeFanout {
				wantKind(t, publish(t, s, c.miss)[0], driver.ErrUnroutable)
			}
			mustPublish(t, s, c.hit)
			apply(t, s, driver.Step{Op: driver.Delete, Binding: &c.b})
			wantKind(t, publish(t, s, c.hit)[0], driver.ErrUnroutable)
		})
	}
}

func TestExchangeToExchangeAndAlternate(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q, lost := queue(t, s, driver.Queue{}), queue(t, s, driver.Queue{})
	rest := exchange(t, s, driver.Exchange{Type: driver.TypeFanout})
	inner := exchange(t, s, driver.Exchange{Type: driver.TypeDirect, Internal: true})
	outer := exchange(t, s, driver.Exchange{Type: driver.TypeTopic, Alternate: rest})
	hop := driver.Binding{Exchange: outer, ToExchange: inner, Key: "a.#"}
	apply(t, s,
		driver.Step{Binding: &driver.Binding{Exchange: inner, Queue: q, Key: "a.b"}},
		driver.Step{Binding: &driver.Binding{Exchange: rest, Queue: lost}},
		driver.Step{Binding: &hop})
	mustPublish(t, s, driver.Outgoing{Exchange: outer, Key: "a.b"}, driver.Outgoing{Exchange: outer, Key: "z"})
	apply(t, s, driver.Step{Op: driver.Delete, Binding: &hop})
	mustPublish(t, s, driver.Outgoing{Exchange: outer, Key: "a.b"})
	eventually(t, "one went through, two to the alternate exchange", func() bool {
		a, err1 := s.Inspect(testContext(t), q)
		b, err2 := s.Inspect(testContext(t), lost)
		return err1 == nil && err2 == nil && a.Ready == 1 && b.Ready == 2
	})
}

// A failing step fails neither the session nor those that do not depend on it.
func TestStepsFailAlone(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{MaxLength: 10})
	ex := exchange(t, s, driver.Exchange{})
	other := driver.Queue{Name: unique(t)}
	steps := []driver.Step{
		{Queue: &driver.Queue{Name: q, MaxLength: 11}},
		{Queue: &driver.Queue{Name: q, MaxLength: 10, Transient: true}},
		{Exchange: &driver.Exchange{Name: ex, Type: driver.TypeTopic}},
		{Exchange: &driver.Exchange{Name: ex + ".x", Type: "no-such-type"}},
		{Binding: &driver.Binding{Exchange: ex + ".missing", Queue: q}},
		{Op: driver.Check, Queue: &driver.Queue{Name: q + ".missing"}},
		{Op: driver.Check, Exchange: &driver.Exchange{Name: ex + ".missing"}},
		{Op: driver.Check, Binding: &driver.Binding{Exchange: ex, Queue: q}},
		{Queue: &driver.Queue{Name: "amq.mine"}},
		{Queue: &driver.Queue{Name: unique(t), Args: driver.Headers{{Key: "x-max-length", Value: "ten"}}}},
		{Queue: &driver.Queue{Name: unique(t), Args: driver.Headers{{Key: "odd", Value: struct{}{}}}}},
		{Queue: &driver.Queue{Name: unique(t), Transient: true, Args: driver.Headers{{Key: "x-queue-type", Value: "quorum"}}}},
		{Queue: &driver.Queue{Name: strings.Repeat("n", 256)}},
		{Queue: &driver.Queue{}},
		{},
		{Queue: &other},
		{Op: driver.Delete, Queue: &other},
		{Op: driver.Delete, Queue: &other},
		{Op: driver.Delete, Exchange: &driver.Exchange{Name: ex + ".missing"}},
		{Op: driver.Delete, Binding: &driver.Binding{Exchange: ex, Queue: q + ".missing"}},
	}
	if err := s.Apply(testContext(t), steps); err != nil {
		t.Fatal(err)
	}
	for i, want := range []error{
		driver.ErrConflict, driver.ErrConflict, driver.ErrConflict, driver.ErrUnsupported, driver.ErrNotFound, driver.ErrNotFound,
		driver.ErrNotFound, driver.ErrUnsupported, driver.ErrDenied, driver.ErrInvalid, driver.ErrInvalid, driver.ErrInvalid,
		driver.ErrInvalid, driver.ErrInvalid, driver.ErrInvalid, nil, nil, nil, nil, nil,
	} {
		if err := steps[i].Err; !errors.Is(err, want) {
			t.Errorf("step %d: %v; want %v", i, err, want)
		}
	}
	for i, want := range []string{"x-max-length: have 10, want 11", "durable: have true, want false", "type: have direct, want topic"} {
		if err := steps[i].Err; err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("step %d: %v; want %q in it", i, err, want)
		}
	}
	var e *amqp091.Error
	if !errors.As(steps[0].Err, &e) || e.Code != amqp091.PreconditionFailed {
		t.Error("the broker's own error is not reachable:", steps[0].Err)
	}
	if err := s.Err(); err != nil {
		t.Fatal("the session ended:", err)
	}
}

func TestInequivalentTexts(t *testing.T) {
	for reason, want := range map[string]string{
		"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received the value '10' of type 'long' but current is none":                             "x-max-length: have none, want 10",
		"PRECONDITION_FAILED - inequivalent arg 'x-max-length' for queue 'q' in vhost '/': received none but current is the value '10' of type 'signedint'":                        "x-max-length: have 10, want none",
		"PRECONDITION_FAILED - inequivalent arg 'x-expires' for queue 'it's' in vhost '/': received the value '1' of type 'long' but current is the value '2' of type 'signedint'": "x-expires: have 2, want 1",
		"PRECONDITION_FAILED - inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'":                                                      "durable: have true, want false",
		"PRECONDITION_FAILED - something new": `Exception (406) Reason: "PRECONDITION_FAILED - something new"`,
	} {
		if got := explain(&amqp091.Error{Code: 406, Reason: reason}).Error(); got != want {
			t.Errorf("%s: %q, want %q", reason, got, want)
		}
	}
}

func TestNeverDeclared(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	apply(t, s,
		driver.Step{Exchange: &driver.Exchange{Name: "", Type: driver.TypeTopic}},
		driver.Step{Exchange: &driver.Exchange{Name: "amq.direct", Type: driver.TypeTopic}}, // would conflict
		driver.Step{Exchange: &driver.Exchange{Name: unique(t), Type: "nonsense", NoDeclare: true}},
		driver.Step{Queue: &driver.Queue{Name: q, Transient: true, NoDeclare: true}}, // would conflict
		driver.Step{Queue: &driver.Queue{Name: q, Transient: true, Passive: true}},
		driver.Step{Exchange: &driver.Exchange{Name: "amq.topic", Passive: true}},
		driver.Step{Op: driver.Check, Exchange: &driver.Exchange{Name: ""}},
		driver.Step{Op: driver.Check, Exchange: &driver.Exchange{Name: "amq.topic"}},
		driver.Step{Binding: &driver.Binding{Exchange: "", Queue: q, Key: q}},
	)
	steps := []driver.Step{{Queue: &driver.Queue{Name: q + ".missing", Passive: true}}}
	if err := s.Apply(testContext(t), steps); err != nil {
		t.Fatal(err)
	}
	wantKind(t, steps[0].Err, driver.ErrNotFound)
}

func TestDeleteOnlyIf(t *testing.T) {
	s := connect(t, brokerConfig(t))
	full, used := queue(t, s, driver.Queue{}), queue(t, s, driver.Queue{})
	ex := exchange(t, s, driver.Exchange{})
	apply(t, s, driver.Step{Binding: &driver.Binding{Exchange: ex, Queue: used}})
	mustPublish(t, s, to(full, "x"))
	openReceiver(t, s, driver.ReceiverConfig{Queue: used, Prefetch: 1})
	steps := []driver.Step{
		{Op: driver.Delete, IfEmpty: true, Queue: &driver.Queue{Name: full}},
		{Op: driver.Delete, IfUnused: true, Queue: &driver.Queue{Name: used}},
		{Op: driver.Delete, IfUnused: true, Exchange: &driver.Exchange{Name: ex}},
		{Op: driver.Delete, Queue: &driver.Queue{Name: full}},
	}
	if err := s.Apply(testContext(t), steps); err != nil {
		t.Fatal(err)
	}
	for _, step := range steps[:3] {
		wantKind(t, step.Err, driver.ErrConflict)
	}
	if steps[3].Err != nil {
		t.Fatal(steps[3].Err)
	}
}

func TestExclusiveQueue(t *testing.T) {
	s, other := connect(t, brokerConfig(t)), connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{Exclusive: true, Transient: true})
	_, err := other.Inspect(testContext(t), q)
	wantKind(t, err, driver.ErrConflict) // 405, locked
	if err := s.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "it goes with its connection", func() bool {
		_, err := other.Inspect(testContext(t), q)
		return errors.Is(err, driver.ErrNotFound)
	})
}

func TestInspectAndPurge(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	mustPublish(t, s, numbered(q, 5)...)
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 2})
	receive(t, r, 2)
	eventually(t, "three are ready", func() bool {
		info, err := s.Inspect(testContext(t), q)
		return err == nil && info == driver.QueueInfo{Name: q, Ready: 3, Unsettled: -1, Consumers: 1}
	})
	if n, err := s.Purge(testContext(t), q); n != 3 || err != nil {
		t.Fatal(n, err)
	}
	_, err := s.Inspect(testContext(t), q+".missing")
	wantKind(t, err, driver.ErrNotFound)
	_, err = s.Purge(testContext(t), q+".missing")
	wantKind(t, err, driver.ErrNotFound)
	_, err = s.Inspect(testContext(t), strings.Repeat("n", 256))
	wantKind(t, err, driver.ErrInvalid)
}

func TestQueuesByManagement(t *testing.T) {
	cfg := brokerConfig(t)
	s := connect(t, cfg)
	q := queue(t, s, driver.Queue{})
	mustPublish(t, s, numbered(q, 3)...)
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 2})
	receive(t, r, 2)
	var list driver.Lister = s
	var got driver.QueueInfo
	eventually(t, "the broker's figures, up to 5 s old, are right", func() bool {
		queues, err := list.Queues(testContext(t))
		if errors.Is(err, driver.ErrUnavailable) {
			needs(t, "RabbitMQ's management plugin", "scripts/services start rabbitmq")
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, info := range queues {
			if info.Name == q {
				got = info
			}
		}
		return got == driver.QueueInfo{Name: q, Ready: 1, Unsettled: 2, Consumers: 1}
	})
}

func TestManagementFailures(t *testing.T) {
	cfg := brokerConfig(t)
	full := cfg.withDefaults()
	cfg.Management = "http://guest:s3cret@" + strings.TrimPrefix(full.managementURL().Host, "http://")
	_, err := connect(t, cfg).Queues(testContext(t))
	wantKind(t, err, driver.ErrDenied)
	cfg.Management = "http://guest:s3cret@127.0.0.1:1"
	_, err = connect(t, cfg).Queues(testContext(t))
	wantKind(t, err, driver.ErrUnavailable)
	if strings.Contains(err.Error(), "s3cret") || !strings.Contains(err.Error(), "rabbitmq_management") {
		t.Fatal(err)
	}
}

// A question that the broker does not answer (a queue without a leader) holds
// up no other question, and its channel goes when the answer comes.
func TestHungQuestionHoldsUpNoOther(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	answer := make(chan struct{})
	for i := range maxHung + 3 {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
		prompt(t, 120*time.Millisecond, func() {
			wantKind(t, s.onScratch(ctx, "ask", q, func(*amqp091.Channel) error { <-answer; return nil }), context.DeadlineExceeded)
		})
		cancel()
		if i >= maxHung {
			continue // the one that is kept waits, too
		}
		if _, err := s.Inspect(testContext(t), q); err != nil {
			t.Fatalf("beside %d: %v", i+1, err)
		}
	}
	if n := s.channelCount(); n > maxHung+1 {
		t.Errorf("%d channels are open", n)
	}
	close(answer)
	if _, err := s.Inspect(testContext(t), q); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the channels left behind are closed", func() bool { return s.channelCount() == 1 })
}

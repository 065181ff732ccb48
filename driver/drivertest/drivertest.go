// Package drivertest is the conformance suite of transports: what package
// driver promises, tried on a real one. RabbitMQ is the referee: where the
// words of driver leave room, its behaviour is what the suite asks for.
//
// Cases follow Features and QueueFeatures: an ability that is not claimed is
// not asked for, one that is claimed and fails is a failure.
package drivertest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
)

// Harness brings a transport to the suite.
type Harness struct {
	// New returns a Connector to a broker that other cases may use as well;
	// names keep them apart. It is called once for each case.
	New func(t *testing.T) driver.Connector
	// Unique makes a name for a queue or exchange that nobody else has. Nil:
	// the prefix and a random text.
	Unique func(prefix string) string
	// Kill ends a session as a crash would, without a word to the broker. Nil:
	// the cases that need it are left out.
	Kill func(t *testing.T, c driver.Conn)
	// Patience is how long to wait for what must happen. 0: 10 s.
	Patience time.Duration
	// ImplicitQueues: a queue comes into being by use, so that consuming or
	// publishing to one that nobody declared is no error.
	ImplicitQueues bool
	// KeepsExtra: Properties.Extra survives.
	KeepsExtra bool
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	if h.Unique == nil {
		h.Unique = func(prefix string) string { return prefix + "." + rand.Text()[:8] }
	}
	if h.Patience == 0 {
		h.Patience = 10 * time.Second
	}
	for _, family := range []struct {
		name  string
		cases []testCase
	}{
		{"topology", topologyCases}, {"routing", routingCases}, {"settlement", settlementCases}, {"credit", creditCases},
		{"redelivery", redeliveryCases}, {"limits", limitCases}, {"properties", propertyCases}, {"errors", errorCases},
		{"cancellation", cancelCases}, {"concurrency", concurrencyCases}, {"options", optionCases},
	} {
		t.Run(family.name, func(t *testing.T) {
			for _, c := range family.cases {
				t.Run(c.name, func(t *testing.T) { c.run(newKit(t, h)) })
			}
		})
	}
}

type testCase struct {
	name string
	run  func(k *kit)
}

// background runs f beside the case, which waits for it.
func (k *kit) background(f func()) {
	var wg sync.WaitGroup
	wg.Go(f)
	k.Cleanup(wg.Wait)
}

// quiet is how long nothing must happen where nothing may.
const quiet = 120 * time.Millisecond

// kit is what a case works with.
type kit struct {
	*testing.T
	h         Harness
	ctx       context.Context
	connector driver.Connector
	features  driver.Features
	names     map[string]string
}

func newKit(t *testing.T, h Harness) *kit {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), max(6*h.Patience, time.Minute))
	t.Cleanup(cancel)
	c := h.New(t)
	return &kit{T: t, h: h, ctx: ctx, connector: c, features: c.Features(), names: map[string]string{}}
}

// name is a name of this case: the same for the same prefix.
func (k *kit) name(prefix string) string {
	if k.names[prefix] == "" {
		k.names[prefix] = k.h.Unique(prefix)
	}
	return k.names[prefix]
}

func (k *kit) must(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

func (k *kit) wantKind(err, kind error) {
	k.Helper()
	if !errors.Is(err, kind) {
		k.Fatalf("%v, want %v", err, kind)
	}
}

// needs leaves the case out when the transport does not keep one of what.
func (k *kit) needs(what ...string) {
	for _, w := range what {
		if !slices.Contains(k.features.Keeps, driver.KeepsAll) && !slices.Contains(k.features.Keeps, w) {
			k.Skipf("the transport does not keep %s", w)
		}
	}
}

func (k *kit) needsType(typ string) {
	if !slices.Contains(k.features.Types, typ) {
		k.Skipf("the transport has no %s exchanges", typ)
	}
}

// session is one session of the core's making: one Conn, or two with
// Features.SplitRoles.
type session struct {
	driver.Conn // declares, inspects, consumes
	k           *kit
	publisher   driver.Conn
	sender      driver.Sender
	seq         uint64

	mu     sync.Mutex
	events []driver.Event
}

var epochs struct {
	sync.Mutex
	n uint64
}

func (k *kit) connect() *session {
	k.Helper()
	s := &session{k: k}
	open := func(role driver.Role) driver.Conn {
		epochs.Lock()
		epochs.n++
		epoch := epochs.n
		epochs.Unlock()
		c, err := k.connector.Connect(k.ctx, driver.Env{
			Role: role, Epoch: epoch, Owner: "drivertest-" + rand.Text(), Log: slog.New(slog.DiscardHandler),
			Notify: func(e driver.Event) {
				s.mu.Lock()
				s.events = append(s.events, e)
				s.mu.Unlock()
			},
		})
		k.must(err)
		k.Cleanup(func() { k.close(c) })
		return c
	}
	if k.features.SplitRoles {
		s.publisher, s.Conn = open(driver.Publish), open(driver.Consume)
	} else {
		s.Conn = open(driver.Both)
		s.publisher = s.Conn
	}
	return s
}

func (k *kit) close(c driver.Conn) {
	k.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), k.h.Patience)
	defer cancel()
	if err := c.Close(ctx); err != nil {
		k.Errorf("close: %v", err)
	}
}

// end closes all of the session.
func (s *session) end() {
	s.k.Helper()
	s.k.close(s.Conn)
	if s.publisher != s.Conn {
		s.k.close(s.publisher)
	}
}

func (s *session) has(e driver.EventKind, entity string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.events, func(o driver.Event) bool { return o.Kind == e && o.Entity == entity })
}

// apply runs one step and returns its error. What it declared goes with the case.
func (s *session) apply(step driver.Step) error {
	s.k.Helper()
	steps := []driver.Step{step}
	s.k.must(s.Apply(s.k.ctx, steps))
	return steps[0].Err
}

// declare makes entities, which the end of the case deletes.
func (s *session) declare(what ...any) {
	s.k.Helper()
	for _, w := range what {
		s.k.must(s.apply(step(driver.Declare, w)))
		if done := step(driver.Delete, w); done.Queue != nil || done.Exchange != nil && done.Exchange.Name != "" {
			s.k.Cleanup(func() { s.k.remove(w) })
		}
	}
}

// remove deletes with a session of its own: the case's may be gone.
func (k *kit) remove(what any) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(k.ctx), k.h.Patience)
	defer cancel()
	c, err := k.connector.Connect(ctx, driver.Env{
		Role: driver.Consume, Epoch: 1, Owner: "drivertest-" + rand.Text(), Notify: func(driver.Event) {}, Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return // nothing to be done for tidiness
	}
	defer func() { _ = c.Close(ctx) }()
	_ = c.Apply(ctx, []driver.Step{step(driver.Delete, what)})
}

func step(op driver.Op, what any) driver.Step {
	s := driver.Step{Op: op}
	switch w := what.(type) {
	case driver.Exchange:
		s.Exchange = &w
	case driver.Queue:
		s.Queue = &w
	case driver.Binding:
		s.Binding = &w
	default:
		panic(fmt.Sprintf("no entity: %T", what))
	}
	return s
}

func message(exchange, key, body string) driver.Outgoing {
	return driver.Outgoing{Exchange: exchange, Key: key, Body: []byte(body)}
}

// publish sends messages and returns their outcomes.
func (s *session) publish(ms ...driver.Outgoing) []error {
	s.k.Helper()
	if s.sender == nil {
		var err error
		s.sender, err = s.publisher.OpenSender(s.k.ctx, driver.SenderConfig{Window: 256})
		s.k.must(err)
	}
	errs, next, err := send(s.k.ctx, s.sender, s.seq, ms)
	s.seq = next
	s.k.must(err)
	return errs
}

// sendBatch is half the smallest window in use here: one goroutine submits and
// collects, so it must not fill the window while it submits.
const sendBatch = 25

// send submits and collects; next is the first unused sequence number.
func send(ctx context.Context, sender driver.Sender, seq uint64, ms []driver.Outgoing) (errs []error, next uint64, err error) {
	errs = make([]error, len(ms))
	first := seq
	for i := range ms {
		ms[i].Seq = seq
		seq++
	}
	open := 0
	for from := 0; from < len(ms); {
		n, err := sender.Submit(ctx, ms[from:min(len(ms), from+sendBatch)])
		if err != nil {
			return nil, seq, err
		}
		for i := from; i < from+n; i++ {
			if ms[i].Done {
				errs[i] = ms[i].Err
			} else {
				open++
			}
		}
		from += n
		for open > 0 && (from == len(ms) || open > sendBatch) {
			var got [32]driver.Receipt
			n, err := sender.Outcomes(ctx, got[:])
			if err != nil {
				return nil, seq, err
			}
			for _, r := range got[:n] {
				errs[r.Seq-first] = r.Err
			}
			open -= n
		}
	}
	return errs, seq, nil
}

// mustPublish sends messages that must arrive.
func (s *session) mustPublish(ms ...driver.Outgoing) {
	s.k.Helper()
	for i, err := range s.publish(ms...) {
		if err != nil {
			s.k.Fatalf("message %d: %v", i, err)
		}
	}
}

func (s *session) consume(queue string, prefetch int) driver.Receiver {
	s.k.Helper()
	return s.consumeWith(driver.ReceiverConfig{Queue: queue, Prefetch: prefetch})
}

func (s *session) consumeWith(c driver.ReceiverConfig) driver.Receiver {
	s.k.Helper()
	r, err := s.OpenReceiver(s.k.ctx, c)
	s.k.must(err)
	return r
}

// receive waits for n deliveries.
func (k *kit) receive(r driver.Receiver, n int) []driver.Incoming {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.ctx, k.h.Patience)
	defer cancel()
	var out []driver.Incoming
	for len(out) < n {
		dst := make([]driver.Incoming, n-len(out))
		got, err := r.Receive(ctx, dst)
		if err != nil {
			k.Fatalf("%d of %d deliveries: %v", len(out), n, err)
		}
		out = append(out, dst[:got]...)
	}
	return out
}

// nothing makes sure that no delivery comes.
func (k *kit) nothing(r driver.Receiver) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.ctx, quiet)
	defer cancel()
	var dst [1]driver.Incoming
	if n, err := r.Receive(ctx, dst[:]); n != 0 {
		k.Fatalf("unexpected delivery %q", dst[0].Body)
	} else if !errors.Is(err, context.DeadlineExceeded) {
		k.Fatalf("receiving nothing: %v", err)
	}
}

// settle ends deliveries in one batch, each of which must succeed.
func (k *kit) settle(r driver.Receiver, o driver.Outcome, in ...driver.Incoming) {
	k.Helper()
	batch := make([]driver.Settlement, len(in))
	for i := range in {
		batch[i] = driver.Settlement{Tag: in[i].Tag, Outcome: o}
	}
	k.must(r.Settle(k.ctx, batch))
	for i := range batch {
		if batch[i].Err != nil {
			k.Fatalf("settling %q: %v", in[i].Body, batch[i].Err)
		}
	}
}

// eventually waits for a condition.
func (k *kit) eventually(what string, ok func() bool) {
	k.Helper()
	deadline := time.Now().Add(k.h.Patience)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		if time.Now().After(deadline) {
			k.Fatalf("not within %v: %s", k.h.Patience, what)
		}
		<-tick.C
	}
}

// ready waits until the queue holds n ready messages.
func (s *session) ready(queue string, n int) {
	s.k.Helper()
	var (
		info driver.QueueInfo
		err  error
	)
	s.k.eventually(fmt.Sprintf("%d messages ready in %s", n, queue), func() bool {
		info, err = s.Inspect(s.k.ctx, queue)
		return err == nil && (info.Ready == n || info.Ready < 0)
	})
}

func bodies(in []driver.Incoming) []string {
	out := make([]string, len(in))
	for i := range in {
		out[i] = string(in[i].Body)
	}
	return out
}

func (k *kit) wantBodies(in []driver.Incoming, want ...string) {
	k.Helper()
	if got := bodies(in); !slices.Equal(got, want) {
		k.Fatalf("bodies %q, want %q", got, want)
	}
}

// numbered are n messages to a queue with bodies "1", "2", ….
func numbered(queue string, n int) []driver.Outgoing {
	out := make([]driver.Outgoing, n)
	for i := range out {
		out[i] = message("", queue, fmt.Sprint(i+1))
	}
	return out
}

package amqp

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/gombutest/proxy"
)

func numbered(queue string, n int) []driver.Outgoing {
	var out []driver.Outgoing
	for i := range n {
		out = append(out, to(queue, fmt.Sprint(i)))
	}
	return out
}

func TestReceiveInOrderAndSettle(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	mustPublish(t, s, numbered(q, 6)...)
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 10})
	in := receive(t, r, 6)
	if got := bodies(in); got != "0 1 2 3 4 5" {
		t.Fatal(got)
	}
	first := in[0]
	if first.Queue != q || first.Key != q || first.Exchange != "" || first.Redelivered || first.Attempt != 1 || first.ConsumerTag == "" {
		t.Fatalf("%+v", first)
	}
	settle(t, r, driver.Ack, in[0], in[1], in[3])
	settle(t, r, driver.Reject, in[4])
	settle(t, r, driver.Requeue, in[5])
	settle(t, r, driver.Release, in[2])
	again := receive(t, r, 2)
	for _, m := range again {
		if !m.Redelivered || m.Attempt != 0 {
			t.Fatalf("%s: redelivered %v, attempt %d; a classic queue cannot count", m.Body, m.Redelivered, m.Attempt)
		}
	}
	settle(t, r, driver.Ack, again...)
	nothing(t, r)
	if err := r.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	if info, err := s.Inspect(testContext(t), q); err != nil || info.Ready != 0 || info.Consumers != 0 {
		t.Fatalf("%+v, %v", info, err)
	}
}

// A tag that is not open must not reach the broker: it would close the channel.
func TestSettleUnknownTags(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	mustPublish(t, s, numbered(q, 3)...)
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 10})
	in := receive(t, r, 2) // the third is in the buffer, and not the caller's
	other := in[1].Tag
	other.Ref = "another receiver"
	batch := []driver.Settlement{
		{Tag: in[0].Tag}, {Tag: in[0].Tag}, {Tag: other}, {Tag: driver.Tag{ID: in[1].Tag.ID + 1, Ref: in[1].Tag.Ref}},
		{Tag: driver.Tag{ID: 999, Ref: in[1].Tag.Ref}}, {Tag: in[1].Tag, Outcome: driver.Delay, After: time.Second},
	}
	if err := r.Settle(testContext(t), batch); err != nil {
		t.Fatal(err)
	}
	if batch[0].Err != nil {
		t.Fatal(batch[0].Err)
	}
	for _, item := range batch[1:5] {
		wantKind(t, item.Err, driver.ErrLeaseLost)
	}
	wantKind(t, batch[5].Err, driver.ErrUnsupported)
	settle(t, r, driver.Ack, in[1])
	settle(t, r, driver.Ack, receive(t, r, 1)...)
}

// Acks are written in one piece where that is exactly right, and no message is
// acknowledged that was not. Several goroutines settle at random.
func TestMultipleAckIsExact(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	const total = 3000
	mustPublish(t, s, numbered(q, total)...)
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 300})
	kept := map[string]bool{}
	var mu sync.Mutex
	work := make(chan []driver.Incoming)
	var wg sync.WaitGroup
	for w := range 4 {
		rnd := rand.New(rand.NewPCG(7, uint64(w)))
		wg.Go(func() {
			for in := range work {
				rnd.Shuffle(len(in), func(i, j int) { in[i], in[j] = in[j], in[i] })
				var batch []driver.Settlement
				for _, m := range in {
					o := driver.Ack
					switch rnd.IntN(40) {
					case 0:
						mu.Lock()
						kept[string(m.Body)] = true
						mu.Unlock()
						continue // left open
					case 1:
						o = driver.Reject
					}
					batch = append(batch, driver.Settlement{Tag: m.Tag, Outcome: o})
				}
				if err := r.Settle(testContext(t), batch); err != nil {
					t.Error(err)
				}
				for _, item := range batch {
					if item.Err != nil {
						t.Error(item.Err)
					}
				}
			}
		})
	}
	seen := 0
	dst := make([]driver.Incoming, 25)
	for seen < total {
		n, err := r.Receive(testContext(t), dst)
		if err != nil {
			t.Fatal(err)
		}
		seen += n
		work <- append([]driver.Incoming(nil), dst[:n]...)
	}
	close(work)
	wg.Wait()
	if err := r.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "exactly those left open are back", func() bool {
		info, err := s.Inspect(testContext(t), q)
		return err == nil && info.Ready == len(kept)
	})
	back := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 300})
	for _, m := range receive(t, back, len(kept)) {
		if !kept[string(m.Body)] || !m.Redelivered {
			t.Fatalf("%s came back", m.Body)
		}
	}
}

func TestBehaviour116_PrefetchIsPerConsumer(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	mustPublish(t, s, numbered(q, 40)...)
	one := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 14})
	in := receive(t, one, 14)
	nothing(t, one)
	two := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 3})
	receive(t, two, 3)
	nothing(t, two)
	settle(t, one, driver.Ack, in[0])
	receive(t, one, 1)
	nothing(t, one)
}

// Hard case B7: the prefetch changes live, nothing is redelivered, tags stay valid.
func TestSetPrefetchLive(t *testing.T) {
	for _, exclusive := range []bool{false, true} {
		t.Run(fmt.Sprintf("exclusive=%v", exclusive), func(t *testing.T) {
			s := connect(t, brokerConfig(t))
			q := queue(t, s, driver.Queue{})
			mustPublish(t, s, numbered(q, 30)...)
			r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 2, Exclusive: exclusive})
			in := receive(t, r, 2)
			nothing(t, r)
			if err := r.SetPrefetch(testContext(t), 5); err != nil {
				t.Fatal(err)
			}
			in = append(in, receive(t, r, 3)...)
			nothing(t, r)
			settle(t, r, driver.Ack, in...)
			in = receive(t, r, 5)
			nothing(t, r)
			if err := r.SetPrefetch(testContext(t), 1); err != nil {
				t.Fatal(err)
			}
			nothing(t, r)
			if got := bodies(in); got != "5 6 7 8 9" {
				t.Fatal(got)
			}
			settle(t, r, driver.Ack, in...)
			for i := 10; i < 30; i++ {
				m := receive(t, r, 1)[0]
				if string(m.Body) != fmt.Sprint(i) || m.Redelivered {
					t.Fatalf("%s, redelivered %v; want %d", m.Body, m.Redelivered, i)
				}
				nothing(t, r)
				settle(t, r, driver.Ack, m)
			}
		})
	}
}

// Hard case E15: with the prefetch at 0 acks bring nothing in.
func TestPauseAndResume(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	mustPublish(t, s, numbered(q, 20)...)
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 10})
	in := receive(t, r, 4)
	if err := r.SetPrefetch(testContext(t), 0); err != nil {
		t.Fatal(err)
	}
	if err := r.SetPrefetch(testContext(t), 0); err != nil {
		t.Fatal(err)
	}
	nothing(t, r)
	eventually(t, "what was only buffered is back", func() bool {
		info, err := s.Inspect(testContext(t), q)
		return err == nil && info.Ready == 16 && info.Consumers == 0
	})
	settle(t, r, driver.Ack, in[:2]...)
	nothing(t, r)
	if err := r.SetPrefetch(testContext(t), 18); err != nil {
		t.Fatal(err)
	}
	more := receive(t, r, 16) // the other two are unsettled
	if got := bodies(more[:3]); got != "4 5 6" {
		t.Fatal(got)
	}
	settle(t, r, driver.Ack, append(in[2:], more...)...)
	nothing(t, r)
}

// Receiving, settling and changing the prefetch at once loses and doubles nothing.
func TestSetPrefetchUnderLoad(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	const total = 2000
	mustPublish(t, s, numbered(q, total)...)
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 20})
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := r.SetPrefetch(testContext(t), []int{50, 1, 0, 7}[i%4]); err != nil {
				t.Error(err)
				return
			}
		}
	})
	seen := map[string]bool{}
	dst := make([]driver.Incoming, 10)
	for len(seen) < total {
		n, err := r.Receive(testContext(t), dst)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range dst[:n] {
			if seen[string(m.Body)] {
				t.Fatalf("%s came twice", m.Body)
			}
			seen[string(m.Body)] = true
		}
		settle(t, r, driver.Ack, dst[:n]...)
	}
	close(stop)
	wg.Wait()
}

func TestBehaviour120_NoAck(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	mustPublish(t, s, numbered(q, 30)...)
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 5, NoAck: true})
	in := receive(t, r, 12)
	settle(t, r, driver.Ack, in...)
	settle(t, r, driver.Reject, in...) // silently nothing, twice as well
	if err := r.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "what was not handed out is back, what was is gone", func() bool {
		info, err := s.Inspect(testContext(t), q)
		return err == nil && info.Ready == 18
	})
}

func TestBehaviour198_PriorityThenOrder(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{MaxPriority: 10})
	var batch []driver.Outgoing
	for i, p := range []uint8{3, 6, 3} {
		m := to(q, fmt.Sprint(i))
		m.Props.Priority = p
		batch = append(batch, m)
	}
	mustPublish(t, s, batch...)
	eventually(t, "all three are there", func() bool {
		info, err := s.Inspect(testContext(t), q)
		return err == nil && info.Ready == 3
	})
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 3})
	in := receive(t, r, 3)
	if got := bodies(in); got != "1 0 2" {
		t.Fatal(got)
	}
	if in[0].Props.Priority != 6 {
		t.Fatal(in[0].Props.Priority)
	}
}

func TestConsumerPriority(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	low := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 50, Priority: -1})
	high := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 50, Priority: 5, Tag: "mine"})
	mustPublish(t, s, numbered(q, 20)...)
	if in := receive(t, high, 20); in[0].ConsumerTag != "mine" {
		t.Fatal(in[0].ConsumerTag)
	}
	nothing(t, low)
}

func TestExclusiveConsumer(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 1, Exclusive: true})
	_, err := s.OpenReceiver(testContext(t), driver.ReceiverConfig{Queue: q, Prefetch: 1})
	wantKind(t, err, driver.ErrConflict)
}

func TestMissingQueueHarmsNobodyElse(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 1})
	_, err := s.OpenReceiver(testContext(t), driver.ReceiverConfig{Queue: q + ".missing", Prefetch: 1})
	wantKind(t, err, driver.ErrNotFound)
	mustPublish(t, s, to(q, "x"))
	settle(t, r, driver.Ack, receive(t, r, 1)...)
}

func TestQueueDeletedUnderConsumer(t *testing.T) {
	s, news := connectEnv(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 1})
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := r.Receive(testContext(t), make([]driver.Incoming, 1))
		ended <- err
	})
	apply(t, s, driver.Step{Op: driver.Delete, Queue: &driver.Queue{Name: q}})
	wg.Wait()
	wantKind(t, <-ended, driver.ErrNotFound)
	if e := news.wait(t, driver.Gone); e.Entity != q {
		t.Fatal(e)
	}
	if err := r.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the scratch channel alone is open", func() bool { return s.channelCount() == 1 })
}

func (s *session) channelCount() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.channels
}

// Hard case E14: quorum queues count deliveries, those of innocents as well.
func TestQuorumCountsDeliveries(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{Args: driver.Headers{{Key: "x-queue-type", Value: "quorum"}}})
	mustPublish(t, s, numbered(q, 3)...)
	for attempt := 1; attempt <= 3; attempt++ {
		other := connect(t, brokerConfig(t))
		r := openReceiver(t, other, driver.ReceiverConfig{Queue: q, Prefetch: 3})
		for _, m := range receive(t, r, 3) {
			if m.Attempt != attempt {
				t.Fatalf("attempt %d of %s; want %d", m.Attempt, m.Body, attempt)
			}
		}
		if known := r.Features().Counts == driver.CountDeliveries; known != (attempt > 1) {
			t.Fatalf("counts known at attempt %d: %v", attempt, known)
		}
		if err := other.Close(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 3})
	if f := r.Features(); f.Counts != driver.CountDeliveries || !f.Requeue || !f.Reject || !f.Ordered || f.Delay {
		t.Fatalf("%+v; this session declared it", f)
	}
}

func TestRejectGoesToDeadLetterExchange(t *testing.T) {
	s := connect(t, brokerConfig(t))
	dead := queue(t, s, driver.Queue{})
	q := queue(t, s, driver.Queue{Args: driver.Headers{
		{Key: "x-dead-letter-exchange", Value: ""}, {Key: "x-dead-letter-routing-key", Value: dead},
	}})
	mustPublish(t, s, to(q, "poison"))
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 1})
	settle(t, r, driver.Reject, receive(t, r, 1)...)
	m := receive(t, openReceiver(t, s, driver.ReceiverConfig{Queue: dead, Prefetch: 1}), 1)[0]
	deaths, _ := m.Props.Headers.Get("x-death").([]any)
	if len(deaths) != 1 || deaths[0].(driver.Headers).Get("reason") != "rejected" || deaths[0].(driver.Headers).Get("count") != int64(1) {
		t.Fatalf("%v", m.Props.Headers)
	}
}

func TestClaimsAfterTheSession(t *testing.T) {
	cfg, p := proxied(t, brokerConfig(t))
	direct := connect(t, brokerConfig(t))
	q := queue(t, direct, driver.Queue{})
	mustPublish(t, direct, numbered(q, 4)...)
	s := connect(t, cfg)
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 4})
	in := receive(t, r, 2)
	p.Cut()
	<-s.Done()
	wantKind(t, s.Err(), driver.ErrUnavailable)
	n, err := r.Receive(testContext(t), make([]driver.Incoming, 1))
	if n != 0 {
		t.Fatal("a delivery of the lost session was handed out")
	}
	wantKind(t, err, driver.ErrUnavailable)
	batch := []driver.Settlement{{Tag: in[0].Tag}, {Tag: in[1].Tag, Outcome: driver.Requeue}}
	if err := r.Settle(testContext(t), batch); err != nil {
		t.Fatal(err)
	}
	for _, item := range batch {
		wantKind(t, item.Err, driver.ErrLeaseLost)
	}
	if err := r.SetPrefetch(testContext(t), 1); !errors.Is(err, driver.ErrUnavailable) {
		t.Fatal(err)
	}
	if err := r.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	// The broker hands all four out again.
	again := receive(t, openReceiver(t, direct, driver.ReceiverConfig{Queue: q, Prefetch: 4}), 4)
	if got := bodies(again); got != "0 1 2 3" || !again[0].Redelivered {
		t.Fatal(got)
	}
}

func TestReceiverCallsHonourContext(t *testing.T) {
	cfg, p := proxied(t, brokerConfig(t))
	s := connect(t, cfg)
	q := queue(t, s, driver.Queue{})
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 4})
	flow := hold(p, proxy.Up)
	defer flow()
	for name, call := range map[string]func(context.Context) error{
		"receive":      func(ctx context.Context) error { _, err := r.Receive(ctx, make([]driver.Incoming, 1)); return err },
		"set prefetch": func(ctx context.Context) error { return r.SetPrefetch(ctx, 9) },
		"inspect":      func(ctx context.Context) error { _, err := s.Inspect(ctx, q); return err },
		"purge":        func(ctx context.Context) error { _, err := s.Purge(ctx, q); return err },
		"apply":        func(ctx context.Context) error { return s.Apply(ctx, []driver.Step{{Queue: &driver.Queue{Name: q}}}) },
		"open receiver": func(ctx context.Context) error {
			_, err := s.OpenReceiver(ctx, driver.ReceiverConfig{Queue: q, Prefetch: 1})
			return err
		},
		"open sender": func(ctx context.Context) error {
			_, err := s.OpenSender(ctx, driver.SenderConfig{Window: 1})
			return err
		},
	} {
		reason := errors.New("the reason given")
		ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, reason)
		prompt(t, 150*time.Millisecond, func() {
			err := call(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, reason) {
				t.Errorf("%s: %v; want the context's error and its cause", name, err)
			}
		})
		cancel()
	}
	flow()
	// What was given up goes on at the broker, and disturbs nothing: the
	// prefetch becomes 9, and channels opened too late are closed again.
	if err := r.SetPrefetch(testContext(t), 9); err != nil { // after the first one
		t.Fatal(err)
	}
	mustPublish(t, s, numbered(q, 12)...)
	in := receive(t, r, 9)
	nothing(t, r)
	settle(t, r, driver.Ack, in...)
	receive(t, r, 3)
	eventually(t, "channels that nobody wanted are closed", func() bool { return s.channelCount() <= 2 })
}

// On a quorum queue the consumer is replaced only when nothing is on its way,
// be that at once or later.
func TestSetPrefetchOnQuorum(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{Args: driver.Headers{{Key: "x-queue-type", Value: "quorum"}}})
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 10}).(tryReceiver).receiver
	prefetch := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return r.consumer.prefetch
	}
	handled := 0
	handle := func(n int) {
		t.Helper()
		for _, m := range receive(t, r, n) {
			if string(m.Body) != fmt.Sprint(handled) || m.Redelivered || m.Attempt > 1 {
				t.Fatalf("got %s, redelivered %v, attempt %d; want %d", m.Body, m.Redelivered, m.Attempt, handled)
			}
			handled++
			settle(t, r, driver.Ack, m)
		}
	}
	all := numbered(q, 200)
	set := func(n int) {
		t.Helper()
		if err := r.SetPrefetch(testContext(t), n); err != nil {
			t.Fatal(err)
		}
	}
	mustPublish(t, s, all[:50]...)
	set(3) // in the midst of plenty: at once
	if got := prefetch(); got != 3 {
		t.Errorf("prefetch %d, want 3", got)
	}
	for range 25 {
		handle(2)
	}
	set(20) // there is nothing: a larger one would change nothing
	if got := prefetch(); got != 3 {
		t.Errorf("prefetch %d: the consumer was replaced while messages may have been on their way", got)
	}
	mustPublish(t, s, all[50:]...)
	eventually(t, "the consumer has been replaced", func() bool { return prefetch() == 20 })
	handle(20)
	for range 13 {
		handle(10)
	}
}

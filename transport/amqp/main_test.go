package amqp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
	"github.com/gombu/gombu/internal/leak"
)

const patience = 10 * time.Second

func TestMain(m *testing.M) { leak.Main(m, "github.com/gombu/gombu", "amqp091-go.") }

func brokerURL() string {
	if u := os.Getenv("GOMBU_TEST_AMQP"); u != "" {
		return u
	}
	return "amqp://guest:guest@127.0.0.1:5673/"
}

// brokerConfig is a Config for the test broker; the test is skipped where there is none.
func brokerConfig(t testing.TB) Config {
	t.Helper()
	u, err := dsn.Parse(brokerURL())
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{Host: u.Host, Port: u.Port, User: u.User, Password: u.Password, VHost: u.Path}
	full := cfg.withDefaults()
	conn, err := net.DialTimeout("tcp", full.address(), time.Second)
	if err != nil {
		needs(t, "RabbitMQ at "+full.address(), "scripts/services start rabbitmq")
	}
	conn.Close()
	return cfg
}

func needs(t testing.TB, what, how string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("needs %s: %s", what, how)
	}
	t.Skipf("needs %s: %s", what, how)
}

func testContext(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

type events chan driver.Event

func testEnv(role driver.Role) (driver.Env, events) {
	news := make(events, 100)
	return driver.Env{
		Role: role, Epoch: 1, Owner: "test",
		Notify: func(e driver.Event) { news <- e },
		Log:    slog.New(slog.DiscardHandler),
	}, news
}

func (e events) wait(t *testing.T, kind driver.EventKind) driver.Event {
	t.Helper()
	for {
		select {
		case got := <-e:
			if got.Kind == kind {
				return got
			}
		case <-time.After(patience):
			t.Fatalf("no event of kind %d", kind)
		}
	}
}

// connect opens a session that the test closes.
func connect(t testing.TB, cfg Config) *session {
	t.Helper()
	s, _ := connectEnv(t, cfg)
	return s
}

func connectEnv(t testing.TB, cfg Config) (*session, events) {
	t.Helper()
	env, news := testEnv(driver.Both)
	s, err := newConnector(cfg).connect(testContext(t), env)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Close(ctx)
	})
	return s, news
}

var names atomic.Int64

// unique is a name that no other test uses.
func unique(t testing.TB) string {
	return fmt.Sprintf("gombu.test.%d.%d.%s", os.Getpid(), names.Add(1), strings.ReplaceAll(t.Name(), "/", "."))
}

func apply(t testing.TB, s driver.Conn, steps ...driver.Step) {
	t.Helper()
	if err := s.Apply(testContext(t), steps); err != nil {
		t.Fatal(err)
	}
	for _, step := range steps {
		if step.Err != nil {
			t.Fatal(step.Err)
		}
	}
}

// queue declares q, with a name of its own, and deletes it at the end.
func queue(t testing.TB, s driver.Conn, q driver.Queue) string {
	t.Helper()
	q.Name = unique(t)
	apply(t, s, driver.Step{Queue: &q})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Apply(ctx, []driver.Step{{Op: driver.Delete, Queue: &q}})
	})
	return q.Name
}

func exchange(t testing.TB, s driver.Conn, e driver.Exchange) string {
	t.Helper()
	e.Name = unique(t)
	apply(t, s, driver.Step{Exchange: &e})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		s.Apply(ctx, []driver.Step{{Op: driver.Delete, Exchange: &e}})
	})
	return e.Name
}

func openSender(t testing.TB, s driver.Conn, cfg driver.SenderConfig) driver.Sender {
	t.Helper()
	n, err := s.OpenSender(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func openReceiver(t testing.TB, s driver.Conn, cfg driver.ReceiverConfig) driver.Receiver {
	t.Helper()
	r, err := s.OpenReceiver(testContext(t), cfg)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// publish sends and returns the outcome of each message, in order.
func publish(t testing.TB, s driver.Conn, messages ...driver.Outgoing) []error {
	t.Helper()
	n := openSender(t, s, driver.SenderConfig{Window: max(1, len(messages))})
	defer n.Close(testContext(t))
	return submit(t, n, messages...)
}

func submit(t testing.TB, n driver.Sender, messages ...driver.Outgoing) []error {
	t.Helper()
	ctx := testContext(t)
	want := 0
	for i := range messages {
		messages[i].Seq = uint64(i)
	}
	if taken, err := n.Submit(ctx, messages); err != nil {
		t.Fatalf("submitted %d: %v", taken, err)
	}
	outcomes := make([]error, len(messages))
	for i, m := range messages {
		if m.Done {
			outcomes[i] = m.Err
		} else {
			want++
		}
	}
	receipts := collect(t, n, want)
	for seq, err := range receipts {
		outcomes[seq] = err
	}
	return outcomes
}

// collect returns n receipts by number, and fails on one that comes twice.
func collect(t testing.TB, n driver.Sender, count int) map[uint64]error {
	t.Helper()
	got := map[uint64]error{}
	dst := make([]driver.Receipt, 16)
	for len(got) < count {
		k, err := n.Outcomes(testContext(t), dst)
		if err != nil {
			t.Fatalf("after %d of %d receipts: %v", len(got), count, err)
		}
		for _, r := range dst[:k] {
			if _, twice := got[r.Seq]; twice {
				t.Fatalf("message %d has two receipts", r.Seq)
			}
			got[r.Seq] = r.Err
		}
	}
	return got
}

func mustPublish(t testing.TB, s driver.Conn, messages ...driver.Outgoing) {
	t.Helper()
	for i, err := range publish(t, s, messages...) {
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
	}
}

func to(queue, body string) driver.Outgoing {
	return driver.Outgoing{Key: queue, Body: []byte(body)}
}

// receive returns n deliveries.
func receive(t testing.TB, r driver.Receiver, n int) []driver.Incoming {
	t.Helper()
	var got []driver.Incoming
	dst := make([]driver.Incoming, n)
	for len(got) < n {
		k, err := r.Receive(testContext(t), dst[:n-len(got)])
		if err != nil {
			t.Fatalf("after %d of %d deliveries: %v", len(got), n, err)
		}
		got = append(got, dst[:k]...)
	}
	return got
}

// nothing asserts that no delivery comes for a while.
func nothing(t testing.TB, r driver.Receiver) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	dst := make([]driver.Incoming, 1)
	if n, err := r.Receive(ctx, dst); n != 0 || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("received %d (%q), %v; want nothing", n, dst[0].Body, err)
	}
}

func settle(t testing.TB, r driver.Receiver, o driver.Outcome, in ...driver.Incoming) {
	t.Helper()
	batch := make([]driver.Settlement, len(in))
	for i := range in {
		batch[i] = driver.Settlement{Tag: in[i].Tag, Outcome: o}
	}
	if err := r.Settle(testContext(t), batch); err != nil {
		t.Fatal(err)
	}
	for i := range batch {
		if batch[i].Err != nil {
			t.Fatalf("item %d: %v", i, batch[i].Err)
		}
	}
}

func bodies(in []driver.Incoming) string {
	var b bytes.Buffer
	for i, m := range in {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.Write(m.Body)
	}
	return b.String()
}

// eventually waits until ok holds.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func wantKind(t testing.TB, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("error %v; want one that is %q", err, kind)
	}
}

// prompt fails unless f returns soon, as a call whose context has ended must.
func prompt(t testing.TB, limit time.Duration, f func()) {
	t.Helper()
	start := time.Now()
	f()
	if took := time.Since(start); took > limit {
		t.Fatalf("took %v, want at most %v", took, limit)
	}
}

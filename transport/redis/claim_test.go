package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

func TestPushClaimAck(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	t.push(s, "q", "a", "b", "c")
	want(t, "ready", t.ready("q"), "a b c")
	got := t.claim(s, 3, "q")
	want(t, "claimed", t.bodies(got), "a b c")
	want(t, "left", t.number("LLEN", "q"), 0)
	t.mustSettle(s, driver.Ack, got[1])
	t.mustSettle(s, driver.Ack, got[0], got[2])
	want(t, "own list", t.number("EXISTS", ownKey+s.env.Owner+":q"), 0)
	want(t, "positions settled", t.number("HGET", ledgerKey+s.env.Owner, "b:q"), 3)
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	want(t, "keys after close", t.keys(), "[]")
}

func TestCloseGivesBackInOrder(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	t.push(s, "q", "a", "b", "c", "d", "e")
	got := t.claim(s, 4, "q")
	t.mustSettle(s, driver.Ack, got[1])
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	want(t, "ready", t.ready("q"), "a c d e")
	want(t, "keys", t.keys(), `["q"]`)
	if strings.Contains(strings.Join(t.list("q"), ""), "gombu-try") {
		t.Fatal("a claim that was never started counts as an attempt")
	}
}

func TestRequeueGoesToTheHeadInOrder(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	t.push(s, "q", "a", "b", "c", "d")
	got := t.claim(s, 3, "q")
	t.mustSettle(s, driver.Requeue, got[1], got[0], got[2])
	want(t, "ready", t.ready("q"), "a b c d")
	again := t.claim(s, 4, "q")
	want(t, "claimed again", t.bodies(again), "a b c d")
	want(t, "attempt", again[0].Attempt, 2)
	want(t, "redelivered", again[0].Redelivered, true)
	want(t, "attempt of a new one", again[3].Attempt, 0)
	t.mustSettle(s, driver.Requeue, again[0])
	t.mustSettle(s, driver.Release, again[1])
	third := t.claim(s, 2, "q")
	want(t, "claimed a third time", t.bodies(third), "b a")
	want(t, "attempt after a release", third[0].Attempt, 2)
	want(t, "attempt after a second requeue without a count", third[1].Attempt, 2)
	want(t, "text", string(third[1].Raw), `{"gombu-try": 1, `+envelope("a", 0)[1:])
}

func TestTextThatIsNoObjectIsNotSpliced(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	for _, text := range []string{"", "{}", "[1]", "\x00\xff", `{"gombu-try": x`, `{"gombu-try": `, `"x"`} {
		t.pushItems(s, []virtual.Item{{Queue: "q", Raw: []byte(text)}})
		t.mustSettle(s, driver.Requeue, t.claim(s, 1, "q")...)
		got := t.claim(s, 1, "q")
		t.mustSettle(s, driver.Ack, got...)
		if string(got[0].Raw) != text && !strings.HasPrefix(text, `{"`) {
			t.Errorf("%q became %q", text, got[0].Raw)
		}
	}
}

func TestRejectDropsVerbatimMoves(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	t.pushItems(s, []virtual.Item{{Queue: "q", Raw: []byte("\x00no envelope\xff")}, {Queue: "q", Raw: []byte("b")}, {Queue: "q", Raw: []byte("c")}})
	got := t.claim(s, 3, "q")
	st := []virtual.Settlement{
		{Settlement: driver.Settlement{Tag: got[0].Tag}, Verbatim: "gombu.dead.q"},
		{Settlement: driver.Settlement{Tag: got[1].Tag, Outcome: driver.Reject}},
		{Settlement: driver.Settlement{Tag: got[2].Tag}, Put: []virtual.Item{{Queue: "dead", Priority: 7, Raw: []byte("C")}, {Queue: "dead", Raw: []byte("D")}}},
	}
	if err := s.Settle(soon(t), st); err != nil || st[0].Err != nil || st[1].Err != nil || st[2].Err != nil {
		t.Fatal(err, st)
	}
	want(t, "parked", strings.Join(t.list("gombu.dead.q"), " "), "\x00no envelope\xff")
	want(t, "put", strings.Join(t.list("dead\x06\x166"), " ")+strings.Join(t.list("dead"), " "), "CD")
	want(t, "ready", t.ready("q"), "")
}

func TestDelayIsUnsupportedAndKeepsTheClaim(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	t.push(s, "q", "a")
	got := t.claim(s, 1, "q")
	wantKind(t, "delay", t.settle(s, driver.Delay, got...)[0], driver.ErrUnsupported)
	t.mustSettle(s, driver.Ack, got...)
	wantKind(t, "a claim of another session", t.settle(s, driver.Ack, virtual.Claim{Tag: driver.Tag{ID: 1, Ref: "x:q"}})[0], driver.ErrLeaseLost)
}

func TestTwoOwnersShareAQueue(tt *testing.T) {
	t := newTester(tt)
	a, _ := t.open()
	b, _ := t.open()
	t.push(a, "q", "1", "2", "3", "4")
	x, y := t.claim(a, 2, "q"), t.claim(b, 2, "q")
	want(t, "first owner", t.bodies(x), "1 2")
	want(t, "second owner", t.bodies(y), "3 4")
	if x[0].Tag == y[0].Tag {
		t.Fatal("two claims have one tag")
	}
	wantKind(t, "settling another's claim", t.settle(a, driver.Ack, y[0])[0], driver.ErrLeaseLost)
	t.mustSettle(b, driver.Ack, y...)
	t.mustSettle(a, driver.Ack, x...)
}

func TestMaxOfEachQueueAndOrderOfWants(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	for q, n := range map[string]int{"a": 30, "b": 30, "c": 1} {
		for i := range n {
			t.pushItems(s, []virtual.Item{{Queue: q, Raw: fmt.Appendf(nil, "%s%d", q, i)}})
		}
	}
	dst := make([]virtual.Claim, 40)
	n, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "b", Max: 20}, {Queue: "c", Max: 5}, {Queue: "none", Max: 5}, {Queue: "a", Max: 40}}}, dst)
	if err != nil || n != 40 {
		t.Fatal(n, err)
	}
	var text []string
	for _, c := range dst {
		text = append(text, string(c.Raw))
	}
	have := strings.Join(text, " ")
	if !strings.HasPrefix(have, "b0 b1 ") || !strings.Contains(have, " b19 c0 a0 a1 ") || !strings.HasSuffix(have, " a18") {
		t.Fatal(have)
	}
}

func TestClaimIsBoundedInBytes(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	big := strings.Repeat("x", 100<<10)
	for range 64 {
		t.pushItems(s, []virtual.Item{{Queue: "q", Raw: []byte(big)}})
	}
	dst := make([]virtual.Claim, 64)
	r := virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 64}}, MaxBytes: 1 << 20}
	n, err := s.Claim(soon(t), r, dst)
	if err != nil || n < 8 || n > 11 {
		t.Fatal(n, err)
	}
	r.MaxBytes = 1
	if n, err = s.Claim(soon(t), r, dst); err != nil || n != 1 {
		t.Fatal(n, err)
	}
}

func TestNoAck(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	t.push(s, "q", "a", "b", "c")
	dst := make([]virtual.Claim, 2)
	n, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 2}}, NoAck: true}, dst)
	if err != nil || n != 2 {
		t.Fatal(n, err)
	}
	want(t, "claimed", t.bodies(dst), "a b")
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	want(t, "ready", t.ready("q"), "c")
}

func TestWaitingDoesNotPop(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	start := time.Now()
	n, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 1}}, Wait: 100 * time.Millisecond}, make([]virtual.Claim, 1))
	if n != 0 || err != nil || time.Since(start) < 100*time.Millisecond {
		t.Fatal(n, err, time.Since(start))
	}
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(50*time.Millisecond, func() { cancel(cause) })
	if n, err = s.Claim(ctx, virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 1}}, Wait: time.Hour}, make([]virtual.Claim, 1)); n != 0 || err != cause {
		t.Fatal(n, err)
	}
	t.push(s, "q", "a")
	want(t, "ready", t.ready("q"), "a")
}

// An idle claimer wakes by the server's word: well below the poll that guards
// against lost news.
func TestWakesAtOnce(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	for _, queue := range []string{"q", "r\x06\x169"} {
		for range 5 {
			done := make(chan time.Time, 1)
			go func() {
				n, err := s.Claim(context.Background(), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 1}, {Queue: "r", Max: 1}}, Wait: time.Hour}, make([]virtual.Claim, 1))
				if n != 1 || err != nil {
					t.Error(n, err)
				}
				done <- time.Now()
			}()
			eventually(t, "the claimer to wait", func() bool {
				s.track.mu.Lock()
				defer s.track.mu.Unlock()
				return len(s.track.waiters) == 1
			})
			sent := time.Now()
			t.do("LPUSH", queue, envelope("x", 0))
			if took := (<-done).Sub(sent); took > pollTracked/2 {
				t.Fatalf("woke after %v", took)
			}
		}
	}
}

func TestPollsWithoutTracking(tt *testing.T) {
	t := newTester(tt)
	user := "untracked-" + rand.Text()
	t.do("ACL", "SETUSER", user, "on", "nopass", "~*", "&*", "+@all", "-client|tracking")
	t.Cleanup(func() { t.do("ACL", "DELUSER", user) })
	s, _ := t.open(func(c *Config) { c.User, c.Pass = user, "x" })
	want(t, "tracking", s.track.on.Load(), false)
	time.AfterFunc(300*time.Millisecond, func() { t.push(s, "q", "a") })
	start := time.Now()
	dst := make([]virtual.Claim, 1)
	if n, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 1}}, Wait: 5 * time.Second}, dst); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	if took := time.Since(start); took > 1500*time.Millisecond {
		t.Fatal(took)
	}
	bind(t, s, driver.TypeDirect, driver.Binding{Exchange: "e", Queue: "q", Key: "k"})
	table, ok, err := s.Table(soon(t), "e", "")
	if err != nil || !ok || len(table.Bindings) != 1 {
		t.Fatal(table, ok, err)
	}
	if _, ok, err = s.Table(soon(t), "e", table.Version); err != nil || ok {
		t.Fatal(ok, err)
	}
}

// A caller that has gone gets nothing, and what was claimed for it goes back.
func TestClaimOfACallerThatHasGone(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	for i := range 300 {
		t.push(s, "q", fmt.Sprint(i))
	}
	for i := range 50 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i*10)*time.Microsecond)
		dst := make([]virtual.Claim, 100)
		n, err := s.Claim(ctx, virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 100}}}, dst)
		if err != nil && n != 0 {
			t.Fatal(n, err)
		}
		t.mustSettle(s, driver.Release, dst[:n]...)
		cancel()
		eventually(t, "all to be back", func() bool { return len(s.slots) == 0 && t.number("LLEN", "q") == 300 })
	}
	got := t.claim(s, 300, "q")
	for i := range got {
		want(t, "order", bodyOf(t, got[i].Raw), fmt.Sprint(i))
	}
	s.mu.Lock()
	open := len(s.own["q"].open)
	s.mu.Unlock()
	want(t, "open claims", open, 300)
}

func TestAKeyThatIsNoListStopsOnlyItself(tt *testing.T) {
	t := newTester(tt)
	s, ev := t.open()
	t.do("SET", "bad", "x")
	t.push(s, "q", "a")
	for range 2 {
		dst := make([]virtual.Claim, 2)
		n, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "bad", Max: 1}, {Queue: "q", Max: 1}}}, dst)
		if n != 1 || err != nil || bodyOf(t, dst[0].Raw) != "a" {
			t.Fatal(n, err)
		}
		t.mustSettle(s, driver.Release, dst[0])
	}
	want(t, "warnings", ev.count(driver.Warning, "no list"), 1)
	items := []virtual.Item{{Queue: "bad", Raw: []byte("x")}, {Queue: "q", Raw: []byte("y")}}
	if err := s.Push(soon(t), items); err != nil {
		t.Fatal(err)
	}
	wantKind(t, "push to it", items[0].Err, driver.ErrConflict)
	wantKind(t, "push beside it", items[1].Err, nil)
}

func bind(t *tester, s *store, typ string, b ...driver.Binding) {
	t.Helper()
	if err := s.Bind(soon(t), typ, b); err != nil {
		t.Fatal(err)
	}
}

package redis

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// abandon ends a session as a crash would: the socket closes, nothing is given
// back.
func abandon(t *tester, s *store) {
	t.Helper()
	s.lost(fmt.Errorf("killed by the test"))
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
}

func TestMirror(tt *testing.T) {
	t := aside(tt)
	s, _ := t.open()
	texts := []string{envelope("a", 0), "garbage", envelope("c", 0), `{"body": "", "headers": null, "properties": {"delivery_info": {"exchange": "", "routing_key": "q"}}}`}
	for _, text := range texts {
		t.pushItems(s, []virtual.Item{{Queue: `q"é`, Raw: []byte(text)}})
	}
	got := t.claim(s, 4, `q"é`)
	want(t, "mirrored at once", t.number("EXISTS", "unacked"), 0)
	eventually(t, "the mirror", func() bool { return t.number("HLEN", "unacked") == 4 })
	id := func(i int) string { return s.env.Owner + `:q"é:` + fmt.Sprint(i) }
	entry, _ := t.do("HGET", "unacked", id(1)).ToString()
	want(t, "entry", entry, "["+texts[0]+`, "", "q\"é"]`)
	var parts []any
	if err := json.Unmarshal([]byte(entry), &parts); err != nil || len(parts) != 3 || parts[1] != "" || parts[2] != `q"é` {
		t.Fatal(entry, err)
	}
	want(t, "indexed", t.number("ZCARD", "unacked_index"), 2) // garbage and null headers never meet Kombu's sweep
	first, _ := t.do("ZSCORE", "unacked_index", id(1)).AsFloat64()
	eventually(t, "the score to be renewed", func() bool {
		now, _ := t.do("ZSCORE", "unacked_index", id(1)).AsFloat64()
		return now > first+0.5
	})
	t.mustSettle(s, driver.Ack, got[0], got[1])
	t.mustSettle(s, driver.Release, got[2], got[3])
	want(t, "unacked after settling", t.number("EXISTS", "unacked", "unacked_index"), 0)
	want(t, "ready", t.number("LLEN", `q"é`), 2)
}

// A claim that is settled while the heartbeat is on its way is not mirrored.
func TestMirrorOfASettledClaim(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	t.push(s, "q", "a", "b", "c")
	got := t.claim(s, 3, "q")
	keys := []string{s.keys.alive(s.env.Owner), s.keys.owners(), s.keys.ledger(s.env.Owner), s.keys.unacked, s.keys.index}
	args := []string{s.env.Owner, "10000", tombstone(s.env.Owner), "3600", seconds(suspectAfter), "0", "1"}
	mirrorArgs(s.mirrorWork(0), &keys, &args)
	t.mustSettle(s, driver.Ack, got[0], got[2]) // one is trimmed, one marked
	if err := s.script(tickScript, keys, args).Error(); err != nil {
		t.Fatal(err)
	}
	ids, _ := t.do("HKEYS", "unacked").AsStrSlice()
	want(t, "mirrored", strings.Join(ids, " "), s.env.Owner+":q:2")
}

func TestMirrorDecides(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open(func(c *Config) { c.Mirror = MirrorAlways })
	t.push(s, "q", "a", "b", "c")
	got := t.claim(s, 3, "q")
	want(t, "mirrored", t.number("HLEN", "unacked"), 3)
	id := s.env.Owner + ":q:2"
	t.do("HDEL", "unacked", id) // as Kombu's restore does
	t.do("ZREM", "unacked_index", id)
	errs := t.settle(s, driver.Requeue, got...)
	wantKind(t, "first", errs[0], nil)
	wantKind(t, "taken", errs[1], driver.ErrLeaseLost)
	wantKind(t, "third", errs[2], nil)
	want(t, "ready", t.ready("q"), "a c")
	again := t.claim(s, 2, "q")
	t.do("DEL", "unacked", "unacked_index")
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	want(t, "ready after close", t.ready("q"), "")
	_ = again
}

func TestBehaviour188_NoAckEmulationIsNoMirror(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open(func(c *Config) { c.Mirror = MirrorNever })
	t.push(s, "q", "a")
	t.claim(s, 1, "q")
	first, _ := t.do("ZSCORE", ownersKey, s.env.Owner).AsFloat64()
	eventually(t, "two heartbeats", func() bool {
		now, _ := t.do("ZSCORE", ownersKey, s.env.Owner).AsFloat64()
		return now > first+2
	})
	want(t, "unacked", t.number("EXISTS", "unacked", "unacked_index"), 0)
}

func TestAFencedOwnerIsOver(tt *testing.T) {
	t := aside(tt)
	s, _ := t.open()
	t.push(s, "q", "a", "b")
	got := t.claim(s, 1, "q")
	t.do("DEL", aliveKey+s.env.Owner)
	wantKind(t, "settle", t.settle(s, driver.Ack, got...)[0], driver.ErrLeaseLost)
	select {
	case <-s.Done():
	case <-soon(t).Done():
		t.Fatal("the session is not over")
	}
	wantKind(t, "why", s.Err(), driver.ErrLeaseLost)
	_, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 1}}}, make([]virtual.Claim, 1))
	wantKind(t, "claim", err, driver.ErrLeaseLost)
	other, _ := t.open()
	eventually(t, "the claim to be given back", func() bool { return t.ready("q") == "a b" })
	again := t.claim(other, 2, "q")
	want(t, "attempt of the one taken over", again[0].Attempt, 2)
	want(t, "attempt of the other", again[1].Attempt, 0)
	eventually(t, "the owner to be forgotten", func() bool { return t.number("ZCARD", ownersKey) == 1 })
}

// A paused owner that is fenced meanwhile may move messages before it learns:
// they are given back too.
func TestAFencedOwnersClaimIsNotLost(tt *testing.T) {
	t := newTester(tt)
	zombie, _ := t.open(func(c *Config) { c.Mirror = MirrorAlways })
	t.push(zombie, "q", "a", "b", "c", "d")
	t.claim(zombie, 2, "q")
	t.do("DEL", aliveKey+zombie.env.Owner)
	if _, err := zombie.reap(zombie.env.Owner, true); err != nil { // as another process would
		t.Fatal(err)
	}
	want(t, "given back", t.ready("q"), "a b c d")
	want(t, "traces", t.number("EXISTS", ownersKey, ledgerKey+zombie.env.Owner), 0)
	_, err := zombie.Claim(soon(t), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 3}}}, make([]virtual.Claim, 3))
	wantKind(t, "claim of the fenced", err, driver.ErrLeaseLost)
	want(t, "moved", t.number("LLEN", ownKey+zombie.env.Owner+":q"), 3)
	t.open()
	eventually(t, "them to come back", func() bool { return t.ready("q") == "a b c d" })
	eventually(t, "the zombie to be forgotten", func() bool { return t.number("ZCARD", ownersKey) == 1 })
}

func TestOwnerIdsAreUsedOnce(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	full, _ := t.config.withDefaults()
	_, err := connect(soon(t), full, s.env)
	wantKind(t, "the same id again", err, driver.ErrConflict)
	wantKind(t, "the first", s.Err(), nil)
}

// The owner's connection is gone: its claims come back within seconds, in
// order, from several priorities.
func TestKilledOwnerIsTakenOver(tt *testing.T) {
	t := aside(tt)
	s, _ := t.open()
	var items []virtual.Item
	for i := range 200 {
		items = append(items, virtual.Item{Queue: "q", Priority: uint8(i % 2 * 9), Raw: []byte(envelope(fmt.Sprintf("%03d", i), i%2*9))})
	}
	t.pushItems(s, items)
	got := t.claim(s, 150, "q")
	t.mustSettle(s, driver.Ack, got[3], got[120])
	abandon(t, s)
	start := time.Now()
	other, _ := t.open()
	eventually(t, "all to be back", func() bool {
		return t.number("LLEN", "q") == 99 && t.number("LLEN", "q\x06\x169") == 99
	})
	if took := time.Since(start); took > 6*time.Second {
		t.Fatalf("took %v", took)
	}
	again := t.claim(other, 198, "q")
	for i := 1; i < len(again); i++ {
		a, b := bodyOf(t, again[i-1].Raw), bodyOf(t, again[i].Raw)
		if i != 99 && a >= b {
			t.Fatalf("order: %s before %s", a, b)
		}
	}
	want(t, "attempt of a claimed one", again[0].Attempt, 2)
}

// Silent but connected is not dead: only after the lease, by the sweeper's own
// unbroken view.
func TestPausedIsNotDead(t *testing.T) {
	v := vigil{}
	a := suspect{"a", "1"}
	at := time.Unix(1000, 0)
	look := func(after time.Duration, s ...suspect) map[suspect]*sighting {
		at = at.Add(after)
		return v.update(tickReport{at: at, suspects: s})
	}
	first := look(time.Second, a)[a].since
	want(t, "second look", look(time.Second, a)[a].times, 2)
	want(t, "since", look(time.Second, a)[a].since, first)
	want(t, "a new heartbeat is a new suspicion", look(time.Second, suspect{"a", "2"})[suspect{"a", "2"}].times, 1)
	look(time.Second, a)
	want(t, "after a gap in the view it starts anew", look(vigilGap+time.Second, a)[a].times, 1)
	want(t, "nobody", len(look(time.Second)), 0)
	want(t, "after a look without it", look(time.Second, a)[a].times, 1)
}

// The lease, with a short one forced upon the sweeper and an owner whose
// heartbeat is held up while its connection stands.
func TestLeaseEndsASilentOwner(tt *testing.T) {
	t := aside(tt)
	silent, _ := t.open()
	t.push(silent, "q", "a")
	t.claim(silent, 1, "q")
	stopBeating(silent)
	other, _ := t.open()
	full := *other.cfg
	eventually(t, "suspicion", func() bool {
		n, _ := t.do("ZSCORE", ownersKey, silent.env.Owner).AsFloat64()
		now, _ := t.do("TIME").AsIntSlice()
		return float64(now[0])-n > 4
	})
	want(t, "still held", t.ready("q"), "")
	full.Lease = time.Second // configuration would refuse it
	watcher, err := connect(soon(t), &full, driver.Env{Notify: func(driver.Event) {}, Log: other.env.Log})
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the claim to be given back", func() bool { return t.ready("q") == "a" })
	if err := watcher.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
}

func TestTagsOfOneSessionAreUnique(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	seen := map[driver.Tag]bool{}
	for range 20 {
		t.push(s, "q", "a", "b", "c")
		for _, c := range t.claim(s, 3, "q") {
			if seen[c.Tag] {
				t.Fatal("seen twice", c.Tag)
			}
			seen[c.Tag] = true
			t.mustSettle(s, driver.Ack, c)
		}
	}
}

func TestCloseOfASilentServerEndsWithItsContext(tt *testing.T) {
	t := newTester(tt)
	v := startServer(t)
	t.config.Addr, t.config.DB = v.addr, 0
	s, _, err := openWith(t.config)
	if err != nil {
		t.Fatal(err)
	}
	pause(t, v)
	ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	start := time.Now()
	err = s.Close(ctx)
	if took := time.Since(start); took > 300*time.Millisecond+raceSlack {
		t.Fatalf("took %v", took)
	}
	wantKind(t, "close", err, context.DeadlineExceeded)
}

const raceSlack = 200 * time.Millisecond

func TestIDsSurviveLongNames(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open(func(c *Config) { c.Mirror = MirrorAlways })
	q := strings.Repeat("long:name ", 50)
	t.push(s, q, "a")
	t.mustSettle(s, driver.Ack, t.claim(s, 1, q)...)
	want(t, "unacked", t.number("EXISTS", "unacked"), 0)
}

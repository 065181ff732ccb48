package redis

import (
	"strings"
	"testing"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// counted runs f and returns how often the server ran a command meanwhile.
func (t *tester) counted(command string, f func()) int {
	t.Helper()
	t.do("CONFIG", "RESETSTAT")
	f()
	stats, err := t.do("INFO", "commandstats").ToString()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(infoField(stats, "cmdstat_"+command), "calls=")
	n := 0
	for _, c := range rest {
		if c < '0' || c > '9' {
			break
		}
		n = 10*n + int(c-'0')
	}
	return n
}

// A claim that is held for long, while many that came after it are settled,
// makes no script hold the server: each does a bounded number of steps.
func TestALongHeldClaimMakesNoLongScripts(tt *testing.T) {
	v := startServer(tt)
	t := &tester{TB: tt, config: Config{Addr: v.addr}, raw: rawClient(tt, v.addr, 0)}
	s, _ := t.open()
	const rounds, many = 20, 1000
	busy := func() {
		items := make([]virtual.Item, many)
		for i := range items {
			items[i] = virtual.Item{Queue: "q", Raw: []byte("x")}
		}
		for range rounds {
			t.pushItems(s, items)
			t.mustSettle(s, driver.Ack, t.claim(s, many, "q")...)
		}
	}
	one := func(body string) virtual.Claim {
		t.push(s, "q", body)
		return t.claim(s, 1, "q")[0]
	}
	const bound = 2 * trimMost
	tick := func() {
		if _, err := s.tick(0); err != nil {
			t.Fatal(err)
		}
	}
	first := one("first")
	tick()
	busy()
	second := one("second")
	if n := t.counted("lindex", tick); n > bound {
		t.Errorf("the mirror looked at %d positions for one claim", n)
	}
	want(t, "mirrored", t.number("HLEN", "unacked"), 2)
	if n := t.counted("rpop", func() { t.mustSettle(s, driver.Ack, first) }); n > bound {
		t.Errorf("one ack trimmed %d positions", n)
	}
	for range rounds {
		t.mustSettle(s, driver.Ack, one("more"))
	}
	if n := t.number("LLEN", ownKey+s.env.Owner+":q"); n > bound {
		t.Errorf("%d settled positions are left", n)
	}
	busy()
	if n := t.counted("evalsha", func() { _ = s.Close(soon(t)) }); n > 100 {
		t.Errorf("Close ran %d scripts to give one claim back", n)
	}
	want(t, "given back", t.ready("q"), "second")
	_ = second
}

// Behind a claim that is held for ever the own list does not grow: the claim is
// set aside, and stays ours all the same.
func TestAClaimHeldForEverIsSetAside(tt *testing.T) {
	tt.Parallel()
	v := startServer(tt)
	t := &tester{TB: tt, config: Config{Addr: v.addr, Mirror: MirrorNever}, raw: rawClient(tt, v.addr, 0)}
	s, _ := t.open()
	t.push(s, "q", "acked", "counted", "mirrored", "taken", "requeued", "left")
	held := t.claim(s, 6, "q")
	const rounds, many = 200, 1000 // 200 000 messages
	items := make([]virtual.Item, many)
	for i := range items {
		items[i] = virtual.Item{Queue: "q", Raw: []byte("x")}
	}
	longestSeen := 0
	for range rounds {
		t.pushItems(s, items)
		t.mustSettle(s, driver.Ack, t.claim(s, many, "q")...)
		longestSeen = max(longestSeen, t.number("LLEN", ownKey+s.env.Owner+":q"))
	}
	if longestSeen > longest+4*many {
		t.Errorf("the own list had %d positions", longestSeen)
	}
	want(t, "set aside", t.number("HLEN", ledgerKey+s.env.Owner), 1+len(held))
	t.mustSettle(s, driver.Ack, held[0])
	wantKind(t, "begin", t.begin(s, 2, held[1])[0], nil)
	stopBeating(s)
	s.cfg.Mirror = MirrorLazy
	if _, err := s.tick(0); err != nil {
		t.Fatal(err)
	}
	want(t, "mirrored", t.number("HLEN", "unacked"), 5)
	t.do("HDEL", "unacked", s.env.Owner+":q:4")
	t.do("ZREM", "unacked_index", s.env.Owner+":q:4")
	wantKind(t, "what Python took", t.settle(s, driver.Ack, held[3])[0], driver.ErrLeaseLost)
	t.mustSettle(s, driver.Requeue, held[4])
	_, _, err := s.strays(s.own["q"])
	wantKind(t, "look for strays", err, nil)
	abandon(t, s)
	other, _ := t.open()
	eventually(t, "the claims to be taken over", func() bool { return t.number("LLEN", "q") == 4 })
	got := t.claim(other, 4, "q")
	want(t, "taken over in order", t.bodies(got), "counted mirrored left requeued")
	want(t, "count", got[0].Attempt, 3)
	eventually(t, "the dead to be forgotten", func() bool {
		return t.number("ZCARD", ownersKey) == 1 && t.number("EXISTS", ledgerKey+s.env.Owner, "unacked") == 0
	})
}

// stopBeating makes the test the clock of a session, which looks alive no more.
func stopBeating(s *store) {
	close(s.stop)
	s.loops.Wait()
	s.stop = make(chan struct{}) // for Close
}

// However many claims there are, no script holds the server for long.
func TestManyMirroredClaimsHoldNobodyUp(tt *testing.T) {
	tt.Parallel()
	v := startServer(tt)
	t := &tester{TB: tt, config: Config{Addr: v.addr}, raw: rawClient(tt, v.addr, 0)}
	s, _ := t.open(func(c *Config) { c.Mirror = MirrorNever })
	const many = 20000
	items := make([]virtual.Item, many)
	for i := range items {
		items[i] = virtual.Item{Queue: "q", Raw: []byte(envelope("x", 0))}
	}
	t.pushItems(s, items)
	for range many / 1000 {
		t.claim(s, 1000, "q")
	}
	stopBeating(s)
	s.cfg.Mirror = MirrorLazy
	for range many / mirrorCount {
		if _, err := s.tick(0); err != nil {
			t.Fatal(err)
		}
	}
	want(t, "mirrored", t.number("HLEN", "unacked"), many)
	t.do("CONFIG", "SET", "slowlog-log-slower-than", "0")
	t.do("CONFIG", "SET", "slowlog-max-len", "100000")
	fastest := int64(1 << 40) // of several heartbeats: other programs may hold a server up too
	for try := 0; try < 3 || try < 12 && fastest > 50000; try++ {
		fastest = min(fastest, t.slowestTick(s, many/mirrorMost))
	}
	t.Logf("the slowest script took %d µs", fastest)
	if fastest > 50000 { // 10 ms with five times the room
		t.Errorf("a script took %d µs", fastest)
	}
}

// slowestTick runs one heartbeat of so many scripts and returns the time of the
// slowest in µs.
func (t *tester) slowestTick(s *store, scripts int) (slowest int64) {
	t.Helper()
	t.do("SLOWLOG", "RESET")
	n := t.counted("evalsha", func() {
		if _, err := s.tick(0); err != nil {
			t.Fatal(err)
		}
	})
	want(t, "scripts", n, scripts)
	log, err := t.do("SLOWLOG", "GET", "100000").ToArray()
	if err != nil {
		t.Fatal(err)
	}
	for i := range log {
		entry, _ := log[i].ToArray()
		args, _ := entry[3].AsStrSlice()
		if took, _ := entry[2].AsInt64(); len(args) > 0 && args[0] == "EVALSHA" {
			slowest = max(slowest, took)
		}
	}
	return slowest
}

// Settling looks at what stands behind it without having a script read the text
// of an open claim, which may be long; and what was settled there before goes too.
func TestSettlingReadsNoOpenClaim(tt *testing.T) {
	v := startServer(tt)
	t := &tester{TB: tt, config: Config{Addr: v.addr}, raw: rawClient(tt, v.addr, 0)}
	s, _ := t.open()
	t.push(s, "q", "a", "b", "c", "d", "e", "f")
	got := t.claim(s, 6, "q")
	n := t.counted("lindex", func() {
		t.mustSettle(s, driver.Ack, got[0]) // the oldest
		want(t, "left", t.number("LLEN", ownKey+s.env.Owner+":q"), 5)
		t.mustSettle(s, driver.Ack, got[2], got[4]) // neither is
		t.mustSettle(s, driver.Ack, got[1])         // and what was settled behind it
		want(t, "left", t.number("LLEN", ownKey+s.env.Owner+":q"), 3)
		t.mustSettle(s, driver.Ack, got[3], got[5])
	})
	want(t, "looks", n, 0)
	want(t, "own list", t.number("EXISTS", ownKey+s.env.Owner+":q"), 0)
	want(t, "positions settled", t.number("HGET", ledgerKey+s.env.Owner, "b:q"), 6)
}

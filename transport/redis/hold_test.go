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

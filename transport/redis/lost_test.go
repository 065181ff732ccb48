package redis

import (
	"fmt"
	"testing"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// A key that is no list any more refuses messages, and loses none: scripts are
// not rolled back when they fail half-way.
func TestAKeyThatIsNoListLosesNothing(tt *testing.T) {
	for _, mirror := range []Mirror{MirrorNever, MirrorAlways} {
		tt.Run(fmt.Sprint("mirror ", mirror), func(tt *testing.T) {
			t := aside(tt)
			s, _ := t.open(func(c *Config) { c.Mirror = mirror })
			t.push(s, "q", "a", "b", "c")
			t.push(s, "other", "d")
			got := t.claim(s, 3, "q")
			t.claim(s, 1, "other")
			t.do("SET", "q", "a text")
			for _, o := range []driver.Outcome{driver.Requeue, driver.Release} {
				wantKind(t, "give back", t.settle(s, o, got[0], got[1])[0], driver.ErrConflict)
			}
			for _, st := range []virtual.Settlement{
				{Verbatim: "q"},
				{Put: []virtual.Item{{Queue: "free", Raw: []byte("copy")}, {Queue: "q", Raw: []byte("copy")}}},
			} {
				st.Tag = got[2].Tag
				all := []virtual.Settlement{st}
				_ = s.Settle(soon(t), all)
				wantKind(t, "move", all[0].Err, driver.ErrConflict)
			}
			want(t, "copies", t.number("LLEN", "free"), 0)
			if s.Close(soon(t)) == nil {
				t.Fatal("Close does not tell that claims are left")
			}
			want(t, "the other queue", t.ready("other"), "d")
			t.do("DEL", "q")
			t.open()
			eventually(t, "all to come back", func() bool { return t.ready("q") == "a b c" })
		})
	}
}

// So does the restore of what a Kombu peer left.
func TestARestoreToAKeyThatIsNoListLosesNothing(tt *testing.T) {
	t := newTester(tt)
	t.do("SET", "q", "a text")
	t.do("HSET", "unacked", "tag", "["+envelope("a", 0)+`, "", "q"]`)
	t.do("ZADD", "unacked_index", "1", "tag")
	s, _ := t.open()
	s.sweep("2")
	want(t, "entries", t.number("HLEN", "unacked"), 1)
	t.do("DEL", "q")
	s.sweep("2")
	want(t, "ready", t.ready("q"), "a")
}

// An owner that is fenced may claim from one more list while it is taken over,
// before it learns: it is not forgotten then.
func TestAClaimDuringTakingOverIsNotForgotten(tt *testing.T) {
	t := aside(tt)
	s, _ := t.open()
	t.push(s, "q", "a")
	t.push(s, "late", "b")
	t.claim(s, 1, "q")
	t.do("DEL", aliveKey+s.env.Owner)
	seen := []string{s.keys.alive(s.env.Owner), s.keys.owners(), s.keys.ledger(s.env.Owner), s.keys.own(s.env.Owner, "q")}
	t.do("LMOVE", seen[3], "q", "LEFT", "RIGHT") // what a reaper that saw this list has given back
	_, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "late", Max: 1}}}, make([]virtual.Claim, 1))
	wantKind(t, "claim of the fenced", err, driver.ErrLeaseLost)
	reaper, _ := t.open()
	if err := reaper.script(forgetScript, seen, []string{s.env.Owner}).Error(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the late claim to come back", func() bool { return t.ready("late") == "b" })
}

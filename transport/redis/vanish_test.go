package redis

import (
	"context"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

func TestBindingsThatVanishArePutBack(tt *testing.T) {
	t := aside(tt)
	s, ev := t.open()
	b := []driver.Binding{{Exchange: "ex", Queue: "q1", Key: "k"}, {Exchange: "ex", Queue: "q2", Key: "k"}}
	if err := s.Bind(soon(t), driver.TypeDirect, b); err != nil {
		t.Fatal(err)
	}
	other, _ := t.open()
	if err := other.Unbind(soon(t), driver.TypeDirect, b[1:]); err != nil { // on purpose
		t.Fatal(err)
	}
	t.do("DEL", bindings+"ex")
	eventually(t, "the binding", func() bool { return t.number("SCARD", bindings+"ex") == 1 })
	table, _, err := other.Table(soon(t), "ex", "")
	if err != nil || len(table.Bindings) != 1 || table.Bindings[0].Queue != "q1" {
		t.Fatal(table, err)
	}
	eventually(t, "the warning", func() bool { return ev.count(driver.Warning, "put back") == 1 })
	// The last one is taken away by another session: it stays away.
	if err := other.Drop(soon(t), "q1"); err != nil {
		t.Fatal(err)
	}
	now, _ := t.do("ZSCORE", ownersKey, s.env.Owner).AsFloat64()
	eventually(t, "three heartbeats", func() bool {
		n, _ := t.do("ZSCORE", ownersKey, s.env.Owner).AsFloat64()
		return n > now+2.5
	})
	want(t, "bindings", t.number("EXISTS", bindings+"ex"), 0)
	if err := s.Bind(soon(t), driver.TypeDirect, b); err != nil {
		t.Fatal(err)
	}
	want(t, "bound again", t.number("SCARD", bindings+"ex"), 2)
	want(t, "nothing is held to be unbound", t.number("EXISTS", unboundKey+"ex"), 0)
}

// Whatever single key of a claim vanishes: what Redis has left of it is handled.
func TestClaimsOutliveTheirKeys(tt *testing.T) {
	for _, what := range []string{"unacked", "unacked_index", ownersKey, ledgerKey, ownKey, aliveKey} {
		tt.Run(what, func(tt *testing.T) {
			t := aside(tt)
			s, _ := t.open(func(c *Config) { c.Mirror = MirrorAlways })
			t.push(s, "q", "a", "b", "c", "d")
			first := t.claim(s, 1, "q")
			t.mustSettle(s, driver.Ack, first...) // so that positions do not begin at 1
			got := t.claim(s, 3, "q")
			key := what
			switch what {
			case ledgerKey, aliveKey:
				key += s.env.Owner
			case ownKey:
				key += s.env.Owner + ":q"
			}
			want(t, key, t.number("DEL", key), 1)
			t.push(s, "q", "e")
			errs := t.settle(s, driver.Ack, got[0])
			switch what {
			case ledgerKey, aliveKey:
				wantKind(t, "settle", errs[0], driver.ErrLeaseLost)
				wantKind(t, "the session", s.Err(), driver.ErrLeaseLost)
			default:
				wantKind(t, "settle", errs[0], nil)
			}
			abandon(t, s)
			other, _ := t.open()
			rest := "b c d e"
			if errs[0] == nil {
				rest = "c d e"
			}
			eventually(t, "what is left: "+rest, func() bool { return sorted(t.ready("q")) == rest })
			t.mustSettle(other, driver.Ack, t.claim(other, strings.Count(rest, " ")+1, "q")...)
			eventually(t, "the owner to be forgotten", func() bool {
				n, _ := t.do("KEYS", "gombu:*"+s.env.Owner+"*").AsStrSlice()
				return len(n) == 0 && t.do("ZSCORE", ownersKey, s.env.Owner).Error() != nil
			})
		})
	}
}

// A live session notices that its claims would get the names of others.
func TestAnOwnListThatVanishesEndsItsSession(tt *testing.T) {
	t := aside(tt)
	s, _ := t.open()
	t.push(s, "q", "a", "b", "c", "d")
	t.claim(s, 2, "q")
	t.do("DEL", ownKey+s.env.Owner+":q")
	_, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 2}}}, make([]virtual.Claim, 2))
	wantKind(t, "claim", err, driver.ErrLeaseLost)
	t.open()
	eventually(t, "what is left", func() bool { return t.ready("q") == "c d" })
}

// A ledger that vanishes is noticed by who is idle, too.
func TestALedgerThatVanishesEndsItsSession(tt *testing.T) {
	t := aside(tt)
	s, _ := t.open()
	t.push(s, "q", "a")
	t.claim(s, 1, "q")
	t.do("DEL", ledgerKey+s.env.Owner)
	select {
	case <-s.Done():
	case <-soon(t).Done():
		t.Fatal("the session lives")
	}
	t.open()
	eventually(t, "the claim", func() bool { return t.ready("q") == "a" })
}

func sorted(text string) string {
	f := strings.Fields(text)
	slices.Sort(f)
	return strings.Join(f, " ")
}

// Keys of ours are deleted at random under load. What they held may be gone with
// them; everything else is handled, and consumers never fall silent.
func TestKeysVanishUnderLoad(tt *testing.T) {
	tt.Parallel()
	v := startServer(tt)
	t := &tester{TB: tt, raw: rawClient(tt, v.addr, 0)}
	topology := &gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: "ex", Type: gombu.Direct}},
		Queues:    []gombu.Queue{{Name: "q1"}, {Name: "q2"}},
		Bindings:  []gombu.Binding{{Exchange: "ex", Queue: "q1", Key: "q1"}, {Exchange: "ex", Queue: "q2", Key: "q2"}},
	}
	f := startTraffic(tt, "redis://"+v.addr+"/0?lease=5", gombu.ProducerConfig{Exchange: "ex", Declare: topology}, "q1", "q2")
	f.slow.Store(int64(5 * time.Millisecond))
	f.mayLose = map[string]bool{}
	rounds := 12
	if testing.Short() {
		rounds = 4
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	patterns := []string{aliveKey + "*", ownersKey, ledgerKey + "*", ownKey + "*", "unacked", "unacked_index", bindings + "ex"}
	for range rounds {
		f.more(20)
		pattern := patterns[random.IntN(len(patterns))]
		keys, _ := t.do("KEYS", pattern).AsStrSlice()
		if len(keys) == 0 {
			continue
		}
		key := keys[random.IntN(len(keys))]
		f.destroyed(t.deleted(key))
		f.resume("the end of " + pattern)
	}
	f.settled(30 * time.Second)
}

// deleted deletes a key and returns the texts that were in it.
func (t *tester) deleted(key string) []string {
	t.Helper()
	read := []string{"PING"}
	switch {
	case strings.HasPrefix(key, ownKey):
		read = []string{"LRANGE", key, "0", "-1"}
	case strings.HasPrefix(key, ledgerKey):
		read = []string{"HVALS", key}
	}
	b := t.raw.B()
	answers := t.raw.DoMulti(context.Background(), b.Arbitrary("MULTI").Build(), b.Arbitrary(read...).Build(), b.Arbitrary("DEL", key).Build(), b.Arbitrary("EXEC").Build())
	all, err := execAnswer(answers)
	if err != nil {
		t.Fatal(err)
	}
	texts, _ := all[0].AsStrSlice()
	return texts
}

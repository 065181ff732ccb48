package redis

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
)

// claimed writes what a Kombu peer writes when it takes a message, so long ago.
func (t *tester) claimed(tag, text, exchange, key string, ago time.Duration) {
	t.Helper()
	ex, _ := json.Marshal(exchange)
	rk, _ := json.Marshal(key)
	t.do("HSET", "unacked", tag, "["+text+", "+string(ex)+", "+string(rk)+"]")
	t.do("ZADD", "unacked_index", fmt.Sprintf("%.6f", float64(time.Now().Add(-ago).UnixMicro())/1e6), tag)
}

func shortVisibility(c *Config) { c.VisibilityTimeout = 2 * time.Second }

func TestBehaviour185_Restore(tt *testing.T) {
	t := newTester(tt)
	t.do("LPUSH", "q", envelope("waiting", 0))
	t.claimed("t1", envelope("oldest", 0), "", "q", 30*time.Second)
	t.claimed("t2", envelope("newer", 2), "", "q", 20*time.Second)
	t.claimed("t3", envelope("urgent", 7), "", "q", 10*time.Second)
	t.claimed("t4", envelope("fresh", 0), "", "q", -time.Minute)
	t.do("ZADD", "unacked_index", "1", "settled meanwhile")
	t.open(shortVisibility)
	eventually(t, "the sweep", func() bool { return t.number("HLEN", "unacked") == 1 && t.number("EXISTS", "unacked_mutex") == 0 })
	want(t, "ready", t.ready("q"), "oldest newer waiting")
	want(t, "ready at its own priority", t.ready("q\x06\x166"), "urgent")
	want(t, "index", t.number("ZCARD", "unacked_index"), 1)
	text := t.list("q")[2]
	want(t, "text", text, strings.NewReplacer(`"headers": {}`, `"headers": {"redelivered": true}`,
		`"routing_key": "q"}`, `"routing_key": "q", "redelivered": true}`).Replace(envelope("oldest", 0)))
}

func TestBehaviour187_LockOfAPeer(tt *testing.T) {
	t := aside(tt)
	t.do("SET", "unacked_mutex", "a peer's")
	t.claimed("t1", envelope("a", 0), "", "q", time.Hour)
	s, ev := t.open(shortVisibility)
	first, _ := t.do("ZSCORE", ownersKey, s.env.Owner).AsFloat64()
	eventually(t, "three heartbeats", func() bool {
		n, _ := t.do("ZSCORE", ownersKey, s.env.Owner).AsFloat64()
		return n > first+3
	})
	want(t, "ready", t.ready("q"), "")
	token, _ := t.do("GET", "unacked_mutex").ToString()
	want(t, "lock", token, "a peer's")
	want(t, "warnings", ev.count(driver.Warning, ""), 0)
	t.do("DEL", "unacked_mutex")
	eventually(t, "the sweep", func() bool { return t.ready("q") == "a" })
}

func TestRestoreByTheBindingTable(tt *testing.T) {
	t := newTester(tt)
	t.do("SADD", bindings+"topics", "a.*\x06\x16^a\\..*?[^\\.]$\x06\x16q1", "a.b\x06\x16^a\\.b$\x06\x16q2", "#\x06\x16^.*?$\x06\x16q1", "x\x06\x16^x$\x06\x16q3", "bad\x06\x16^a.**$\x06\x16q4")
	t.do("SADD", bindings+"direct", "k\x06\x16\x06\x16q5", "l\x06\x16\x06\x16q6")
	t.claimed("t1", envelope("topic", 0), "topics", "a.b", time.Hour)
	t.claimed("t2", envelope("direct", 0), "direct", "k", time.Hour)
	t.claimed("t3", envelope("lost", 0), "direct", "nowhere", time.Hour)
	t.claimed("t4", "no json", "", "q7", time.Hour)
	_, ev := t.open(shortVisibility)
	eventually(t, "the sweep", func() bool { return t.number("HLEN", "unacked") == 2 })
	for q, body := range map[string]string{"q1": "topic", "q2": "topic", "q3": "", "q4": "", "q5": "direct", "q6": "", "q7": ""} {
		want(t, q, t.ready(q), body)
	}
	eventually(t, "the warnings", func() bool { return ev.count(driver.Warning, "") == 2 })
	want(t, "of what leads nowhere", ev.count(driver.Warning, "nowhere"), 1)
	want(t, "of what is no entry", ev.count(driver.Warning, "t4"), 1)
}

// The throttle of Kombu's is the interval here: the first look sweeps, then the
// interval passes.
func TestBehaviour186_SweepsAreSpaced(tt *testing.T) {
	t := aside(tt)
	t.claimed("t1", envelope("a", 0), "", "q", time.Hour)
	t.open(func(c *Config) { shortVisibility(c); c.RestoreInterval = 4 * time.Second })
	eventually(t, "the first sweep", func() bool { return t.number("LLEN", "q") == 1 })
	first := time.Now()
	t.claimed("t2", envelope("b", 0), "", "q", time.Hour)
	eventually(t, "the second", func() bool { return t.number("LLEN", "q") == 2 })
	if took := time.Since(first); took < 2500*time.Millisecond {
		t.Fatalf("swept again after %v", took)
	}
	_, err := fromText("redis://h?unacked_restore_throttle=3")
	wantKind(t, "kombu's option", err, driver.ErrInvalid)
}

func TestRestoreLimit(tt *testing.T) {
	t := newTester(tt)
	for i := range 5 {
		t.claimed(fmt.Sprint("t", i), envelope(fmt.Sprint(i), 0), "", "q", time.Hour+time.Duration(i)*time.Minute)
	}
	s, _ := t.open(func(c *Config) { shortVisibility(c); c.RestoreLimit = 2; c.RestoreInterval = time.Hour })
	eventually(t, "a sweep", func() bool { return t.number("LLEN", "q") >= 2 })
	want(t, "restored", t.number("LLEN", "q"), 2)
	wantKind(t, "session", s.Err(), nil)
}

// What is ours is renewed: a sweep with a short timeout never takes it, and a
// restore that looked before the renewal does nothing.
func TestRenewedClaimsAreNotRestored(tt *testing.T) {
	t := aside(tt)
	s, _ := t.open(shortVisibility)
	peer, _ := t.open(shortVisibility)
	t.push(s, "q", "a")
	got := t.claim(s, 1, "q")
	id := s.env.Owner + ":q:1"
	eventually(t, "the mirror", func() bool { return t.number("HEXISTS", "unacked", id) == 1 })
	since := time.Now()
	eventually(t, "a while", func() bool { return time.Since(since) > 5*time.Second })
	want(t, "ready", t.ready("q"), "")
	entry, _ := t.do("HGET", "unacked", id).ToString()
	want(t, "restored by a late look", peer.restore(id, entry, fmt.Sprint(time.Now().Add(-time.Minute).Unix()), nil), false)
	t.mustSettle(s, driver.Ack, got...)
}

func TestSetFlag(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{`{}`, `{"f": true}`}, {`{"a": 1}`, `{"a": 1, "f": true}`}, {`{"f": null, "a": [] }`, `{"f": true, "a": [] }`},
		{`{"f": 1, "f" : {"x": 2}}`, `{"f": 1, "f" : true}`}, {`[]`, `[]`}, {`{`, `{`}, {`{"a": }`, `{"a": }`}, {``, ``}, {`{"a": 12345678901234567890123}`, `{"a": 12345678901234567890123, "f": true}`},
	} {
		if have := string(setFlag([]byte(c.in), "f")); have != c.out {
			t.Errorf("%s: have %s, want %s", c.in, have, c.out)
		}
	}
	want(t, "deep", string(setFlag([]byte(`{"p": {"d": {"x": []}}, "n": {}}`), "p", "d", "f")), `{"p": {"d": {"x": [], "f": true}}, "n": {}}`)
	want(t, "missing table", string(setFlag([]byte(`{"p": {}}`), "p", "d", "f")), `{"p": {}}`)
	want(t, "no table", string(setFlag([]byte(`{"p": null}`), "p", "f")), `{"p": null}`)
}

// FuzzSetFlag: what was JSON stays so, with the flag set and all else equal.
func FuzzSetFlag(f *testing.F) {
	f.Add([]byte(envelope("x", 0)))
	f.Add([]byte(`{"headers": {"redelivered": 1}, "properties": {"delivery_info": {}}}`))
	f.Add([]byte(`{"headers":null,"headers":{}}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		out := markRedelivered(in)
		var before, after map[string]any
		if json.Unmarshal(in, &before) != nil || before == nil {
			if json.Valid(in) && string(in) != string(out) {
				t.Fatalf("changed %q to %q", in, out)
			}
			return
		}
		if err := json.Unmarshal(out, &after); err != nil {
			t.Fatalf("%q became %q: %v", in, out, err)
		}
		if h, ok := before["headers"].(map[string]any); ok {
			if after["headers"].(map[string]any)["redelivered"] != true {
				t.Fatalf("%q became %q", in, out)
			}
			h["redelivered"] = true
		}
	})
}

// FuzzTries: no text makes reading the count fail, and ours reads back.
func FuzzTries(f *testing.F) {
	for _, s := range []string{"", `{"gombu-try": 3, "body": ""}`, `{"gombu-try": `, `{"gombu-try": 99999999999999999999, `, `{"gombu-try": -1`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if tries(s) < 0 {
			t.Fatal(s)
		}
	})
	want(f, "count", tries(`{"gombu-try": 12, "body": ""}`), 12)
}

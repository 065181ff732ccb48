package redis

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

func TestBehaviour184_ListsOfPriorities(t *testing.T) {
	full, err := Config{}.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	k := newKeys(full)
	for priority, list := range map[uint8]string{3: "q\x06\x163", 255: "q\x06\x169", 0: "q", 2: "q", 8: "q\x06\x166"} {
		want(t, fmt.Sprintf("list of priority %d", priority), k.list("q", priority), list)
		want(t, "queue of it", k.queueOf(list), "q")
	}
	want(t, "a step that is none", k.queueOf("q\x06\x164"), "q\x06\x164")
	k.steps = []int{2, 5}
	want(t, "below the first step it wraps, as Kombu's", k.list("q", 1), "q\x06\x165")
	want(t, "first step", k.list("q", 4), "q\x06\x162")
}

func TestBehaviour177_PrioritiesAreClamped(t *testing.T) {
	k := keys{sep: ":", steps: []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}}
	for have, list := range map[uint8]string{0: "q", 5: "q:5", 19: "q:9"} {
		want(t, "list", k.list("q", have), list)
	}
}

func TestBehaviour197_RequeueKeepsPriorities(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	push := func(body string, p int) {
		t.pushItems(s, []virtual.Item{{Queue: "q", Priority: uint8(p), Raw: []byte(envelope(body, p))}})
	}
	push("6a", 6)
	push("3", 3)
	push("6b", 6)
	got := t.claim(s, 3, "q")
	want(t, "first", t.bodies(got), "3 6a 6b")
	t.mustSettle(s, driver.Requeue, got...)
	push("0", 0)
	want(t, "after requeue", t.bodies(t.claim(s, 4, "q")), "0 3 6a 6b")
}

func TestBehaviour190_OrderOfQueuesIsTheCallers(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	for _, q := range []string{"low", "high", "medium"} {
		t.push(s, q, q)
	}
	want(t, "order", t.bodies(t.claim(s, 3, "high", "medium", "low")), "high medium low")
}

// All queues of a step come before the next step (redis.md 3.1).
func TestStepsGoBeforeQueues(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	for _, q := range []string{"a", "b"} {
		for _, p := range []uint8{9, 0} {
			t.pushItems(s, []virtual.Item{{Queue: q, Priority: p, Raw: fmt.Appendf(nil, "%s%d", q, p)}})
		}
	}
	want(t, "order", t.bodies(t.claim(s, 4, "b", "a")), "b0 a0 b9 a9")
}

func TestPriorityHighFirst(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open(func(c *Config) { c.PriorityHighFirst = true; c.Steps = []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9} })
	for p := range 10 {
		t.pushItems(s, []virtual.Item{{Queue: "q", Priority: uint8(p), Raw: fmt.Appendf(nil, "%d", p)}})
	}
	want(t, "order", t.bodies(t.claim(s, 10, "q")), "9 8 7 6 5 4 3 2 1 0")
}

func TestBehaviour194_Expiry(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	if err := s.Create(soon(t), &driver.Queue{Name: "q", Expires: 30 * time.Second}); err != nil {
		t.Fatal(err)
	}
	ttl := func(list string) int { return t.number("PTTL", list) }
	for _, p := range []uint8{0, 9} {
		t.pushItems(s, []virtual.Item{{Queue: "q", Priority: p, Raw: []byte("x")}, {Queue: "q", Priority: p, Raw: []byte("y")}})
	}
	for _, list := range []string{"q", "q\x06\x169"} {
		if n := ttl(list); n < 25000 || n > 30000 {
			t.Fatal(list, n)
		}
		t.do("PEXPIRE", list, "5000")
	}
	t.pushItems(s, []virtual.Item{{Queue: "q", Raw: []byte("z")}})
	if ttl("q") < 25000 || ttl("q\x06\x169") < 25000 {
		t.Fatal("a push does not put off the end of all lists")
	}
	t.do("PEXPIRE", "q\x06\x169", "5000")
	t.claim(s, 1, "q")
	if ttl("q\x06\x169") < 25000 {
		t.Fatal("a claim does not put off the end")
	}
	if err := s.Create(soon(t), &driver.Queue{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	t.do("PERSIST", "q")
	t.pushItems(s, []virtual.Item{{Queue: "q", Raw: []byte("z")}})
	want(t, "declared again without", ttl("q"), -1)
}

func TestBehaviour191_Prefix(tt *testing.T) {
	t := newTester(tt)
	s, ev := t.open(func(c *Config) { c.Prefix = "p*:"; c.Mirror = MirrorAlways })
	t.push(s, "q", "a", "b")
	bind(t, s, driver.TypeTopic, driver.Binding{Exchange: "e", Queue: "q", Key: "k.*"})
	sub, err := s.Subscribe(soon(t), driver.ReceiverConfig{Queue: "f"}, []driver.Binding{{Exchange: "fan"}})
	if err != nil {
		t.Fatal(err)
	}
	got := t.claim(s, 1, "q")
	want(t, "mirrored", t.number("HLEN", "p*:unacked"), 1)
	items := []virtual.Item{{Raw: []byte(envelope("x", 0))}}
	if err := s.Broadcast(soon(t), "fan", "", items); err != nil || items[0].Err != nil {
		t.Fatal(err, items[0].Err)
	}
	if n, err := sub.Receive(soon(t), make([]virtual.Claim, 1)); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	all, _ := t.do("KEYS", "*").AsStrSlice()
	for _, key := range all {
		if !strings.HasPrefix(key, "p*:") {
			t.Errorf("key %q has no prefix", key)
		}
	}
	t.do("LPUSH", "pX:other", "x") // the prefix is no pattern
	queues, err := s.Queues(soon(t))
	if err != nil || len(queues) != 1 || queues[0].Name != "q" || queues[0].Ready != 1 {
		t.Fatal(queues, err)
	}
	info, err := s.Stat(soon(t), "q")
	if err != nil || info.Ready != 1 {
		t.Fatal(info, err)
	}
	table, ok, err := s.Table(soon(t), "e", "")
	if err != nil || !ok || !table.Topic || len(table.Bindings) != 1 || table.Bindings[0].Queue != "q" {
		t.Fatal(table, ok, err)
	}
	t.mustSettle(s, driver.Ack, got...)
	want(t, "unacked", t.number("EXISTS", "p*:unacked"), 0)
	if n, err := s.Purge(soon(t), "q"); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	want(t, "warnings", ev.count(driver.Warning, ""), 0)
}

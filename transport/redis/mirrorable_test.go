package redis

import (
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

func TestMirrorable(t *testing.T) {
	with := func(headers, info string) string {
		return `{"body": "", "headers": ` + headers + `, "properties": {"delivery_info": ` + info + `}}`
	}
	const info = `{"exchange": "", "routing_key": "q"}`
	for text, ok := range map[string]bool{
		envelope("a", 3): true,
		`{"body": "", "properties": {"delivery_info": {}}}`:                                                                             true,
		with(`{"n": 1e5, "l": [1, null, {"a": "b"}]}`, info):                                                                            true,
		with(`{"b": {"__type__": "bytes", "__value__": "x"}, "t": {"__type__": "datetime", "__value__": "2024-01-02T03:04:05"}}`, info): true,
		with(`{"b": {"__type__": "bytes", "__value__": "x", "more": 1}}`, info):                                                         true,
		"garbage":                       false,
		with("null", info):              false,
		with("{}", "null"):              false,
		with("{\"a\": \"\xff\"}", info): false,
		// Seen by Go under another name, by Python not.
		`{"body": "", "headers": null, "Headers": {}, "properties": {"delivery_info": ` + info + `}}`: false,
		// The last of equal names counts.
		`{"body": "", "headers": {}, "properties": {"delivery_info": {}, "delivery_info": null}}`: false,
		// What Python's or Kombu's reader raises at: the sweep would stop there.
		with(`{"n": `+strings.Repeat("9", 5000)+`}`, info):                         false,
		with(`{"x": {"__type__": "nosuch", "__value__": "x"}}`, info):              false,
		with(`{"x": [{"__value__": "never", "__type__": "datetime"}]}`, info):      false,
		with(`{"__type__": "bytes", "__value__": "x"}`, info):                      false,
		with(`{"x": `+strings.Repeat("[", 990)+strings.Repeat("]", 990)+`}`, info): false,
	} {
		if mirrorable(text) != ok {
			t.Errorf("%v for %.150s", !ok, text)
		}
	}
}

// A queue whose name is no UTF-8 has no place in JSON: a sweep would put the
// message into a queue of another name.
func TestNoMirrorForAQueueThatJSONCannotName(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open(func(c *Config) { c.Mirror = MirrorAlways })
	t.push(s, "q\xff", "a")
	got := t.claim(s, 1, "q\xff")
	want(t, "indexed", t.number("EXISTS", "unacked_index"), 0)
	t.mustSettle(s, driver.Release, got...)
	want(t, "ready", t.ready("q\xff"), "a")
}

// A list of priorities and a key of ours are no queues: what is claimed there
// would be another queue's, or another owner's.
func TestClaimOfWhatIsNoQueue(tt *testing.T) {
	t := newTester(tt)
	s, ev := t.open()
	other, _ := t.open()
	t.pushItems(other, []virtual.Item{{Queue: "q", Priority: 3, Raw: []byte(envelope("a", 3))}})
	t.claim(other, 1, "q")
	t.pushItems(other, []virtual.Item{{Queue: "q", Priority: 3, Raw: []byte(envelope("b", 3))}})
	t.push(other, "good", "c")
	list := s.keys.stepList("q", 3)
	names := []string{list, ownKey + other.env.Owner + ":" + list, "good"}
	wants := make([]virtual.Want, len(names))
	for i, n := range names {
		wants[i] = virtual.Want{Queue: n, Max: 3}
	}
	dst := make([]virtual.Claim, 3)
	n, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: wants}, dst)
	if n != 1 || err != nil || dst[0].Queue != "good" {
		t.Fatalf("%d, %v: %+v", n, err, dst[:n])
	}
	want(t, "warnings", ev.count(driver.Warning, "no queue"), 2)
	n, err = s.Claim(soon(t), virtual.ClaimRequest{Wants: wants[:1], Wait: 50 * time.Millisecond}, dst)
	if n != 0 {
		t.Fatal(n)
	}
	wantKind(t, "nothing but that", err, driver.ErrInvalid)
}

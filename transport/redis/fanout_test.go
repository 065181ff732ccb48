package redis

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

func subscribe(t *tester, s *store, queue string, b ...driver.Binding) virtual.Subscription {
	t.Helper()
	sub, err := s.Subscribe(soon(t), driver.ReceiverConfig{Queue: queue}, b)
	if err != nil {
		t.Fatal(err)
	}
	return sub
}

func broadcast(t *tester, s *store, exchange, key string, bodies ...string) {
	t.Helper()
	items := make([]virtual.Item, len(bodies))
	for i, b := range bodies {
		items[i].Raw = []byte(envelope(b, 0))
	}
	if err := s.Broadcast(soon(t), exchange, key, items); err != nil {
		t.Fatal(err)
	}
	for i := range items {
		if items[i].Err != nil {
			t.Fatal(items[i].Err)
		}
	}
}

// heard receives until a message "end" and returns the bodies before it.
func heard(t *tester, sub virtual.Subscription) string {
	t.Helper()
	var out []string
	for {
		dst := make([]virtual.Claim, 3)
		n, err := sub.Receive(soon(t), dst)
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range dst[:n] {
			b := bodyOf(t, c.Raw)
			if b == "end" {
				return strings.Join(out, " ")
			}
			out = append(out, b)
		}
	}
}

func TestFanout(tt *testing.T) {
	t := newTester(tt)
	s, ev := t.open()
	peer, _ := t.open()
	broadcast(t, peer, "e", "", "nobody listens")
	all := subscribe(t, s, "all", driver.Binding{Exchange: "e"})
	some := subscribe(t, s, "some", driver.Binding{Exchange: "e", Key: "a.#"}, driver.Binding{Exchange: "e", Key: "a.*"}, driver.Binding{Exchange: "e", Key: "end"})
	plain := subscribe(t, s, "other", driver.Binding{Exchange: "f"})
	broadcast(t, peer, "e", "", "1")
	broadcast(t, peer, "e", "a.b", "2", "3")
	t.do("PUBLISH", fmt.Sprintf("/%d.e/a.b", t.config.DB), "{no json")
	broadcast(t, peer, "e", "b", "4")
	broadcast(t, peer, "e", "end", "end")
	broadcast(t, peer, "f", "", "end")
	want(t, "a binding without a key", heard(t, all), "1 2 3 4")
	want(t, "two that overlap", heard(t, some), "2 3")
	want(t, "another exchange", heard(t, plain), "")
	want(t, "reports of what was no JSON", ev.count(driver.Warning, "no JSON"), 2)
	want(t, "unacked", t.number("EXISTS", "unacked"), 0)
}

func TestASlowSubscriberLosesTheOldest(tt *testing.T) {
	t := newTester(tt)
	s, ev := t.open(func(c *Config) { c.FanoutBuffer = 3 })
	sub := subscribe(t, s, "q", driver.Binding{Exchange: "e"})
	broadcast(t, s, "e", "", "1", "2", "3", "4", "5", "6", "7")
	eventually(t, "all to arrive", func() bool { return ev.count(driver.Dropped, "q") == 4 })
	broadcast(t, s, "e", "", "end")
	eventually(t, "the end to arrive", func() bool { return ev.count(driver.Dropped, "q") == 5 })
	want(t, "heard", heard(t, sub), "6 7")
	broadcast(t, s, "e", "", "8", "end")
	want(t, "heard later", heard(t, sub), "8")
}

func TestLeavingAndComingBack(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	keep := subscribe(t, s, "keep", driver.Binding{Exchange: "e"})
	for i := range 30 {
		sub := subscribe(t, s, "q", driver.Binding{Exchange: "e"}, driver.Binding{Exchange: "f"})
		broadcast(t, s, "e", "", fmt.Sprint(i))
		broadcast(t, s, "f", "", "end")
		want(t, "heard", heard(t, sub), fmt.Sprint(i))
		done := make(chan error, 1)
		go func() { _, err := sub.Receive(context.Background(), make([]virtual.Claim, 1)); done <- err }()
		if err := sub.Close(soon(t)); err != nil {
			t.Fatal(err)
		}
		wantKind(t, "receive after close", <-done, driver.ErrClosed)
	}
	s.fanout.mu.Lock()
	left := len(s.fanout.patterns)
	s.fanout.mu.Unlock()
	want(t, "patterns that are still subscribed", left, 2)
	clients, _ := t.do("CLIENT", "LIST", "TYPE", "PUBSUB").ToString()
	want(t, "so says the server", strings.Contains(clients, " psub=2 "), true)
	broadcast(t, s, "e", "", "end")
	if have := heard(t, keep); !strings.HasSuffix(have, " 28 29") {
		t.Fatal(have)
	}
}

func TestSubscribersSideBySide(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			sub, err := s.Subscribe(soon(t), driver.ReceiverConfig{Queue: "q"}, []driver.Binding{{Exchange: fmt.Sprint("e", i%3)}})
			if err != nil {
				t.Error(err)
				return
			}
			broadcast(t, s, fmt.Sprint("e", i%3), "", "x")
			if n, err := sub.Receive(soon(t), make([]virtual.Claim, 1)); n != 1 || err != nil {
				t.Error(n, err)
			}
			if err := sub.Close(soon(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

func TestReceiveEnds(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	sub := subscribe(t, s, "q", driver.Binding{Exchange: "e"})
	cause := errors.New("enough")
	ctx, cancel := context.WithCancelCause(context.Background())
	time.AfterFunc(20*time.Millisecond, func() { cancel(cause) })
	_, err := sub.Receive(ctx, make([]virtual.Claim, 1))
	want(t, "cause", err, cause)
	time.AfterFunc(20*time.Millisecond, func() { _ = s.Close(context.Background()) })
	_, err = sub.Receive(soon(t), make([]virtual.Claim, 1))
	wantKind(t, "receive of a closed session", err, driver.ErrClosed)
	_, err = s.Subscribe(soon(t), driver.ReceiverConfig{Queue: "q"}, []driver.Binding{{Exchange: "e"}})
	if err == nil {
		t.Fatal("a closed session subscribed")
	}
}

func TestGlobMatch(t *testing.T) {
	for _, c := range []struct {
		pattern, text string
		fits          bool
	}{
		{"", "", true}, {"", "a", false}, {"*", "", true}, {"*", "abc", true}, {"a*", "abc", true}, {"a*c", "abcbc", true},
		{"a*d", "abc", false}, {"a?c", "abc", true}, {"a?c", "ac", false}, {"[abc]x", "bx", true}, {"[^abc]x", "bx", false},
		{"[a-c]", "b", true}, {"[c-a]", "b", true}, {"[a-c]", "d", false}, {`\*`, "*", true}, {`\*`, "x", false}, {"**a**", "xax", true},
		{"/0.e/a.*", "/0.e/a.b/c", true}, {"/0.e", "/0.e/a", false}, {"[", "a", false}, {"a[", "a", false}, {`a\`, `a\`, true}, {"*a*b*c", "xaxbxc", true},
	} {
		if globMatch(c.pattern, c.text) != c.fits {
			t.Errorf("%q, %q: want %v", c.pattern, c.text, c.fits)
		}
	}
}

// FuzzGlob compares with the server's own matcher.
func FuzzGlob(f *testing.F) {
	raw := newTester(f).raw
	for _, s := range [][2]string{{"a*b", "axb"}, {"[a-c]?", "bb"}, {`\[`, "["}, {"[^x]*", "abc"}, {"*[", "a"}, {"[a", "a"}, {"[]", "a"}, {`[\`, `\`}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(ft *testing.T, pattern, text string) {
		if len(pattern)+len(text) > 64 || text == "" || strings.ContainsFunc(pattern+text, func(r rune) bool { return r > 126 }) {
			return // ranges of bytes above ASCII depend on the server's machine
		}
		t := &tester{TB: ft, raw: raw}
		fits := t.number("EVAL", "redis.call('FLUSHDB') redis.call('SET', KEYS[1], '') return #redis.call('KEYS', ARGV[1])", "1", text, pattern)
		if have := globMatch(pattern, text); have != (fits == 1) {
			ft.Fatalf("pattern %q, text %q: have %v", pattern, text, have)
		}
		if !globMatch(globQuote(text), text) {
			ft.Fatalf("%q does not match itself", text)
		}
	})
}

package redis

import (
	"fmt"
	"slices"
	"sync"
	"testing"

	"encoding/json"
	"os"

	"github.com/gombu/gombu/driver"
)

func TestTable(tt *testing.T) {
	t := newTester(tt)
	s, ev := t.open()
	table, ok, err := s.Table(soon(t), "e", "")
	if err != nil || !ok || table.Topic || len(table.Bindings) != 0 || table.Version == "" {
		t.Fatal(table, ok, err)
	}
	again, ok, err := s.Table(soon(t), "e", table.Version)
	if err != nil || ok {
		t.Fatal(again, ok, err)
	}
	bind(t, s, driver.TypeTopic, driver.Binding{Exchange: "e", Queue: "q", Key: "a.*"})
	t.do("SADD", bindings+"e", "no binding")
	table, ok, err = s.Table(soon(t), "e", table.Version)
	if err != nil || !ok || !table.Topic || !slices.EqualFunc(table.Bindings, []driver.Binding{{Exchange: "e", Queue: "q", Key: "a.*"}},
		func(a, b driver.Binding) bool {
			return a.Exchange == b.Exchange && a.Queue == b.Queue && a.Key == b.Key
		}) {
		t.Fatal(table, ok, err)
	}
	want(t, "warnings", ev.count(driver.Warning, "no binding"), 1)
	other, _ := t.open()
	if _, ok, err = other.Table(soon(t), "e", table.Version); err != nil || ok {
		t.Fatal("a version means the same in every session", ok, err)
	}
	t.do("FLUSHDB")
	if table, ok, err = s.Table(soon(t), "e", table.Version); err != nil || !ok || len(table.Bindings) != 0 {
		t.Fatal(table, ok, err)
	}
}

// A publisher that has the table looks at it without reading the set.
func TestAKnownTableIsNotRead(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	for i := range 1000 {
		t.do("SADD", bindings+"e", fmt.Sprintf("key%d\x06\x16\x06\x16queue%d", i, i))
	}
	table, _, err := s.Table(soon(t), "e", "")
	if err != nil || len(table.Bindings) != 1000 {
		t.Fatal(err)
	}
	before := s.link.moved.Load()
	for range 50 {
		if _, ok, err := s.Table(soon(t), "e", table.Version); err != nil || ok {
			t.Fatal(ok, err)
		}
	}
	if bytes := s.link.moved.Load() - before; bytes > 20000 { // the set is larger than that
		t.Fatalf("%d bytes were moved", bytes)
	}
}

// A peer binds, and a look that begins when that returned sees it: through the
// engine's own order of calls, a thousand times, with a second peer that
// changes the set all the while.
func TestTableIsAsFreshAsARead(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	noise, _ := t.open()
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			b := []driver.Binding{{Exchange: "e", Queue: "noise", Key: fmt.Sprint(i % 7)}}
			if noise.Bind(soon(t), "", b) != nil || noise.Unbind(soon(t), "", b) != nil {
				return
			}
		}
	})
	defer wg.Wait()
	defer close(stop)
	version, missed, unchanged := "", 0, 0
	var have []driver.Binding
	for i := range 1000 {
		q := fmt.Sprint("q", i)
		t.do("SADD", bindings+"e", q+"\x06\x16\x06\x16"+q)
		table, ok, err := s.Table(soon(t), "e", version)
		if err != nil {
			t.Fatal(err)
		}
		if ok {
			version, have = table.Version, table.Bindings
		} else {
			unchanged++
		}
		if !slices.ContainsFunc(have, func(b driver.Binding) bool { return b.Queue == q }) {
			missed++
		}
		t.do("SREM", bindings+"e", q+"\x06\x16\x06\x16"+q)
	}
	want(t, "missed", missed, 0)
}

func TestKombuPatterns(t *testing.T) {
	data, err := os.ReadFile("testdata/topic_patterns.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Probes  []string
		Samples []struct {
			RoutingKey string `json:"routing_key"`
			Pattern    string
			Matches    []string
		}
	}
	if err := json.Unmarshal(data, &file); err != nil || len(file.Samples) < 10 {
		t.Fatal(err)
	}
	for _, s := range file.Samples {
		re, ok := kombuPattern(s.Pattern)
		if !ok {
			t.Fatalf("pattern %q does not compile", s.Pattern)
		}
		for _, p := range file.Probes {
			if re.MatchString(p) != slices.Contains(s.Matches, p) {
				t.Errorf("pattern %q, key %q: have %v", s.Pattern, p, re.MatchString(p))
			}
		}
	}
	if re, ok := kombuPattern(`^\☃\.a$`); !ok || !re.MatchString("☃.a") {
		t.Error("a symbol that Python escaped")
	}
	if _, ok := kombuPattern("^a.**$"); ok {
		t.Error("a pattern that no regexp can be made of")
	}
}

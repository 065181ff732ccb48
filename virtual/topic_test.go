package virtual

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/gombu/gombu/driver"
)

func bind(key, to string) *binding {
	return &binding{key: key, to: dest{queue: &queue{name: to}}}
}

// find is what a matcher leads a key to, sorted.
func find(m matcher, s *search, key string, headers driver.Headers) []string {
	s.queues, s.exchanges = s.queues[:0], s.exchanges[:0]
	s.message = message{key: key, headers: headers}
	m.match(s)
	out := []string{}
	for _, q := range s.queues {
		out = append(out, q.name)
	}
	slices.Sort(out)
	return out
}

// takes is the definition of a topic match, by words.
func takes(pattern, key []string) bool {
	if len(pattern) == 0 {
		return len(key) == 0
	}
	if pattern[0] == "#" {
		return takes(pattern[1:], key) || len(key) > 0 && takes(pattern, key[1:])
	}
	return len(key) > 0 && (pattern[0] == "*" || pattern[0] == key[0]) && takes(pattern[1:], key[1:])
}

// The trie agrees with the definition for any three patterns, also after one
// of them went away.
func FuzzTopic(f *testing.F) {
	f.Add("a.#.b", "*.b", "#", "a.b")
	f.Add("#.#", "#.a.#", "a", "a.a.a")
	f.Add("", ".", "*", "")
	f.Add("*.#", "#.*", "*", "x")
	f.Fuzz(func(t *testing.T, p1, p2, p3, key string) {
		if len(p1)+len(p2)+len(p3)+len(key) > 80 {
			return // the definition is exponential
		}
		patterns := []string{p1, p2, p3}
		var tr trie
		var s search
		bindings := make([]*binding, len(patterns))
		for i, p := range patterns {
			bindings[i] = bind(p, fmt.Sprint(i))
			tr.add(bindings[i])
		}
		compare := func(from int) {
			want := []string{}
			for i := from; i < len(patterns); i++ {
				if takes(words(patterns[i]), words(key)) {
					want = append(want, fmt.Sprint(i))
				}
			}
			if got := find(&tr, &s, key, nil); !slices.Equal(got, want) {
				t.Fatalf("%q ~ %q: %q, want %q", patterns[from:], key, got, want)
			}
		}
		compare(0)
		for i, b := range bindings {
			tr.remove(b)
			compare(i + 1)
		}
		if !tr.root.barren() {
			t.Fatal("an emptied trie keeps nodes")
		}
	})
}

// A pattern with many # and a long key that almost matches.
func TestManyHashesStayCheap(t *testing.T) {
	var tr trie
	var s search
	tr.add(bind(strings.Repeat("#.a.", 60)+"z", "q"))
	if got := find(&tr, &s, strings.Repeat("a.", 5000)+"y", nil); len(got) != 0 {
		t.Fatal(got)
	}
}

// Many nodes reached at once must not cost their square.
func TestManyNodesAtOnce(t *testing.T) {
	var tr trie
	var s search
	r := rand.New(rand.NewPCG(1, 2))
	choice := []string{"*", "#", "a"}
	for i := range 3000 {
		var p []string
		for range 9 {
			p = append(p, choice[r.IntN(3)])
		}
		tr.add(bind(strings.Join(p, "."), fmt.Sprint(i)))
	}
	n := testing.Benchmark(func(b *testing.B) {
		for b.Loop() {
			find(&tr, &s, "a.a.a.a.a.a.a.a.a", nil)
		}
	})
	if d := n.NsPerOp(); d > 50e6 {
		t.Errorf("%d ns", d)
	}
}

func thousand() (*trie, *search) {
	tr, s := &trie{}, &search{}
	for i := range 1000 {
		tr.add(bind(fmt.Sprintf([]string{"svc%d.*.created", "svc%d.#", "svc%d.order.created", "*.user.%d"}[i%4], i), fmt.Sprint("q", i)))
	}
	return tr, s
}

func BenchmarkTopic1000(b *testing.B) {
	tr, s := thousand()
	for _, key := range []string{"svc42.order.created", "svc41.a.b", "nothing.at.all"} {
		b.Run(key, func(b *testing.B) {
			s.message.key = key
			b.ReportAllocs()
			for b.Loop() {
				s.queues = s.queues[:0]
				tr.match(s)
			}
		})
	}
}

func TestTopicAllocatesNothing(t *testing.T) {
	tr, s := thousand()
	s.message.key = "svc42.order.created"
	if n := testing.AllocsPerRun(100, func() {
		s.queues = s.queues[:0]
		tr.match(s)
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
	if len(s.queues) != 1 {
		t.Errorf("%d queues", len(s.queues))
	}
}

func TestManyQueuesOneCopyEach(t *testing.T) {
	var all everyone
	var s search
	for i := range 300 {
		all.add(bind("", fmt.Sprint(i%100)))
	}
	if got := find(&all, &s, "", nil); len(got) != 100 {
		t.Errorf("%d queues, want 100", len(got))
	}
	if got := find(&all, &s, "", nil); len(got) != 100 {
		t.Errorf("second time %d queues", len(got))
	}
}

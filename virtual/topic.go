package virtual

import (
	"slices"
	"strings"
)

// A trie holds topic patterns word by word: * is exactly one word, # none or
// more (AMQP 0-9-1, section 3.1.3.3). As in RabbitMQ an empty key has no words
// at all, so that # takes it and * does not; "a." has two. The root has no word.
type trie struct {
	root  node
	nodes uint32 // handed out so far, for marks
}

type node struct {
	id         uint32
	kids       map[string]*node
	star, hash *node
	loop       bool // reached by #, so it may swallow words
	dests      dests
}

func (t *trie) add(b *binding) {
	n := &t.root
	for _, word := range words(b.key) {
		slot := n.slot(word)
		if slot == nil {
			t.nodes++
			kid := &node{id: t.nodes, loop: word == "#"}
			n.link(word, kid)
			slot = kid
		}
		n = slot
	}
	n.dests.add(b.to)
}

func words(key string) []string {
	if key == "" {
		return nil
	}
	return strings.Split(key, ".")
}

// remove takes b's destination out and cuts off what no pattern needs any more.
func (t *trie) remove(b *binding) {
	words := words(b.key)
	path := make([]*node, 1, len(words)+1)
	path[0] = &t.root
	for _, word := range words {
		n := path[len(path)-1].slot(word)
		if n == nil {
			return
		}
		path = append(path, n)
	}
	path[len(path)-1].dests.remove(b.to)
	for i := len(words); i > 0 && path[i].barren(); i-- {
		path[i-1].unlink(words[i-1])
	}
}

func (n *node) slot(word string) *node {
	switch word {
	case "*":
		return n.star
	case "#":
		return n.hash
	}
	return n.kids[word]
}

func (n *node) link(word string, kid *node) {
	switch word {
	case "*":
		n.star = kid
	case "#":
		n.hash = kid
	default:
		if n.kids == nil {
			n.kids = map[string]*node{}
		}
		n.kids[strings.Clone(word)] = kid
	}
}

func (n *node) unlink(word string) {
	switch word {
	case "*":
		n.star = nil
	case "#":
		n.hash = nil
	default:
		delete(n.kids, word)
	}
}

func (n *node) barren() bool {
	return len(n.dests) == 0 && len(n.kids) == 0 && n.star == nil && n.hash == nil
}

// match collects the destinations of every pattern that takes key. It walks
// the set of all nodes that the words so far can reach, as an automaton, where
// a walk with backtracking would be exponential in the number of #; marks make
// each node enter a set once, so that a step costs no more than the trie has
// nodes.
func (t *trie) match(s *search) {
	key := s.message.key
	s.mark.grow(int(t.nodes) + 1)
	set, next := s.set[:0], s.next[:0]
	set = s.enter(set, &t.root)
	for more := key != ""; more && len(set) > 0; {
		var word string
		word, key, more = strings.Cut(key, ".")
		s.mark.clear()
		next = next[:0]
		for _, n := range set {
			if n.loop {
				next = s.enter(next, n)
			}
			if n.star != nil {
				next = s.enter(next, n.star)
			}
			if kid := n.kids[word]; kid != nil {
				next = s.enter(next, kid)
			}
		}
		set, next = next, set
	}
	for _, n := range set {
		s.take(n.dests)
	}
	s.mark.clear()
	clear(set)
	s.set, s.next = set[:0], next[:0]
}

// enter adds n to set, and what # lets n reach for nothing.
func (s *search) enter(set []*node, n *node) []*node {
	for ; n != nil && s.mark.first(n.id); n = n.hash {
		set = append(set, n)
	}
	return set
}

// marks remembers which small numbers were seen since the last clear; clearing
// costs nothing.
type marks struct {
	seen []uint32
	gen  uint32
}

func (m *marks) grow(n int) {
	if n > len(m.seen) {
		m.seen = slices.Grow(m.seen[:0], n)[:n]
		clear(m.seen)
		m.gen = 0
	}
	m.clear()
}

func (m *marks) clear() {
	if m.gen++; m.gen == 0 {
		clear(m.seen)
		m.gen = 1
	}
}

func (m *marks) first(id uint32) bool {
	if m.seen[id] == m.gen {
		return false
	}
	m.seen[id] = m.gen
	return true
}

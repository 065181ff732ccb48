package redis

import (
	"testing"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// BenchmarkStore pushes, claims and settles batches of 100 messages of half a
// kilobyte; the time is that of one message.
func BenchmarkStore(b *testing.B) {
	t := newTester(b)
	s, _ := t.open()
	items := make([]virtual.Item, 100)
	claims := make([]virtual.Claim, 100)
	settle := make([]virtual.Settlement, 100)
	for i := range items {
		items[i] = virtual.Item{Queue: "q", Raw: []byte(envelope(string(make([]byte, 40)), 0))}
	}
	want := virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 100}}}
	for done := 0; b.Loop(); done++ {
		if done%100 != 0 { // b.Loop counts messages
			continue
		}
		if err := s.Push(b.Context(), items); err != nil {
			b.Fatal(err)
		}
		n, err := s.Claim(b.Context(), want, claims)
		if n != 100 || err != nil {
			b.Fatal(n, err)
		}
		for i := range settle {
			settle[i].Settlement = driver.Settlement{Tag: claims[i].Tag}
		}
		if err := s.Settle(b.Context(), settle); err != nil {
			b.Fatal(err)
		}
	}
}

package redis

import (
	"testing"
	"time"
)

// A search that comes too soon after another is put off, not forgotten.
func TestASearchIsOwed(t *testing.T) {
	h, now := search{once: true}, time.Now()
	if !h.due(tickReport{stray: 1}, false, false, now) {
		t.Fatal("no search when the set of owners was lost")
	}
	if h.due(tickReport{}, false, true, now.Add(time.Second)) {
		t.Fatal("a search at each death")
	}
	if !h.due(tickReport{}, false, false, now.Add(searchPause)) {
		t.Fatal("a death whose search was put off is forgotten")
	}
	if h.due(tickReport{}, false, false, now.Add(2*searchPause)) {
		t.Fatal("a search without a reason")
	}
}

package redis

import "testing"

// What is believed of lists ends with any news of them, and with any answer that
// there is something.
func TestABeliefEnds(t *testing.T) {
	var k tracker
	k.init()
	k.on.Store(true)
	lists := []*ownList{{source: "a"}, {source: "b"}}
	for _, l := range lists {
		k.know(l)
	}
	believed := func() bool { return len(k.open([][]*ownList{lists})) == 0 }
	k.asking(lists)
	k.answered(lists, true)
	if !believed() {
		t.Fatal("not believed")
	}
	k.asking(lists) // one asks, and another, of whom the first answer is late
	k.asking(lists)
	k.answered(lists, false)
	k.answered(lists, true)
	if believed() {
		t.Fatal("an older answer is believed")
	}
	k.asking(lists)
	k.changed(nil)
	k.answered(lists, true)
	if believed() {
		t.Fatal("an answer from before the news is believed")
	}
}

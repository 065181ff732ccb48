package virtual_test

import (
	"fmt"
	"testing"

	"github.com/gombu/gombu/driver"
)

// What a pause leaves in the backlog, broadcasts and messages without acks, is
// received in its old order afterwards.
func TestPauseKeepsTheOrderOfWhatStays(t *testing.T) {
	f := newFake(true)
	p := newPeer(t, f)
	p.declare(driver.Queue{Name: "q"})
	for i := range 4 {
		if err := p.publish("", "q", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := p.conn.OpenReceiver(p.ctx, driver.ReceiverConfig{Queue: "q", Prefetch: 5, NoAck: true})
	if err != nil {
		t.Fatal(err)
	}
	first := p.receive(r, 1) // the others came with it
	for _, n := range []int{0, 5} {
		if err := r.SetPrefetch(p.ctx, n); err != nil {
			t.Fatal(err)
		}
	}
	for i, in := range append(first, p.receive(r, 3)...) {
		if got := string(in.Body); got != fmt.Sprint(i) {
			t.Errorf("%q in place of %d", got, i)
		}
	}
}

package virtual_test

import (
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/gombu/gombu/driver"
)

// A store that refuses for a while, for want of memory say, when a receiver
// gives back what it holds has it later: the session lives, and nobody else
// could.
func TestWhatTheStoreDidNotTakeBackIsOfferedAgain(t *testing.T) {
	f := newFake(true)
	var refusals atomic.Int32
	f.settling = func() error {
		if refusals.Add(-1) >= 0 {
			return &driver.Error{Op: "settle", Transport: "fake", Kind: driver.ErrRefused}
		}
		return nil
	}
	p := newPeer(t, f)
	p.declare(driver.Queue{Name: "q"})
	for i := range 3 {
		if err := p.publish("", "q", fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
	}
	r := p.consume("q", 3)
	p.receive(r, 1)
	refusals.Store(2)
	if err := r.Close(p.ctx); err != nil {
		t.Fatal(err)
	}
	p.receive(p.consume("q", 3), 3)
}

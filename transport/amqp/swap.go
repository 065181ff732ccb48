package amqp

import (
	"context"
	"slices"
	"time"
)

// A quorum queue takes back, and counts as delivered, what is on its way to a
// consumer that is cancelled, and keeps no order between two. So its consumer is
// replaced only at a moment when it has all that it may have: then nothing is on
// its way. Before that a larger prefetch would change nothing, and a smaller one
// is kept by handing out less.

// How long swap withholds settlements to bring that moment about.
const (
	swapLook  = 5 * time.Millisecond
	swapQuiet = 4  // looks without an arrival: nothing more comes
	swapLooks = 40 // in all
)

// swap puts a consumer with the prefetch wanted in the place of the one that
// runs. When there is no moment for it, arrive finds one later. Its caller has
// the token of r.change.
func (r *receiver) swap() error {
	// Not a caller's context: the wait for the turn is over at the latest when
	// the link is.
	done, err := r.beginSettle(context.Background(), 0)
	if err != nil {
		return err
	}
	defer done()
	r.mu.Lock()
	old, n := r.consumer, r.limit
	r.mu.Unlock()
	if old == nil || n == 0 || old.prefetch == n || !r.fills(old) {
		return nil
	}
	if err := r.stop(old); err != nil {
		return err
	}
	return r.start(n)
}

// swapLater is swap on a goroutine of its own.
func (r *receiver) swapLater() {
	select {
	case r.change <- struct{}{}:
	case <-r.ch.over:
		return
	}
	defer func() { <-r.change }()
	r.mu.Lock()
	r.swapping = false
	r.mu.Unlock()
	_ = r.swap() // what fails here ends the channel, and with it the receiver
}

// fills waits, while nothing is settled, until c has all that it may have;
// false: no more comes for now.
func (r *receiver) fills(c *consumer) bool {
	tick := time.NewTicker(swapLook)
	defer tick.Stop()
	var before uint64
	for looks, quiet := 0, 0; looks < swapLooks && quiet < swapQuiet; looks++ {
		r.mu.Lock()
		full, latest := r.full(c), r.latest
		r.mu.Unlock()
		if full {
			return true
		}
		if quiet++; latest != before {
			before, quiet = latest, 0
		}
		select {
		case <-tick.C:
		case <-r.ch.over:
			return false
		}
	}
	return false
}

// full says whether as many deliveries of c, the newest consumer, are unsettled
// as its prefetch allows; r.mu is held.
func (r *receiver) full(c *consumer) bool {
	n := len(r.ready)
	for n > 0 && r.ready[len(r.ready)-n].Tag.ID < c.first {
		n--
	}
	at, _ := slices.BinarySearch(r.open, c.first)
	return n+len(r.open)-at >= c.prefetch
}

func (r *receiver) isCounted() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counted
}

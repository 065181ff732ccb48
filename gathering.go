package gombu

import (
	"sync"
	"sync/atomic"
	"time"
)

// settleEvery is how long a settlement may wait for others when its run has just
// settled one. Nobody waits for it meanwhile: the broker sends on until the prefetch
// is used up, of which these are a small part.
const settleEvery = time.Millisecond

// A gathering is the receptions of a run whose lines wait to be settled. All are
// seen to at once: on a broker that is written to, the acks of many queues leave in
// one piece.
type gathering struct {
	began time.Time    // fixed
	last  atomic.Int64 // when something was settled, since began; 0: never

	mu    sync.Mutex
	due   []*reception
	timer *time.Timer // nil: never needed
	over  bool        // all was flushed: no timer may be left
}

// first says whether nothing was settled for a while.
func (g *gathering) first() bool {
	last := g.last.Load()
	return last == 0 || int64(time.Since(g.began))-last >= int64(settleEvery)
}

func (g *gathering) settled() { g.last.Store(max(1, int64(time.Since(g.began)))) }

// add has rec kicked within settleEvery.
func (g *gathering) add(rec *reception) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.due = append(g.due, rec); g.over || len(g.due) > 1 {
		return
	}
	wait := max(0, time.Duration(g.last.Load()-int64(time.Since(g.began)))+settleEvery)
	if g.timer == nil {
		g.timer = time.AfterFunc(wait, g.kick)
	} else {
		g.timer.Reset(wait)
	}
}

// kick sees to all that are due.
func (g *gathering) kick() {
	g.mu.Lock()
	due := g.due
	g.due = nil
	g.mu.Unlock()
	for _, rec := range due {
		rec.kick()
	}
}

// stop leaves no timer behind; every line has been flushed.
func (g *gathering) stop() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	if g.timer != nil {
		g.timer.Stop()
	}
}

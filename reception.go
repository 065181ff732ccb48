package gombu

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/driver"
)

// A reception is one subscription of a source in one session. What was received
// through it is settled through it, or lost with it.
type reception struct {
	src      *source
	sess     *session
	rx       driver.Receiver
	try      driver.TrySettler // rx; nil: it has to wait
	features driver.QueueFeatures
	counts   counting
	over     atomic.Bool     // nothing of it is to be started any more
	ctx      context.Context // of its handlers
	end      context.CancelCauseFunc
	unhook   func() bool
	pull     *puller      // nil: its source receives
	open     atomic.Int64 // received and not settled, and handlers that run
	awaited  atomic.Bool  // somebody wants to know when open is zero

	extracted bool // its waiting deliveries were taken out; guarded by jobs.mu
	released  bool // its held deliveries were taken out; guarded by held.mu

	mu      sync.Mutex
	idle    chan struct{} // closed when open falls to zero; nil: nobody waits
	line    []settling
	enough  int           // that many in the line are not kept waiting; fixed
	running bool          // somebody settles the line
	due     bool          // the run's gathering will see to the line
	flush   chan struct{} // closed when nobody settles any more; nil: nobody waits
	moves   []*Delivery   // on their way to the retry queue
	moving  bool          // the mover runs
}

// A settling is a delivery on its way to be settled.
type settling struct {
	d    *Delivery
	done chan error // nil: nobody waits
}

func (rec *reception) lost(cause error) {
	rec.over.Store(true)
	rec.end(cause)
}

// abandon is the end of a subscription that the broker or the network ended.
func (rec *reception) abandon(err error) {
	r := rec.src.run
	rec.over.Store(true)
	if !r.cfg.FinishLost {
		rec.unhook()
		rec.lost(&Error{Op: "consume", Entity: rec.src.queue, Kind: ErrLeaseLost, Err: err})
	}
	r.jobs.extract(rec)
	r.held.extract(rec)
	r.twins.extract(rec)
	ctx, cancel := context.WithTimeout(r.life, time.Second)
	defer cancel()
	rec.flushed(ctx)
	if err := rec.rx.Close(ctx); err != nil {
		r.c.log.Debug("gombu: closing a lost subscription", "queue", rec.src.queue, "err", err)
	}
}

func (rec *reception) took(n int) {
	if !rec.src.run.cfg.NoAck {
		rec.open.Add(int64(n))
	}
}

// begin counts a handler: it may run on after it has settled its delivery, and
// without acks there is nothing to settle. It ends with gave(1).
func (rec *reception) begin() { rec.open.Add(1) }

func (rec *reception) gave(n int) {
	if rec.open.Add(int64(-n)) > 0 || !rec.awaited.Load() {
		return
	}
	rec.mu.Lock()
	rec.isIdle()
	rec.mu.Unlock()
}

// isIdle tells who waits if nothing is open; the caller holds mu.
func (rec *reception) isIdle() {
	if rec.idle != nil && rec.open.Load() == 0 {
		close(rec.idle)
		rec.idle = nil
	}
}

// wait returns when all is settled and no handler runs, or with ctx.
func (rec *reception) wait(ctx context.Context) {
	rec.mu.Lock()
	rec.awaited.Store(true) // before open is looked at, as gave does it after
	if rec.idle == nil {
		rec.idle = make(chan struct{})
	}
	idle := rec.idle
	rec.isIdle()
	rec.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	case <-rec.ctx.Done():
		if rec.over.Load() {
			return // lost: nothing can be settled any more
		}
		select { // the grace is over: what handlers settle now still counts
		case <-idle:
		case <-ctx.Done():
		}
	}
}

// settle settles d.one now and waits for the outcome.
func (rec *reception) settle(ctx context.Context, d *Delivery) error {
	if rec.over.Load() {
		rec.gave(1)
		return rec.leaseLost()
	}
	if rec.src.run.c.feature.Inline {
		return rec.settleInline(ctx, d)
	}
	done := make(chan error, 1)
	rec.enqueue(settling{d, done})
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ended(ctx, "settle", d.Queue, ErrUncertain)
	}
}

func (rec *reception) settleInline(ctx context.Context, d *Delivery) error {
	err := rec.rx.Settle(ctx, d.one[:])
	if err == nil {
		err = d.one[0].Err
	}
	rec.gave(1)
	return err
}

func (rec *reception) leaseLost() error {
	return &Error{Op: "settle", Transport: rec.src.run.c.scheme(), Entity: rec.src.queue, Kind: ErrLeaseLost,
		Err: errors.New("the session that delivered it is over")}
}

// settleLater settles d.one without waiting; a failure is logged.
func (rec *reception) settleLater(d *Delivery) {
	switch {
	case rec.over.Load():
		rec.gave(1)
		rec.complain(d, rec.leaseLost())
	case rec.src.run.c.feature.Inline:
		if err := rec.settleInline(rec.src.run.life, d); err != nil {
			rec.complain(d, err)
		}
	default:
		rec.enqueue(settling{d, nil})
	}
}

func (rec *reception) complain(d *Delivery, err error) {
	rec.src.run.c.log.Warn("gombu: could not settle; the broker delivers it again", "queue", d.Queue, "err", err)
}

// enqueue has it settled at once when the run has settled nothing for a while, or
// somebody waits for it, or enough has come together; else with what follows.
func (rec *reception) enqueue(it settling) {
	g := &rec.src.run.gathering
	rec.mu.Lock()
	rec.line = append(rec.line, it)
	switch {
	case rec.running: // who settles comes to it
		rec.mu.Unlock()
	case it.done != nil || len(rec.line) >= rec.enough || rec.over.Load() || g.first(): // what is over was flushed: nothing may stay
		rec.settleLine()
	case rec.due:
		rec.mu.Unlock()
	default:
		rec.due = true
		rec.mu.Unlock()
		g.add(rec)
	}
}

// kick has what waits in the line settled now.
func (rec *reception) kick() {
	rec.mu.Lock()
	rec.due = false
	if rec.running || len(rec.line) == 0 {
		rec.mu.Unlock()
		return
	}
	rec.settleLine()
}

// settleLine settles the line, on this goroutine if that need not wait, else on
// the settler's. The caller holds mu, which it gives up, and nobody settles.
func (rec *reception) settleLine() {
	rec.running = true
	if rec.try == nil {
		rec.mu.Unlock()
		rec.src.run.aux.Go(rec.settler)
		return
	}
	b := settleBuffers.Get().(*settleBuffer)
	line := rec.line
	rec.line = b.spare[:0]
	rec.mu.Unlock()
	b.load(line)
	again := line
	if rec.try.TrySettle(b.batch) {
		again = rec.settled(line, b.batch, nil)
	}
	rec.mu.Lock()
	if len(again) > 0 {
		rec.line = append(slices.Clone(again), rec.line...)
	}
	b.keep(line)
	settleBuffers.Put(b)
	if len(rec.line) == 0 {
		rec.ended()
		rec.mu.Unlock()
		return
	}
	rec.mu.Unlock()
	rec.src.run.aux.Go(rec.settler)
}

// ended is the end of whoever settled the line; the caller holds mu.
func (rec *reception) ended() {
	rec.running = false
	rec.src.run.gathering.settled()
	if rec.flush != nil {
		close(rec.flush)
		rec.flush = nil
	}
}

// A settleBuffer is what a line is settled with. Many consumers share few of them.
type settleBuffer struct {
	batch []driver.Settlement
	spare []settling // the next line
}

var settleBuffers = sync.Pool{New: func() any { return new(settleBuffer) }}

// load makes the batch of a line.
func (b *settleBuffer) load(line []settling) {
	b.batch = b.batch[:0]
	for _, it := range line {
		b.batch = append(b.batch, it.d.one[0])
	}
}

// keep clears up after a line, whose memory the next one is to have.
func (b *settleBuffer) keep(line []settling) {
	clear(line)
	clear(b.batch)
	b.spare = nil
	if cap(line) <= maxBatch {
		b.spare = line[:0]
	}
}

// settler settles the line in batches until it is empty. What fails while the
// session stands is settled again: else the broker keeps it, and its place in
// the prefetch, until the session ends.
func (rec *reception) settler() {
	b := settleBuffers.Get().(*settleBuffer)
	defer settleBuffers.Put(b)
	for tries := 0; ; {
		rec.mu.Lock()
		line := rec.line
		if len(line) == 0 {
			rec.ended()
			rec.mu.Unlock()
			return
		}
		rec.line = b.spare[:0]
		rec.mu.Unlock()
		b.load(line)
		err := rec.rx.Settle(rec.src.run.life, b.batch)
		again := rec.settled(line, b.batch, err)
		b.keep(line)
		if tries++; len(again) == 0 {
			tries = 0
			continue
		}
		rec.mu.Lock()
		rec.line = append(again, rec.line...)
		rec.mu.Unlock()
		_ = pause(rec.src.run.life, (&RetryPolicy{}).wait(tries))
	}
}

// settled reports the outcomes of a line and returns what is to be tried again.
func (rec *reception) settled(line []settling, batch []driver.Settlement, err error) (again []settling) {
	for i, it := range line {
		if e := errors.Join(err, batch[i].Err); rec.repeats(e) {
			again = append(again, it)
		} else {
			rec.report(it, e)
		}
	}
	rec.gave(len(line) - len(again))
	return again
}

// repeats says whether a settle that failed so is to be tried again.
func (rec *reception) repeats(err error) bool {
	return (errors.Is(err, ErrUncertain) || errors.Is(err, ErrUnavailable)) && !errors.Is(err, ErrLeaseLost) &&
		!rec.over.Load() && !rec.sess.over() && rec.src.run.life.Err() == nil
}

func (rec *reception) report(it settling, err error) {
	switch {
	case it.done != nil:
		it.done <- err
	case err != nil:
		rec.complain(it.d, err)
	}
}

// settleAll settles many in one call, in order.
func (rec *reception) settleAll(ds []*Delivery, o driver.Outcome) {
	if rec.src.run.cfg.NoAck || len(ds) == 0 {
		return
	}
	batch := make([]driver.Settlement, 0, len(ds))
	for _, d := range ds {
		if d.claim(stRequeued) {
			batch = append(batch, driver.Settlement{Tag: d.tag, Outcome: d.given(o)})
		}
	}
	err := rec.rx.Settle(rec.src.run.life, batch)
	for i := range batch {
		if e := errors.Join(err, batch[i].Err); e != nil {
			rec.src.run.c.log.Warn("gombu: could not give back; the broker does when the session ends", "queue", rec.src.queue, "err", e)
		}
	}
	rec.gave(len(batch))
}

// given is o, unless d had an attempt here already, which waits for the next one
// under the same claim: the store must hear of that.
func (d *Delivery) given(o driver.Outcome) driver.Outcome {
	if d.ended {
		return driver.Requeue
	}
	return o
}

// flushed returns when the settler has nothing left to do, or with ctx.
func (rec *reception) flushed(ctx context.Context) {
	rec.kick()
	rec.mu.Lock()
	if !rec.running {
		rec.mu.Unlock()
		return
	}
	if rec.flush == nil {
		rec.flush = make(chan struct{})
	}
	flush := rec.flush
	rec.mu.Unlock()
	select {
	case <-flush:
	case <-ctx.Done():
	}
}

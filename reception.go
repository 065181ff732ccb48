package gombu

import (
	"context"
	"errors"
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
	running bool          // the settler runs
	due     bool          // timer will start it
	timer   *time.Timer   // nil: never needed
	settled time.Time     // when the settler last ended
	flush   chan struct{} // closed when the settler ends; nil: it never ran
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

// settleEvery is how long a settlement may wait for others when one has just
// been written. Nobody waits for it meanwhile: the broker sends on until the
// prefetch is used up, of which these are a small part.
const settleEvery = time.Millisecond

// enqueue has it settled at once when it is the first for a while or somebody
// waits for it, else together with what follows.
func (rec *reception) enqueue(it settling) {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.line = append(rec.line, it)
	if rec.running {
		return
	}
	wait := time.Duration(0)
	if it.done == nil && len(rec.line) < rec.enough && !rec.over.Load() { // what is over was flushed: no timer may be left
		wait = settleEvery - time.Since(rec.settled)
	}
	switch {
	case wait <= 0:
		rec.settleLine()
	case rec.due:
	case rec.timer == nil:
		rec.due, rec.timer = true, time.AfterFunc(wait, rec.kick)
	default:
		rec.due = true
		rec.timer.Reset(wait)
	}
}

// kick has what waits in the line settled now.
func (rec *reception) kick() {
	rec.mu.Lock()
	defer rec.mu.Unlock()
	rec.due = false
	if !rec.running && len(rec.line) > 0 {
		rec.settleLine()
	}
}

// settleLine starts the settler; the caller holds mu.
func (rec *reception) settleLine() {
	rec.running, rec.flush = true, make(chan struct{})
	rec.src.run.aux.Go(rec.settler)
}

// settler settles the line in batches until it is empty. What fails while the
// session stands is settled again: else the broker keeps it, and its place in
// the prefetch, until the session ends.
func (rec *reception) settler() {
	var spare []settling
	var batch []driver.Settlement
	for tries := 0; ; {
		rec.mu.Lock()
		line := rec.line
		if len(line) == 0 {
			rec.running, rec.settled = false, time.Now()
			close(rec.flush)
			rec.mu.Unlock()
			return
		}
		rec.line = spare[:0]
		rec.mu.Unlock()
		batch = batch[:0]
		for _, it := range line {
			batch = append(batch, it.d.one[0])
		}
		err := rec.rx.Settle(rec.src.run.life, batch)
		var again []settling
		for i, it := range line {
			if e := errors.Join(err, batch[i].Err); rec.repeats(e) {
				again = append(again, it)
			} else {
				rec.report(it, e)
			}
		}
		rec.gave(len(line) - len(again))
		clear(line)
		spare = line
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
	flush, running := rec.flush, rec.running
	rec.mu.Unlock()
	if !running {
		return
	}
	select {
	case <-flush:
	case <-ctx.Done():
	}
}

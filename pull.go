package gombu

import (
	"sync"
	"sync/atomic"

	"github.com/gombu/gombu/driver"
)

// Where receiving needs no waiting, no goroutine stands between the broker and the
// workers: a reception for which there may be something takes a place in jobs,
// and the worker that comes to it asks the broker by itself.

// A puller is that of a reception.
type puller struct {
	rec   *reception
	rx    driver.TryReceiver
	state atomic.Int32
	ended chan error // cap 1: why the receiver is over
}

// The states of a puller.
const (
	pullIdle  int32 = iota // it will be told
	pullLined              // it stands in jobs
	pullRuns               // somebody pulls
	pullAgain              // the same, and it was told meanwhile
)

// newPuller returns nil when receiving has to wait.
func newPuller(rec *reception) *puller {
	rx, ok := rec.rx.(driver.TryReceiver)
	if !ok {
		return nil
	}
	return &puller{rec: rec, rx: rx, ended: make(chan error, 1)}
}

// told takes it that another try is worth it, or that err ended the receiver.
func (p *puller) told(err error) {
	if err != nil {
		select {
		case p.ended <- err:
		default:
		}
		return
	}
	for {
		switch s := p.state.Load(); {
		case s == pullIdle && p.state.CompareAndSwap(s, pullLined):
			p.rec.src.run.jobs.push(p.rec, nil, p)
			return
		case s == pullRuns && p.state.CompareAndSwap(s, pullAgain), s == pullLined, s == pullAgain:
			return
		}
	}
}

// stand lets the workers pull until the receiver or its source ends. From Notify on
// they may be there: rec is complete before.
func (s *source) stand(rec *reception) error {
	rec.pull.rx.Notify(rec.pull.told)
	if rec.pull.state.CompareAndSwap(pullIdle, pullRuns) { // else it was told before, and a worker does
		rec.pull.pull(false)
	}
	select {
	case err := <-rec.pull.ended:
		return err
	case <-rec.sess.Done():
		return rec.sess.Err()
	case <-s.ctx.Done():
		return nil
	}
}

// A basket is what deliveries are made with. Many consumers share few of them:
// most are idle.
type basket struct {
	dst   []driver.Incoming
	spare []Delivery // one allocation serves several messages
	ds    []*Delivery
}

var baskets = sync.Pool{New: func() any { return &basket{dst: make([]driver.Incoming, pullFirst)} }}

// pullFirst is how many are pulled at first; more, once there are as many.
const pullFirst = 4

// pull takes what there is: the first for the worker that is here, if one is, the
// rest for jobs, where the place follows if there may be more. nil: there is nothing.
func (p *puller) pull(worker bool) *Delivery {
	rec := p.rec
	b := baskets.Get().(*basket)
	rec.begin() // who waits for the end of the reception waits for this
	p.state.Store(pullRuns)
	n, err := p.rx.TryReceive(b.dst)
	if err != nil {
		p.told(err)
	}
	ds := b.fill(b.dst[:n], rec)
	rec.took(n)
	var first *Delivery
	if worker && len(ds) > 0 {
		first, ds = ds[0], ds[1:]
	}
	more := n == len(b.dst) || !p.state.CompareAndSwap(pullRuns, pullIdle)
	p.push(ds, more)
	clear(b.ds)
	rec.gave(1)
	if n == len(b.dst) && n < maxBatch {
		b.dst = make([]driver.Incoming, 2*n)
	}
	baskets.Put(b)
	return first
}

func (p *puller) push(ds []*Delivery, more bool) {
	var place *puller
	if more {
		p.state.Store(pullLined)
		place = p
	} else if len(ds) == 0 {
		return
	}
	if !p.rec.src.run.jobs.push(p.rec, ds, place) {
		p.rec.settleAll(ds, driver.Release)
	}
}

// fill makes deliveries of dst, which it clears; without those that wait for
// another run.
func (b *basket) fill(dst []driver.Incoming, rec *reception) []*Delivery {
	n := len(dst)
	if len(b.spare) < n {
		b.spare = make([]Delivery, max(n, slabSize))
	}
	slab := b.spare[:n:n]
	b.spare = b.spare[n:]
	b.ds = b.ds[:0]
	for i := range slab {
		slab[i].fill(&dst[i], rec)
		dst[i] = driver.Incoming{}
		if !rec.src.run.twins.hold(&slab[i]) {
			b.ds = append(b.ds, &slab[i])
		}
	}
	return b.ds
}

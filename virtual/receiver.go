package virtual

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/wire/kombu"
)

const (
	// maxClaim is how many bytes one Claim may hold a server with.
	maxClaim = 1 << 20
	// claimWait is how long an idle Claim may block over a socket; it is
	// interrupted sooner when what is wanted changes.
	claimWait = 10 * time.Second
)

// receiver takes from one queue. Its credit counts what was received and is
// not settled, and what waits in its backlog.
//
// Over an inline store whoever receives claims, with nobody between (inline.go).
// Otherwise a claimer (claimer.go) and the pumps of fan-outs (subscribe.go) fill
// the backlog, and Receive decodes from there.
type receiver struct {
	c       *conn
	queue   string
	cfg     driver.ReceiverConfig
	claimer *claimer // nil over an inline store
	watch   Watch    // nil over any other

	mu       sync.Mutex
	prefetch int
	slots    slots
	backlog  backlog
	busy     bool          // a Claim for this receiver is running
	idle     chan struct{} // closed when busy ends; made by who waits for it
	starved  bool          // tryReceive found no room, or took what there was
	over     error
	closed   bool
	scratch  *settling
	pumps    []*pump

	ready atomic.Pointer[func(error)] // see driver.TryReceiver; nil: it is wake that is signalled

	wake        chan struct{} // capacity 1: Receive has reason to look again
	subscribing chan struct{} // capacity 1: held by who changes pumps

	claims []Claim // Receive's alone
}

func (c *conn) OpenReceiver(ctx context.Context, cfg driver.ReceiverConfig) (driver.Receiver, error) {
	if err := c.gone("consume"); err != nil {
		return nil, err
	}
	if cfg.Prefetch <= 0 {
		return nil, c.fail("consume", cfg.Queue, driver.ErrInvalid, "prefetch %d: want 1 or more", cfg.Prefetch)
	}
	c.sweep(ctx)
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	cfg.Args = nil // nothing here reads them, and they are the caller's
	if cfg.Tag == "" {
		cfg.Tag = "ctag." + c.NewID()
	}
	r := &receiver{
		c: c, queue: cfg.Queue, cfg: cfg, prefetch: cfg.Prefetch,
		wake: make(chan struct{}, 1), subscribing: make(chan struct{}, 1),
	}
	if c.info.Inline {
		r.watch = c.watch.Watch(cfg.Queue, func() { r.rouse(nil) })
	} else {
		r.claimer = c.claimerOf(&cfg)
	}
	if err := c.attach(r); err != nil {
		return nil, err
	}
	c.opened.Lock()
	c.receivers[r] = struct{}{}
	c.opened.Unlock()
	err := r.subscribe(ctx)
	if err == nil {
		err = c.gone("consume") // Close may not have seen this receiver
	}
	if err == nil {
		err = r.join()
	}
	if err != nil {
		_ = r.Close(ctx) // err is the news
		return nil, err
	}
	return r.withOptions(), nil
}

func (r *receiver) Features() driver.QueueFeatures { return r.c.info.Queue }

// room is how many deliveries the credit still allows; mu is held. Without
// acks nothing is ever unsettled.
func (r *receiver) room() int {
	switch {
	case r.prefetch == 0 || r.over != nil:
		return 0
	case r.cfg.NoAck:
		return max(0, r.prefetch-r.backlog.len())
	}
	return max(0, r.prefetch-r.slots.n-r.backlog.len())
}

func (r *receiver) Receive(ctx context.Context, dst []driver.Incoming) (int, error) {
	if r.watch != nil {
		return r.receiveInline(ctx, dst)
	}
	for {
		if ctx.Err() != nil {
			return 0, context.Cause(ctx)
		}
		claims := r.claims[:0]
		r.mu.Lock()
		if r.over != nil {
			r.mu.Unlock()
			return 0, r.over
		}
		for len(claims) < len(dst) && r.backlog.len() > 0 && r.prefetch > 0 {
			a := r.backlog.pop()
			in := &dst[len(claims)]
			*in = driver.Incoming{}
			r.deliver(&a.Claim, in, a.fan)
			claims = append(claims, a.Claim)
		}
		more := r.cfg.NoAck && len(claims) > 0 && !r.busy
		r.mu.Unlock()
		r.claims = claims
		if more {
			r.roomChanged()
		}
		if n := len(claims); n > 0 {
			r.decode(claims, dst)
			clear(claims)
			return n, nil
		}
		select {
		case <-r.wake:
		case <-ctx.Done():
		}
	}
}

// rest ends busy; mu is held.
func (r *receiver) rest() {
	r.busy = false
	if r.idle != nil {
		close(r.idle)
		r.idle = nil
	}
}

// deliver counts a claim as received; mu is held.
func (r *receiver) deliver(cl *Claim, in *driver.Incoming, fan bool) {
	if cl.Msg != nil && cl.Msg != in {
		*in = *cl.Msg
	}
	in.Tag = driver.Tag{}
	if !r.cfg.NoAck {
		var raw []byte
		if fan {
			raw = cl.Raw
		}
		in.Tag = r.slots.put(cl.Tag, fan, raw)
	}
	in.Queue, in.ConsumerTag = r.queue, r.cfg.Tag
	in.Redelivered, in.Attempt = cl.Redelivered, cl.Attempt
}

// decode reads stored envelopes. A count in the store wins over the
// envelope's; without any, a message that was never delivered has its first
// start before it, and one that was has had one where starts are counted.
func (r *receiver) decode(claims []Claim, dst []driver.Incoming) {
	if !r.c.info.Bytes {
		return
	}
	for i := range claims {
		cl, in := &claims[i], &dst[i]
		if err := kombu.Decode(cl.Raw, in); err != nil {
			*in = driver.Incoming{Tag: in.Tag, Queue: in.Queue, Raw: append([]byte(nil), cl.Raw...), DecodeErr: err}
			continue
		}
		switch {
		case cl.Attempt > 0:
			in.Attempt = cl.Attempt
		case in.Attempt > 0:
		case !in.Redelivered:
			in.Attempt = 1
		case r.c.info.Queue.Counts == driver.CountStarts:
			in.Attempt = 2
		}
	}
}

// roomChanged tells those who fill this receiver that there is room, or that
// there is none any more.
func (r *receiver) roomChanged() {
	signal(r.wake)
	if r.claimer != nil {
		r.claimer.kick()
	}
	r.mu.Lock()
	pumps := r.pumps
	again := r.starved && r.room() > 0
	if again {
		r.starved = false
	}
	r.mu.Unlock()
	for _, p := range pumps {
		signal(p.wake)
	}
	if again {
		r.rouse(nil)
	}
}

// end makes Receive return err from now on. What is unsettled stays so.
func (r *receiver) end(err error) {
	r.mu.Lock()
	if r.over == nil {
		r.over = err
	}
	r.mu.Unlock()
	r.roomChanged()
	r.rouse(err)
}

// vanish ends a receiver whose queue the store no longer has.
func (r *receiver) vanish(err error) {
	r.end(err)
	r.c.env.Notify(driver.Event{Kind: driver.Gone, Entity: r.queue, Detail: "the queue is gone"})
}

// awaitIdle cuts a Claim that waits short and returns when none is running for
// this receiver.
func (r *receiver) awaitIdle(ctx context.Context) error {
	r.mu.Lock()
	if !r.busy {
		r.mu.Unlock()
		return nil
	}
	if r.idle == nil {
		r.idle = make(chan struct{})
	}
	idle := r.idle
	r.mu.Unlock()
	if r.claimer != nil {
		r.claimer.kick()
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// SetPrefetch with zero waits out a running Claim and gives the backlog back,
// later claims before earlier ones, so that the store has them in order again.
func (r *receiver) SetPrefetch(ctx context.Context, n int) error {
	if n < 0 {
		return r.c.fail("prefetch", r.queue, driver.ErrInvalid, "%d: want 0 or more", n)
	}
	r.mu.Lock()
	if r.over != nil {
		r.mu.Unlock()
		return r.over
	}
	r.prefetch = n
	r.mu.Unlock()
	r.roomChanged()
	if n > 0 {
		return nil
	}
	if err := r.awaitIdle(ctx); err != nil {
		return err
	}
	if r.watch != nil {
		r.mu.Lock()
		r.starved = true // the next room is told of
		r.mu.Unlock()
		r.watch.Leave()
		return nil
	}
	r.mu.Lock()
	back := r.backlog.giveBack(r.cfg.NoAck)
	r.mu.Unlock()
	return r.c.giveBack(ctx, back)
}

// Close gives back what was delivered as a failed attempt, for it may have
// been started, and the backlog as never started.
func (r *receiver) Close(ctx context.Context) error {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return nil
	}
	r.closed = true
	r.mu.Unlock()
	r.end(r.c.fail("receive", r.queue, driver.ErrClosed, "the receiver was closed"))
	r.leave()
	err := r.unsubscribe(ctx)
	if idleErr := r.awaitIdle(ctx); idleErr != nil {
		err = idleErr
	}
	if r.watch != nil {
		r.watch.Leave()
	}
	r.mu.Lock()
	back := append(r.slots.drain(), r.backlog.giveBack(r.cfg.NoAck)...)
	r.mu.Unlock()
	if backErr := r.c.giveBack(ctx, back); backErr != nil {
		err = backErr
	}
	if detachErr := r.c.detach(ctx, r); detachErr != nil {
		err = detachErr
	}
	r.c.opened.Lock()
	delete(r.c.receivers, r)
	r.c.opened.Unlock()
	if r.c.over() {
		return nil // the session took everything with it
	}
	return err
}

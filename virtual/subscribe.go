package virtual

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/gombu/gombu/driver"
)

// pump carries the broadcasts of one exchange into a receiver's backlog.
type pump struct {
	r        *receiver
	exchange string
	bindings []driver.Binding
	sub      Subscription
	after    *pump // of the same exchange, whose messages come first; nil: none
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	done     chan struct{} // closed at its end
	wake     chan struct{} // capacity 1: the receiver has room
	draining bool          // its subscription is closed; guarded by the receiver's mu
}

// resubscribe makes the receivers of a queue, in all sessions, follow its
// bindings to the fanout exchange x. It returns when the subscriptions stand.
func (c *conn) resubscribe(ctx context.Context, queue string, x *exchange) error {
	if c.caster == nil || x == nil {
		return nil
	}
	c.mu.RLock()
	fanout := x.decl.Type == driver.TypeFanout
	c.mu.RUnlock()
	if !fanout {
		return nil
	}
	var errs []error
	for _, r := range c.receiversOf(queue) {
		errs = append(errs, r.subscribe(ctx))
	}
	return errors.Join(errs...)
}

// subscribe brings the pumps in line with the queue's bindings. A changed
// subscription opens before the old one closes: in between a message may come
// twice, but none is missed. What the old one has buffered still comes, and
// first.
func (r *receiver) subscribe(ctx context.Context) error {
	if r.c.caster == nil {
		return nil
	}
	return r.changePumps(ctx, r.c.fanoutsOf(r.queue))
}

// unsubscribe ends all pumps, whatever is buffered.
func (r *receiver) unsubscribe(ctx context.Context) error {
	if r.c.caster == nil {
		return nil
	}
	if err := r.lockPumps(ctx); err != nil {
		return err
	}
	defer r.unlockPumps()
	var errs []error
	for _, p := range r.pumps {
		p.cancel()
		errs = append(errs, p.sub.Close(ctx))
		p.wg.Wait()
	}
	r.mu.Lock()
	r.pumps = nil
	r.mu.Unlock()
	return errors.Join(errs...)
}

// lockPumps makes the caller the one who changes pumps.
func (r *receiver) lockPumps(ctx context.Context) error {
	select {
	case r.subscribing <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *receiver) unlockPumps() { <-r.subscribing }

// fanoutsOf returns a queue's bindings to fanout exchanges, by exchange.
func (c *conn) fanoutsOf(queue string) map[string][]driver.Binding {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := map[string][]driver.Binding{}
	if q := c.queues[queue]; q != nil {
		for _, b := range q.fanouts() {
			name := b.from.decl.Name
			out[name] = append(out[name], driver.Binding{Exchange: name, Queue: queue, Key: b.key})
		}
	}
	return out
}

func (r *receiver) changePumps(ctx context.Context, want map[string][]driver.Binding) error {
	if err := r.lockPumps(ctx); err != nil {
		return err
	}
	defer r.unlockPumps()
	var (
		keep, stop []*pump
		errs       []error
		last       = map[string]*pump{} // of each exchange
	)
	for _, p := range r.pumps { // written only by the holder of subscribing, and so is draining
		if p.ended() {
			continue
		}
		keep, last[p.exchange] = append(keep, p), p
		switch {
		case p.draining:
		case slices.EqualFunc(want[p.exchange], p.bindings, func(a, b driver.Binding) bool { return a.Key == b.Key }):
			delete(want, p.exchange)
		default:
			stop = append(stop, p)
		}
	}
	for exchange, bindings := range want {
		p, err := r.openPump(ctx, exchange, bindings, last[exchange])
		if err != nil {
			errs = append(errs, err)
			continue
		}
		keep = append(keep, p)
	}
	r.mu.Lock()
	r.pumps = keep
	for _, p := range stop {
		p.draining = true
	}
	r.mu.Unlock()
	for _, p := range stop {
		errs = append(errs, p.sub.Close(ctx))
	}
	return errors.Join(errs...)
}

func (r *receiver) openPump(ctx context.Context, exchange string, bindings []driver.Binding, after *pump) (*pump, error) {
	sub, err := r.c.caster.Subscribe(ctx, r.cfg, bindings)
	if err != nil {
		return nil, err
	}
	p := &pump{r: r, exchange: exchange, bindings: bindings, sub: sub, after: after, done: make(chan struct{}), wake: make(chan struct{}, 1)}
	var run context.Context
	run, p.cancel = context.WithCancel(r.c.ctx)
	p.wg.Go(func() {
		defer close(p.done)
		p.run(run)
	})
	return p, nil
}

func (p *pump) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// run receives a few at a time: what the receiver has no room for waits in the
// subscription's own buffer, which drops its oldest and says so.
func (p *pump) run(ctx context.Context) {
	if p.after != nil {
		select {
		case <-p.after.done:
		case <-ctx.Done():
			return
		}
		p.after = nil
	}
	var claims [16]Claim
	for {
		if !p.r.c.info.Bytes {
			for i := range claims {
				claims[i].Msg = new(driver.Incoming)
			}
		}
		n, err := p.sub.Receive(ctx, claims[:])
		for i := range n {
			if !p.put(ctx, &claims[i]) {
				return
			}
			claims[i] = Claim{}
		}
		if err != nil {
			p.r.mu.Lock()
			draining := p.draining
			p.r.mu.Unlock()
			if ctx.Err() == nil && !draining {
				p.r.end(err)
			}
			return
		}
	}
}

// put waits for room in the receiver.
func (p *pump) put(ctx context.Context, cl *Claim) bool {
	r := p.r
	for {
		r.mu.Lock()
		over, room := r.over != nil, r.room()
		if room > 0 {
			r.backlog.push(arrived{*cl, true})
		}
		r.mu.Unlock()
		switch {
		case over:
			return false
		case room > 0:
			signal(r.wake)
			return true
		}
		select {
		case <-p.wake:
		case <-ctx.Done():
			return false
		}
	}
}

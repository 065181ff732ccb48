package virtual

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
)

// claimer is the one goroutine of a session that claims, for all receivers
// whose claims may share a call. It asks for as much as their credit allows
// together, each time beginning with another receiver.
//
// It exists with its first receiver and stays; its goroutine runs while there
// are any.
type claimer struct {
	c         *conn
	key       claimKey
	receivers []*receiver // guarded by conn.opened, and so is running
	running   bool
	turn      int
	at        map[string]int // where a queue is among the wants
	groups    [][]*receiver  // the takers, by that

	mu     sync.Mutex
	kicked bool // what is wanted changed since wants was read
	cancel context.CancelFunc

	work chan struct{} // capacity 1
}

// mostClaims is how many items one Claim asks for at most, however large the
// prefetch is.
const mostClaims = 1024

// claimKey says which receivers share a claimer.
type claimKey struct {
	queue string // where one Claim serves one queue
	noAck bool
	lease time.Duration
}

// claimerOf returns the claimer of r's kind; nil over an inline store.
func (c *conn) claimerOf(cfg *driver.ReceiverConfig) *claimer {
	if c.info.Inline {
		return nil
	}
	key := claimKey{noAck: cfg.NoAck, lease: cfg.Lease}
	if c.info.ClaimQueues != 0 {
		key.queue = cfg.Queue
	}
	c.opened.Lock()
	defer c.opened.Unlock()
	cl := c.claimers[key]
	if cl == nil {
		cl = &claimer{c: c, key: key, at: map[string]int{}, work: make(chan struct{}, 1)}
		c.claimers[key] = cl
	}
	return cl
}

// join makes r's claimer work for it too.
func (r *receiver) join() error {
	cl := r.claimer
	if cl == nil {
		return nil
	}
	cl.c.opened.Lock()
	if cl.c.closing.Load() {
		cl.c.opened.Unlock()
		return cl.c.gone("consume")
	}
	cl.receivers = append(slices.Clone(cl.receivers), r)
	if !cl.running {
		cl.running = true
		cl.c.wg.Go(cl.run)
	}
	cl.c.opened.Unlock()
	cl.kick()
	return nil
}

func (r *receiver) leave() {
	cl := r.claimer
	if cl == nil {
		return
	}
	cl.c.opened.Lock()
	cl.receivers = slices.DeleteFunc(slices.Clone(cl.receivers), func(o *receiver) bool { return o == r })
	cl.c.opened.Unlock()
	cl.kick()
}

// kick makes the claimer look at the receivers again, at once.
func (cl *claimer) kick() {
	cl.mu.Lock()
	cl.kicked = true
	cancel := cl.cancel
	cl.mu.Unlock()
	if cancel != nil {
		cancel()
	}
	signal(cl.work)
}

// current returns the receivers; none ends the goroutine.
func (cl *claimer) current() []*receiver {
	cl.c.opened.Lock()
	defer cl.c.opened.Unlock()
	cl.running = len(cl.receivers) > 0
	return cl.receivers
}

func (cl *claimer) run() {
	var (
		wants  []Want
		takers []*receiver
		claims []Claim
		pause  time.Duration
	)
	for !cl.c.over() && cl.c.ctx.Err() == nil {
		receivers := cl.current()
		if len(receivers) == 0 {
			return
		}
		wants, takers = cl.wants(receivers, wants[:0], takers[:0])
		if len(wants) == 0 {
			cl.sleep(0)
			continue
		}
		total := 0
		for _, w := range wants {
			total += w.Max
		}
		total = min(total, mostClaims)
		claims = slices.Grow(claims[:0], total)[:total]
		clear(claims)
		n, err := cl.claim(wants, claims)
		cl.distribute(claims[:n], takers)
		if pause = cl.judge(err, takers, pause); pause > 0 {
			cl.sleep(pause)
		}
	}
}

// wants reads how much each receiver has room for and marks those busy.
func (cl *claimer) wants(receivers []*receiver, wants []Want, takers []*receiver) ([]Want, []*receiver) {
	cl.mu.Lock()
	cl.kicked = false
	cl.mu.Unlock()
	cl.turn++
	clear(cl.at)
	for i := range receivers {
		r := receivers[(i+cl.turn)%len(receivers)]
		r.mu.Lock()
		room := r.room()
		r.busy = room > 0
		r.mu.Unlock()
		if room == 0 {
			continue
		}
		takers = append(takers, r)
		at, there := cl.at[r.queue]
		if !there {
			at = len(wants)
			cl.at[r.queue] = at
			wants = append(wants, Want{Queue: r.queue})
			if at == len(cl.groups) {
				cl.groups = append(cl.groups, nil)
			}
			clear(cl.groups[at])
			cl.groups[at] = cl.groups[at][:0]
		}
		wants[at].Max += room
		cl.groups[at] = append(cl.groups[at], r)
	}
	return wants, takers
}

// claim takes what is there at once, which is never cut short; only when there
// is nothing it waits, and then a kick interrupts it.
func (cl *claimer) claim(wants []Want, claims []Claim) (int, error) {
	req := ClaimRequest{Wants: wants, MaxBytes: maxClaim, Lease: cl.key.lease, NoAck: cl.key.noAck, Again: true}
	cl.fill(claims)
	n, err := cl.c.store.Claim(cl.c.ctx, req, claims)
	if n > 0 || err != nil {
		return n, err
	}
	ctx, cancel := context.WithCancel(cl.c.ctx)
	defer cancel()
	cl.mu.Lock()
	if cl.kicked {
		cl.mu.Unlock()
		return 0, nil
	}
	cl.cancel = cancel
	cl.mu.Unlock()
	req.Wait, req.Again = claimWait, false
	n, err = cl.c.store.Claim(ctx, req, claims)
	cl.mu.Lock()
	cl.cancel = nil
	cl.mu.Unlock()
	if ctx.Err() != nil {
		err = nil // interrupted
	}
	return n, err
}

// fill makes room for the messages of a store that returns no bytes.
func (cl *claimer) fill(claims []Claim) {
	if !cl.c.info.Bytes {
		for i := range claims {
			claims[i].Msg = new(driver.Incoming)
		}
	}
}

// distribute hands claims to the receivers of their queues, in turn, and gives
// back what nobody has room for any more (a broadcast or a smaller prefetch
// came first), before anybody who waits for idle receivers goes on.
func (cl *claimer) distribute(claims []Claim, takers []*receiver) {
	var back []Settlement
	turn := 0
	for i := range claims {
		taken := false
		var of []*receiver
		if at, there := cl.at[claims[i].Queue]; there {
			of = cl.groups[at]
		}
		for n := range of {
			r := of[(turn+n)%len(of)]
			if taken = r.offer(&claims[i]); taken {
				turn++
				break
			}
		}
		if !taken {
			back = append(back, release(claims[i].Tag))
		}
	}
	if cl.key.noAck {
		back = nil // settled already; only a receiver that is over refuses those
	}
	if err := cl.c.giveBack(cl.c.ctx, back); err != nil && !cl.c.over() {
		cl.c.env.Log.Warn("claims were not given back", "transport", cl.c.Transport, "claims", len(back), "error", err)
	}
	for _, r := range takers {
		r.mu.Lock()
		r.rest()
		some := r.backlog.len() > 0
		r.mu.Unlock()
		if some {
			signal(r.wake)
		}
	}
}

// offer takes a claim while there is room; without acks any that is offered,
// for nobody would take it back.
func (r *receiver) offer(cl *Claim) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.over != nil || r.room() == 0 && !r.cfg.NoAck {
		return false
	}
	r.backlog.push(arrived{Claim: *cl})
	return true
}

// judge says how long to pause after a failed Claim: a store that stays broken
// ends its session; one that trips is asked again soon.
func (cl *claimer) judge(err error, takers []*receiver, pause time.Duration) time.Duration {
	switch {
	case err == nil || cl.c.over() || cl.c.ctx.Err() != nil:
		return 0
	case isNotFound(err) && !slices.ContainsFunc(takers, func(r *receiver) bool { return r.queue != takers[0].queue }):
		for _, r := range takers {
			r.vanish(err)
		}
		return 0
	case pause == 0:
		cl.c.env.Log.Warn("claiming failed", "transport", cl.c.Transport, "error", err)
		return 50 * time.Millisecond
	}
	return min(2*pause, time.Second)
}

// sleep waits for a kick, or for d when that is set.
func (cl *claimer) sleep(d time.Duration) {
	var timer <-chan time.Time
	work := cl.work
	if d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		timer, work = t.C, nil
	}
	select {
	case <-work:
	case <-timer:
	case <-cl.c.done:
	case <-cl.c.ctx.Done():
	}
}

package gombu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
)

// A Handler handles one delivery. nil acknowledges it; an error, or a panic,
// holds it for a back-off (1 s, doubling to 1 min) and gives it another attempt,
// up to ConsumerConfig.MaxAttempts, unless the error is made by Reject, Drop or
// Retry. What the handler settled itself stays
// as it is, and its error is only logged. ctx ends when the consumer's grace is
// over (ErrClosed) or the claim is lost (ErrLeaseLost).
type Handler func(ctx context.Context, d *Delivery) error

// ConsumerConfig configures a Consumer. The zero value of every field but
// Queues is a good default.
type ConsumerConfig struct {
	// Queues to consume, by handle.
	Queues []string
	// Declare is declared first. nil: nothing.
	Declare *Topology
	// Prefetch is how many unsettled deliveries of each queue may be here. 0: 32.
	Prefetch int
	// Workers is how many handlers run at once, over all queues. 0: 1, in order.
	Workers int
	// NoAck: the broker forgets each message as it sends it. A crash loses what
	// was on its way.
	NoAck bool
	// Exclusive: no other consumer on these queues, else ErrConflict.
	Exclusive bool
	// Priority of this consumer, where the broker has that.
	Priority int
	// TagPrefix begins the consumer tags. Empty: the transport's own.
	TagPrefix string
	// Args of the subscription, as the broker defines them.
	Args Headers
	// Accept lists serializers, by name or content type. nil: everything; what
	// no codec knows stays bytes. What is not accepted is undecodable; it is
	// never decoded.
	Accept []string
	// OnUndecodable handles, as a Handler does, what is not accepted, not
	// decodable or no message at all; err says which. nil: such messages are
	// dead letters at once, as they are.
	OnUndecodable func(ctx context.Context, d *Delivery, err error) error
	// MaxAttempts is how many times a handler is started for a message; after
	// that it is a dead letter. Starts are counted before them, so one that ends
	// the process counts; a delivery that was never started does not. 0: 5; -1:
	// no limit. Back-offs keep at most half the prefetch: when more fail, those
	// due soonest are tried again at once.
	MaxAttempts int
	// DeadLetter is the queue for dead letters, declared when it is missing.
	// There each keeps its body, properties and message id, and its headers say
	// in x-death why, when, from where and after how many attempts. Messages of
	// a dead-letter queue have no limit. Empty: "gombu.dead." + the queue.
	DeadLetter string
	// Grace is how long running handlers may take when Run stops. 0: Config.Grace.
	Grace time.Duration
	// FinishLost lets a handler whose claim was lost run on; settling then
	// returns ErrLeaseLost. False: its context ends with cause ErrLeaseLost.
	FinishLost bool
}

// A Consumer consumes queues. Its methods may be called from any goroutine;
// Run runs at most once at a time.
type Consumer struct {
	c   *Conn
	cfg ConsumerConfig

	mu      sync.Mutex
	queues  []string        // wanted, in order
	fetch   map[string]int  // prefetch that was set by SetPrefetch
	ready   map[string]bool // subscriptions that stand
	run     *run            // nil: not running
	changed chan struct{}   // closed and replaced when run, or a subscription, changes
	idle    chan struct{}   // of an iterator: has a token while its loop waits; nil: no iterator
}

// Consumer makes a consumer; no network is used before Run. Mistakes in cfg are
// errors of Run.
func (c *Conn) Consumer(cfg ConsumerConfig) *Consumer {
	cfg.Prefetch = cmp.Or(cfg.Prefetch, 32)
	cfg.Workers = max(cfg.Workers, 1)
	cfg.Grace = cmp.Or(cfg.Grace, c.cfg.Grace)
	k := &Consumer{c: c, cfg: cfg, fetch: map[string]int{}, ready: map[string]bool{}, changed: make(chan struct{})}
	for _, q := range cfg.Queues {
		if !slices.Contains(k.queues, q) {
			k.queues = append(k.queues, q)
		}
	}
	return k
}

// Run consumes until ctx ends: it is Consumer(cfg).Run(ctx, h).
func (c *Conn) Run(ctx context.Context, cfg ConsumerConfig, h Handler) error {
	return c.Consumer(cfg).Run(ctx, h)
}

// Run consumes until ctx ends or the Conn is shut down, through any number of
// lost sessions. Then nothing new is taken, what has not begun is given back,
// running handlers have Grace to finish, and their contexts end; it returns nil
// when all of them did, ErrAbandoned when some ignored their context. Before
// that it returns only for mistakes: in cfg (ErrInvalid), a queue that does not
// exist at the start (ErrNotFound), or that another one has exclusively
// (ErrConflict), or a connection that was refused for good.
func (k *Consumer) Run(ctx context.Context, h Handler) error {
	var r *run
	var err error
	apart(func() { r, err = k.start(ctx, h) })
	if r != nil {
		<-r.intake.Done()
		apart(func() { err = r.stop(err) })
	}
	return err
}

// start makes the run that is k's, and the Conn's, and has it begin.
func (k *Consumer) start(ctx context.Context, h Handler) (*run, error) {
	r, err := k.newRun(ctx, h)
	if err != nil {
		return nil, err
	}
	k.mu.Lock()
	busy := k.run != nil
	if !busy {
		k.run = r
	}
	k.mu.Unlock()
	if busy {
		err = &Error{Op: "run", Kind: ErrInvalid, Err: errors.New("this Consumer is running already")}
	} else if err = k.c.register(r); err != nil {
		k.detach()
	}
	if err != nil {
		r.stopIntake(ErrClosed) // it hangs on ctx
		return nil, err
	}
	return r, r.begin()
}

func (k *Consumer) detach() {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.run = nil
	k.announce()
}

// announce wakes Ready; the caller holds mu.
func (k *Consumer) announce() {
	close(k.changed)
	k.changed = make(chan struct{})
}

// standing notes that a subscription stands, or no more.
func (k *Consumer) standing(queue string, is bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.ready[queue] = is
	k.announce()
}

func (k *Consumer) newRun(ctx context.Context, h Handler) (*run, error) {
	bad := func(text string) error { return &Error{Op: "run", Kind: ErrInvalid, Err: errors.New(text)} }
	switch {
	case h == nil:
		return nil, bad("a Consumer needs a Handler")
	case k.cfg.Prefetch < 0 || k.cfg.Prefetch > 65535:
		return nil, bad(fmt.Sprintf("Prefetch is %d: want 1 to 65535", k.cfg.Prefetch))
	}
	accept, err := k.c.codecs.Accept(k.cfg.Accept)
	if err != nil {
		return nil, err
	}
	if err := k.checkKept(); err != nil {
		return nil, err
	}
	return newRun(ctx, k, h, accept), nil
}

// checkKept says, or refuses, what the transport does not do for consumers.
func (k *Consumer) checkKept() error {
	var errs []error
	for _, w := range []struct {
		asked      bool
		word, what string
	}{
		{k.cfg.Exclusive, "exclusive", "exclusive consumers"},
		{k.cfg.Priority != 0, "x-priority", "priorities of consumers"},
		{len(k.cfg.Args) > 0, driver.KeepsAll, "arguments of consumers"},
	} {
		if w.asked && !k.c.keeps(w.word) {
			errs = append(errs, k.c.unsupported("run", "consumer", w.what))
		}
	}
	return errors.Join(errs...)
}

// Ready waits until Run is on and every queue's subscription stands in the
// session of now: what is published afterwards reaches it, on fan-out too.
func (k *Consumer) Ready(ctx context.Context) error {
	for {
		k.mu.Lock()
		ready, changed := k.run != nil, k.changed
		for _, q := range k.queues {
			ready = ready && k.ready[q]
		}
		k.mu.Unlock()
		if ready {
			return nil
		}
		select {
		case <-changed:
		case <-k.c.ctx.Done():
			return &Error{Op: "ready", Transport: k.c.scheme(), Kind: ErrClosed}
		case <-ctx.Done():
			return ended(ctx, "ready", "", ErrUnavailable)
		}
	}
}

// Add consumes further queues, now when Run is on, else when it starts. A queue
// that does not exist is ErrNotFound and leaves the others alone.
func (k *Consumer) Add(ctx context.Context, queues ...string) error {
	var errs []error
	for _, q := range queues {
		if r := k.running(); r != nil {
			s, err := k.c.consume.get(ctx, "add")
			if err == nil {
				if _, err = s.Inspect(ctx, s.name(q)); err != nil { // known to be missing
					err = k.c.sessionError(ctx, "add", err)
				}
			}
			if err != nil {
				errs = append(errs, err)
				continue
			}
		}
		k.mu.Lock()
		if !slices.Contains(k.queues, q) {
			k.queues = append(k.queues, q)
		}
		r := k.run
		k.mu.Unlock()
		if r != nil {
			r.add(q)
		}
	}
	return errors.Join(errs...)
}

// Cancel stops consuming a queue: what has not begun goes back, and it returns
// when the running handlers of that queue have finished; one of them must not
// wait for it. A queue that is not consumed is no error.
func (k *Consumer) Cancel(ctx context.Context, queue string) error {
	k.mu.Lock()
	k.queues = slices.DeleteFunc(k.queues, func(q string) bool { return q == queue })
	delete(k.fetch, queue)
	r := k.run
	k.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.cancel(ctx, queue)
}

// SetPrefetch changes the prefetch of one queue, or of all when queue is empty,
// live and without redelivery. 0 pauses: nothing more is delivered, what is
// here can be settled.
func (k *Consumer) SetPrefetch(ctx context.Context, queue string, n int) error {
	if n < 0 || n > 65535 {
		return &Error{Op: "prefetch", Entity: queue, Kind: ErrInvalid, Err: fmt.Errorf("%d: want 0 to 65535", n)}
	}
	k.mu.Lock()
	targets := []string{queue}
	if queue == "" {
		targets = slices.Clone(k.queues)
	}
	for _, q := range targets {
		k.fetch[q] = n
	}
	r := k.run
	k.mu.Unlock()
	if r == nil {
		return nil
	}
	var errs []error
	for _, q := range targets {
		errs = append(errs, r.setPrefetch(ctx, q, n))
	}
	return errors.Join(errs...)
}

func (k *Consumer) running() *run {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.run
}

// prefetch is what queue is to have now.
func (k *Consumer) prefetch(queue string) int {
	k.mu.Lock()
	defer k.mu.Unlock()
	if n, ok := k.fetch[queue]; ok {
		return n
	}
	return k.cfg.Prefetch
}

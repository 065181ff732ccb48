package amqp

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// A receiver consumes one queue on a channel of its own. Each change of its
// prefetch is a new consumer on that channel: basic.qos does not touch one
// that runs, and the deliveries of a cancelled one stay valid as long as the
// channel.
type receiver struct {
	s    *session
	ch   *channel
	cfg  driver.ReceiverConfig
	args amqp091.Table
	name string // the consumer tag wanted, and this receiver's mark in each driver.Tag

	change  chan struct{} // holds a token while consumers are being changed
	settles chan struct{} // holds a token while settlements are being written
	arrived chan struct{} // one token: there is something to receive
	gone    chan struct{} // closed when the broker cancelled the consumer, or by Close
	pulls   bool          // without a consumer: see pull.go
	out     []settlement  // of who has the token of settles; so is acks
	acks    []uint64

	mu        sync.Mutex
	err       error              // why gone is closed
	consumer  *consumer          // nil while intake is stopped
	consumers int                // started so far
	limit     int                // the prefetch
	ready     []*driver.Incoming // by delivery tag
	blanks    []*driver.Incoming // that were handed out, for those to come
	next      uint64             // the delivery tag to hand out next
	latest    uint64             // the largest delivery tag that has arrived
	open      []uint64           // handed out and not settled, ascending
	counted   bool               // the queue counts deliveries
	swapping  bool               // swapLater has been asked for
	notify    func(error)        // see driver.TryReceiver; nil: it is arrived that is told
}

// A consumer is one basic.consume.
type consumer struct {
	tag      string
	prefetch int
	first    uint64           // no delivery of it has a smaller tag
	latest   amqp091.Delivery // what the pump has in its hands: large, for the stack of a goroutine that sleeps
	stopping bool             // r.mu: we cancelled it
	drained  chan struct{}    // closed when nothing more comes of it
}

// tagSequence makes consumer tags and receiver marks unique in this process.
var tagSequence atomic.Uint64

// tagSuffixRoom stands for what start appends to the tag of a later consumer.
const tagSuffixRoom = ".1234567890"

// OpenReceiver implements driver.Conn.
func (s *session) OpenReceiver(ctx context.Context, cfg driver.ReceiverConfig) (driver.Receiver, error) {
	if cfg.Prefetch <= 0 || cfg.Prefetch > math.MaxUint16 {
		return nil, badPrefetch(cfg.Queue, cfg.Prefetch, 1)
	}
	args := cfg.Args
	if cfg.Priority != 0 {
		args = args.With("x-priority", cfg.Priority)
	}
	r := s.newReceiver(cfg)
	table, err := checked("consume", args, cfg.Queue, r.name+tagSuffixRoom)
	if err != nil {
		return nil, err
	}
	r.args = table
	_, err = s.open(ctx, "consume", cfg.Queue, func(c *channel) error {
		r.ch = c
		return r.start(cfg.Prefetch)
	})
	if err != nil {
		return nil, err
	}
	if cfg.NoAck {
		return r, nil // what it receives it settles at once, and that may have to wait
	}
	return tryReceiver{r}, nil
}

func (s *session) newReceiver(cfg driver.ReceiverConfig) *receiver {
	r := &receiver{
		s: s, cfg: cfg, next: 1, name: cfg.Tag, limit: cfg.Prefetch,
		change: make(chan struct{}, 1), settles: make(chan struct{}, 1),
		arrived: make(chan struct{}, 1), gone: make(chan struct{}),
	}
	if r.name == "" {
		r.name = "gombu-" + s.env.Owner + "-" + strconv.FormatUint(tagSequence.Add(1), 10)
	}
	s.mu.Lock()
	r.counted = s.kinds[cfg.Queue] == "quorum"
	s.mu.Unlock()
	return r
}

func badPrefetch(queue string, n, least int) error {
	return failure("consume", queue, driver.ErrInvalid, fmt.Errorf("bad prefetch %d: want %d to %d", n, least, math.MaxUint16))
}

// Features implements driver.Receiver. The queue's type is known when this
// session declared it, or once a delivery shows it.
func (r *receiver) Features() driver.QueueFeatures {
	r.s.mu.Lock()
	stream := r.s.kinds[r.cfg.Queue] == "stream"
	r.s.mu.Unlock()
	f := driver.QueueFeatures{
		Reject: !stream, Requeue: !stream, Priority: !stream, Ordered: true, Durable: true,
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.counted {
		f.Counts = driver.CountDeliveries
	}
	return f
}

// end makes the receiver over while its channel stands; the first reason counts.
func (r *receiver) end(err error) {
	r.mu.Lock()
	first := r.err == nil
	if first {
		r.err = err
		r.ready = nil // the broker has them again
		close(r.gone)
	}
	r.mu.Unlock()
	if first {
		r.rouse()
	}
}

// failed is why the receiver is over, nil while it is not.
func (r *receiver) failed() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.failure()
}

// failure is failed under r.mu.
func (r *receiver) failure() error {
	if r.err != nil {
		return r.err
	}
	select {
	case <-r.ch.over:
		return at("consume", r.cfg.Queue, r.ch.err)
	default:
		return nil
	}
}

// start runs a new consumer. Only one goroutine starts and stops consumers at
// a time; it may wait for the broker.
func (r *receiver) start(prefetch int) error {
	if err := r.ch.Qos(prefetch, 0, false); err != nil {
		return err
	}
	r.mu.Lock()
	r.consumers++
	c := &consumer{tag: r.name, prefetch: prefetch, first: r.latest + 1, drained: make(chan struct{})}
	if r.consumers > 1 {
		c.tag += "." + strconv.Itoa(r.consumers)
	}
	r.mu.Unlock()
	deliveries, err := r.ch.Consume(r.cfg.Queue, c.tag, false, r.cfg.Exclusive, false, false, r.args)
	if err != nil {
		return err
	}
	r.mu.Lock()
	r.consumer = c
	r.mu.Unlock()
	// An idle consumer has one goroutine here, not two: the first pump watches the
	// channel afterwards, whose end is the pump's.
	first := !r.ch.watched
	r.ch.watched = true
	r.s.wg.Go(func() { // inside a spawned call: Close already waits
		r.pump(c, deliveries)
		if first {
			r.ch.watch()
			r.rouse()
		}
	})
	return nil
}

// stop cancels c and waits until all that the broker sent for it has arrived.
func (r *receiver) stop(c *consumer) error {
	r.mu.Lock()
	c.stopping = true
	r.mu.Unlock()
	if err := r.ch.Cancel(c.tag, false); err != nil {
		return err
	}
	<-c.drained
	return nil
}

// pump takes over what amqp091 has for c, until c is cancelled.
func (r *receiver) pump(c *consumer, deliveries <-chan amqp091.Delivery) {
	for r.pumped(c, deliveries) {
	}
	r.mu.Lock()
	cancelled := !c.stopping && !r.ch.ended()
	r.mu.Unlock()
	if cancelled {
		r.end(failure("consume", r.cfg.Queue, driver.ErrNotFound, errors.New("the broker cancelled the consumer: the queue was deleted or moved")))
		r.s.env.Notify(driver.Event{Kind: driver.Gone, Entity: r.cfg.Queue, Detail: "the broker cancelled the consumer"})
	}
	close(c.drained)
}

// pumped takes one over; false when no more comes.
func (r *receiver) pumped(c *consumer, deliveries <-chan amqp091.Delivery) (ok bool) {
	if c.latest, ok = <-deliveries; !ok {
		return false
	}
	swap := r.arrive(&c.latest)
	r.rouse()
	if swap {
		r.s.spawn(r.swapLater)
	}
	c.latest.Body, c.latest.Headers = nil, nil // another's now, and may be large
	return true
}

// arrive puts a delivery in its place. Two pumps run while the prefetch
// changes, and the broker's order is that of its delivery tags. It says whether
// now is the time for a swap.
func (r *receiver) arrive(d *amqp091.Delivery) (swap bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.err != nil {
		return false
	}
	in := r.blank()
	incoming(in, r.cfg.Queue, r.name, d)
	if in.Attempt > 1 {
		r.counted = true
	}
	r.latest = max(r.latest, in.Tag.ID)
	i := len(r.ready)
	for i > 0 && r.ready[i-1].Tag.ID > in.Tag.ID {
		i--
	}
	r.ready = slices.Insert(r.ready, i, in)
	swap = r.counted && !r.swapping && r.limit > 0 && r.consumer != nil && r.consumer.prefetch != r.limit && r.full(r.consumer)
	r.swapping = r.swapping || swap
	return swap
}

// maxBlanks bounds the memory that is kept for deliveries to come.
const maxBlanks = 64

// blank returns memory for a delivery; r.mu is held.
func (r *receiver) blank() *driver.Incoming {
	last := len(r.blanks) - 1
	if last < 0 {
		return new(driver.Incoming)
	}
	in := r.blanks[last]
	r.blanks = r.blanks[:last]
	return in
}

// Receive implements driver.Receiver.
func (r *receiver) Receive(ctx context.Context, dst []driver.Incoming) (int, error) {
	if r.pulls {
		return r.pull(ctx, dst)
	}
	for {
		if ctx.Err() != nil {
			return 0, cause(ctx)
		}
		if err := r.failed(); err != nil {
			return 0, err
		}
		n, err := r.take(ctx, dst)
		if n > 0 || err != nil || len(dst) == 0 {
			return n, err
		}
		select {
		case <-r.arrived:
		case <-r.gone:
		case <-r.ch.over:
		case <-ctx.Done():
		}
	}
}

// take hands out what is there, in the broker's order.
func (r *receiver) take(ctx context.Context, dst []driver.Incoming) (int, error) {
	if r.ch.ended() {
		return 0, nil // the broker has them again
	}
	if r.cfg.NoAck {
		return r.takeAcked(ctx, dst)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.handOut(dst), nil
}

// handOut moves the deliveries that are next from ready to open, as far as the
// prefetch goes: the broker does not count those of a cancelled consumer. r.mu
// is held.
func (r *receiver) handOut(dst []driver.Incoming) int {
	n := 0
	for n < len(dst) && r.deliverable(n) {
		dst[n] = *r.ready[n]
		*r.ready[n] = driver.Incoming{}
		if len(r.blanks) < maxBlanks {
			r.blanks = append(r.blanks, r.ready[n])
		}
		r.open = append(r.open, r.next)
		r.next++
		n++
	}
	r.ready = slices.Delete(r.ready, 0, n)
	return n
}

// deliverable says whether the n-th of ready is to be handed out next; r.mu is held.
func (r *receiver) deliverable(n int) bool {
	return n < len(r.ready) && r.ready[n].Tag.ID == r.next && (r.cfg.NoAck || len(r.open) < r.limit)
}

// SetPrefetch implements driver.Receiver. As long as deliveries of the consumer
// before are unsettled, as many may wait here beyond the new prefetch; on a
// quorum queue, as long as fewer than the old one allows are here.
func (r *receiver) SetPrefetch(ctx context.Context, n int) error {
	if n < 0 || n > math.MaxUint16 {
		return badPrefetch(r.cfg.Queue, n, 0)
	}
	if err := r.failed(); err != nil || r.pulls {
		return err
	}
	return r.changing(ctx, "set prefetch", func() error {
		r.mu.Lock()
		old := r.consumer
		r.limit = n
		r.mu.Unlock()
		r.rouse()
		switch {
		case n == 0:
			return r.pause(context.WithoutCancel(ctx), old)
		case old != nil && old.prefetch == n:
			return nil
		case old != nil && r.cfg.Exclusive: // the broker takes no second one beside it
			if err := r.stop(old); err != nil {
				return err
			}
			return r.start(n)
		case old != nil && r.isCounted():
			return r.swap()
		}
		if err := r.start(n); err != nil || old == nil {
			return err
		}
		return r.stop(old)
	})
}

// changing runs f alone; when ctx ends first it runs on, and what comes next
// waits for it.
func (r *receiver) changing(ctx context.Context, op string, f func() error) error {
	select {
	case r.change <- struct{}{}:
	case <-r.ch.over:
		return at(op, r.cfg.Queue, r.ch.err)
	case <-ctx.Done():
		return r.s.ctxError(ctx, op, r.cfg.Queue, driver.ErrUnavailable)
	}
	return r.s.call(ctx, op, r.cfg.Queue, func() error {
		defer func() { <-r.change }()
		return f()
	})
}

// pause stops intake and gives back what was not handed out. ctx never ends:
// the wait for room is over at the latest when the link is.
func (r *receiver) pause(ctx context.Context, c *consumer) error {
	if c != nil {
		if err := r.stop(c); err != nil {
			return err
		}
	}
	r.mu.Lock()
	r.consumer = nil
	n := len(r.ready) // which nothing is added to any more, nor taken from: the limit is 0
	r.mu.Unlock()
	done, err := r.beginSettle(ctx, n)
	if err != nil {
		return err
	}
	defer done()
	r.mu.Lock()
	back := r.ready
	r.ready = nil
	if len(back) > 0 {
		r.next = back[len(back)-1].Tag.ID + 1
	}
	r.mu.Unlock()
	for _, in := range back {
		if err := r.ch.Nack(in.Tag.ID, false, true); err != nil {
			return err
		}
	}
	return nil
}

// Close implements driver.Receiver. Closing the channel gives back all that is
// unsettled.
func (r *receiver) Close(ctx context.Context) error {
	r.end(failure("consume", r.cfg.Queue, driver.ErrClosed, nil))
	if r.ch.ended() {
		return nil
	}
	return r.changing(ctx, "close consumer", r.ch.Close)
}

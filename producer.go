package gombu

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/driver"
)

// ProducerConfig holds the defaults of a Producer's messages. The zero value
// publishes to the default exchange, persistent, confirmed and mandatory.
type ProducerConfig struct {
	// Exchange and Key for messages that name none.
	Exchange, Key string
	// Serializer and Compression for messages that name none.
	Serializer, Compression string
	// Mandatory for messages that leave it to the Producer.
	Mandatory Mandatory
	// Declare is declared before the first publish of each session. nil: nothing.
	Declare *Topology
	// NoConfirm returns when the message is on its way: it may be lost.
	NoConfirm bool
	// Replicas is how many replicas of a Redis server must have a message before
	// Publish returns nil (WAIT). When fewer have it at the end of the call's
	// context, after 5 s at most, the error is ErrUncertain with a
	// *driver.ReplicaError that says how many: the message is in its queues at
	// the master, and is not sent again. Fan-outs keep nothing and are not waited for. 0: do not wait. A
	// Producer dials nothing, so that ErrUnsupported comes with its first
	// publish, of which nothing is sent: RabbitMQ confirms messages of quorum
	// queues when most of the members have them.
	Replicas int
	// Fsync waits for the disk of the Redis server too, and of the Replicas
	// (WAITAOF, Redis 7.2 with appendonly; else ErrUnsupported, as above).
	Fsync bool
	// Resend repeats a message whose outcome a lost session left unknown, with
	// the same message id: at least once, as Kombu's retry=True.
	Resend bool
	// Retry bounds the repeats of what was not sent (and, with Resend, of what
	// is uncertain): MaxRetries, Timeout, and OnError, whose wait is 0: the waits
	// between are the supervisor's. nil: repeated until the context ends.
	Retry *RetryPolicy
}

// A Producer publishes through its Conn. It holds no resource of the broker,
// needs no closing, and is safe for use by any number of goroutines: those that
// publish at the same time share a batch, and nobody waits for one to fill.
type Producer struct {
	c    *Conn
	cfg  ProducerConfig
	lane *lane

	declared atomic.Pointer[declaration] // of cfg.Declare, the last one

	mu      sync.Mutex
	pending int           // published and unanswered
	idle    chan struct{} // closed when pending falls to zero; nil: nobody waits
	blanks  []Pending     // for those to come
}

// Producer makes a producer; nil cfg is the zero one. No network is used
// before the first publish.
func (c *Conn) Producer(cfg *ProducerConfig) *Producer {
	p := &Producer{c: c}
	if cfg != nil {
		p.cfg = *cfg
	}
	p.lane = c.lane(driver.SenderConfig{NoConfirm: p.cfg.NoConfirm, Replicas: p.cfg.Replicas, Fsync: p.cfg.Fsync})
	return p
}

// Publish sends m and returns when the broker has it, in at least one queue
// when it is mandatory. Otherwise the error is ErrUnroutable; ErrRefused;
// ErrTooLarge or ErrInvalid (nothing was sent); ErrNotSent when ctx ended
// before it was sent, with ErrUnavailable or ErrBlocked when that is why; or
// ErrUncertain when it was sent and ctx or the session ended before the answer.
func (p *Producer) Publish(ctx context.Context, m *Message) error {
	ctx, cancel := p.budget(ctx)
	defer cancel()
	if err := p.ready(ctx, m); err != nil {
		return err
	}
	if p.c.feature.Inline {
		return p.lane.inline(ctx, p, m)
	}
	until, _ := ctx.Deadline()
	k, err := p.lane.enqueue(ctx, p, m, until)
	if err != nil {
		return err
	}
	return p.lane.await(ctx, k)
}

// PublishAsync sends m without waiting for its outcome. ctx bounds the wait for
// room (Config.MaxPending) only; an error means that nothing was or will be
// sent. Get the outcome from Pending.Wait, or of all from Flush.
func (p *Producer) PublishAsync(ctx context.Context, m *Message) (*Pending, error) {
	var until time.Time
	if r := p.cfg.Retry; r != nil && r.Timeout > 0 {
		until = time.Now().Add(r.Timeout)
	}
	ctx, cancel := p.budget(ctx)
	defer cancel()
	if err := p.ready(ctx, m); err != nil {
		return nil, err
	}
	if p.c.feature.Inline {
		w := p.blank()
		w.err = p.lane.inline(ctx, p, m)
		return w, nil
	}
	k, err := p.lane.enqueue(ctx, p, m, until)
	if err != nil {
		return nil, err
	}
	w := p.blank()
	w.k, w.until = k, until
	return w, nil
}

// pendings is how many of them are allocated at once: few enough that one which
// is kept long does not hold much memory.
const pendings = 8

// blank returns a Pending that nobody has had: it is its caller's for ever.
func (p *Producer) blank() *Pending {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.blanks) == 0 {
		p.blanks = make([]Pending, pendings)
	}
	w := &p.blanks[0]
	p.blanks = p.blanks[1:]
	return w
}

// Pending is the outcome of a PublishAsync to come. Its methods may be called
// from one goroutine at a time.
type Pending struct {
	k     *call
	err   error
	until time.Time // end of Retry.Timeout; zero: none
}

// Wait returns the outcome, as Publish would. On ctx's end it is as if Publish's
// context had ended: what was not sent yet is withdrawn.
func (w *Pending) Wait(ctx context.Context) error {
	if w.k != nil {
		if !w.until.IsZero() {
			var cancel context.CancelFunc
			ctx, cancel = context.WithDeadline(ctx, w.until)
			defer cancel()
		}
		w.err, w.k = w.k.p.lane.await(ctx, w.k), nil
	}
	return w.err
}

// Flush waits until nothing that this Producer published is unanswered. It
// does not return the outcomes; on ctx's end it returns its cause and ErrUncertain.
func (p *Producer) Flush(ctx context.Context) error {
	return p.lane.flush(ctx, p)
}

// budget applies Retry.Timeout.
func (p *Producer) budget(ctx context.Context) (context.Context, context.CancelFunc) {
	if p.cfg.Retry == nil || p.cfg.Retry.Timeout <= 0 {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, p.cfg.Retry.Timeout)
}

// ready declares what this message and producer ask for.
func (p *Producer) ready(ctx context.Context, m *Message) error {
	if ctx.Err() != nil {
		return ended(ctx, "publish", "", ErrNotSent)
	}
	if k := p.lane.kind; k.Replicas < 0 || k.NoConfirm && (k.Replicas > 0 || k.Fsync) {
		return &Error{Op: "publish", Transport: p.c.scheme(), Kind: ErrInvalid, Err: errors.New("Replicas must not be negative, and NoConfirm waits for nobody")}
	}
	if err := p.declare(ctx); err != nil {
		return err
	}
	return p.c.declareOnce(ctx, m.Declare)
}

// A declaration is when something was declared: in which session, and after how
// many deletions there.
type declaration struct {
	in      *session
	deleted uint64
}

// declare declares what this producer asks for, once a session; that it has
// been done is found without looking at what that was.
func (p *Producer) declare(ctx context.Context) error {
	if p.cfg.Declare == nil {
		return nil
	}
	s := p.c.consume.peek()
	var now declaration
	if s != nil {
		now = declaration{s, s.deleted.Load()}
		if d := p.declared.Load(); d != nil && *d == now && !s.over() {
			return nil
		}
	}
	err := p.c.declareOnce(ctx, p.cfg.Declare)
	if err == nil && s != nil && s == p.c.consume.peek() && cacheable(p.cfg.Declare) {
		p.declared.Store(&now)
	}
	return err
}

// begin and end count what is unanswered, for Flush.
func (p *Producer) begin() {
	p.mu.Lock()
	p.pending++
	p.mu.Unlock()
}

func (p *Producer) end() {
	p.mu.Lock()
	if p.pending--; p.pending == 0 && p.idle != nil {
		close(p.idle)
		p.idle = nil
	}
	p.mu.Unlock()
}

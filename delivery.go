package gombu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/driver"
)

// A Delivery is one message in the hands of a handler. It belongs to the
// handler; its fields are for reading. Settling methods may be called from any
// goroutine, once: the second one returns ErrSettled. Left alone, the handler's
// return value settles it.
type Delivery struct {
	// Queue is the queue it came from, by its handle.
	Queue string
	// Exchange and Key are those of the publish.
	Exchange, Key string
	// ConsumerTag is the broker's name for the subscription, where it has one.
	ConsumerTag string
	// Redelivered: it was delivered before, here or elsewhere.
	Redelivered bool
	// Attempt is the number of handler starts known so far, this one included; what
	// came back without a count is taken as started once. 0: unknown.
	Attempt int
	// Properties as they came.
	Properties
	// Body as it came, maybe compressed; see Bytes and Decode. Of something that
	// is no message, it is what was found.
	Body []byte

	plain []byte // Body decompressed
	fault error  // why it cannot be decoded
	rec   *reception
	tag   driver.Tag
	one   [1]driver.Settlement // so that settling in place allocates nothing
	state atomic.Uint32

	ended   bool      // the start before the one to come came to its end, in a handler's error
	counted bool      // the start to come is counted, or cannot be
	done    bool      // its handler has done with it, whatever became of the claim
	try     int       // the number of the start to come, or of the one that was; at least 1
	tries   int       // what failed about it besides its handler
	asked   time.Time // when it first wanted to start; see suspects
	dead    *death    // it is on its way to the dead-letter queue
	turn    *turn     // it is no message yet, but the next one of the retry queue
}

const (
	stOpen uint32 = iota
	stDetached
	stAcked
	stRejected
	stRequeued
)

var stateWord = map[uint32]string{stAcked: "acknowledged", stRejected: "rejected", stRequeued: "requeued"}

// String says which message it is, never what is in it: it is safe to log.
func (d *Delivery) String() string {
	return fmt.Sprintf("delivery of queue %q, exchange %q, key %q, message id %q, %d bytes of %s", d.Queue, d.Exchange, d.Key, d.MessageID, len(d.Body), d.ContentType)
}

// LogValue is String.
func (d *Delivery) LogValue() slog.Value { return slog.StringValue(d.String()) }

// fill makes d the delivery of in.
func (d *Delivery) fill(in *driver.Incoming, rec *reception) {
	d.Queue, d.Exchange, d.Key, d.ConsumerTag = rec.src.queue, in.Exchange, in.Key, in.ConsumerTag
	d.Redelivered = in.Redelivered
	d.Properties, d.Body, d.fault = in.Props, in.Body, in.DecodeErr
	if in.Raw != nil {
		d.Body = in.Raw
	}
	d.rec, d.tag = rec, in.Tag
	switch {
	case !in.Redelivered || rec.counts == countStore:
		d.try = max(in.Attempt, 1)
		d.Attempt = d.try
	case rec.counts == countMoved:
		d.try, d.Attempt = 2, 2 // what the broker counts, if anything, is deliveries
	default:
		d.try = 1 // elsewhere it may have been started, or not
	}
}

// anew is d for another run under the same claim. To whoever still has d it is
// settled; nil: it was before.
func (d *Delivery) anew() *Delivery {
	if !d.claim(stRequeued) {
		return nil
	}
	return &Delivery{
		Queue: d.Queue, Exchange: d.Exchange, Key: d.Key, ConsumerTag: d.ConsumerTag, Redelivered: true, Attempt: d.try,
		Properties: d.Properties, Body: d.Body, plain: d.plain, fault: d.fault, rec: d.rec, tag: d.tag, try: d.try, ended: d.ended, counted: d.rec.counts != countStore,
	}
}

// Bytes is the body, decompressed. It fails with ErrUndecodable, also when the
// message was no message at all. What it returns belongs to the Delivery.
func (d *Delivery) Bytes() ([]byte, error) {
	if d.fault != nil || d.plain != nil {
		return d.plain, d.fault
	}
	d.plain = d.Body
	name, ok := d.Headers.Get("compression").(string)
	if !ok || name == "" {
		return d.plain, nil
	}
	c := d.rec.src.run.c
	z, err := c.codecs.Compression(name)
	if err == nil {
		d.plain, err = z.Decompress(d.Body, c.cfg.MaxBody)
	}
	if err != nil {
		d.plain = nil
		d.fault = &Error{Op: "decompress", Entity: name, Kind: ErrUndecodable, Err: err}
	}
	return d.plain, d.fault
}

// Decode decodes the body into v, a pointer, by its content type. The content
// type is checked against the accept list before anything is decoded. The error
// is ErrUndecodable; returned from a handler it makes the message a dead
// letter instead of retrying it.
func (d *Delivery) Decode(v any) error {
	if err := d.check(); err != nil {
		return err
	}
	body, err := d.Bytes()
	if err != nil {
		return err
	}
	err = d.rec.src.run.c.codecs.Decode(d.ContentType, d.ContentEncoding, body, v)
	if err != nil {
		err = &decodeError{d, err}
	}
	return err
}

// A decodeError is what a Delivery's own Decode returned, so that the same kind
// of error from elsewhere is not taken for it.
type decodeError struct {
	d   *Delivery
	err error
}

func (e *decodeError) Error() string { return e.err.Error() }
func (e *decodeError) Unwrap() error { return e.err }

// check says why the message is not to be decoded, before trying.
func (d *Delivery) check() error {
	if d.fault == nil && !d.rec.src.run.accept.Has(d.ContentType) {
		d.fault = &Error{Op: "decode", Entity: d.ContentType, Kind: ErrUndecodable,
			Err: errors.New("this content type is not accepted here")}
	}
	return d.fault
}

// undecodable says whether err is that this very message cannot be decoded,
// and nothing else: Reject, Drop and Retry decide, whatever their reason.
func (d *Delivery) undecodable(err error) bool {
	if _, decided := errors.AsType[*verdict](err); decided {
		return false
	}
	var own *decodeError
	return errors.As(err, &own) && own.d == d || d.fault != nil && errors.Is(err, d.fault)
}

// Decode decodes d's body as a T; see Delivery.Decode.
func Decode[T any](d *Delivery) (T, error) {
	var v T
	err := d.Decode(&v)
	return v, err
}

// Typed makes a handler of one that takes the decoded body. A body that does
// not decode follows the policy for undecodable messages.
func Typed[T any](h func(ctx context.Context, v T, d *Delivery) error) Handler {
	return func(ctx context.Context, d *Delivery) error {
		v, err := Decode[T](d)
		if err != nil {
			return err
		}
		return h(ctx, v, d)
	}
}

// Ack tells the broker that the message is done. ErrSettled: it was settled
// before. ErrLeaseLost: the claim is no longer ours, and the broker delivers it
// again. Without acks (NoAck) it does nothing.
func (d *Delivery) Ack(ctx context.Context) error { return d.settle(ctx, stAcked, driver.Ack) }

// Reject gives the message to the broker's own dead-lettering; a queue without
// one drops it. Errors as Ack's.
func (d *Delivery) Reject(ctx context.Context) error {
	return d.settle(ctx, stRejected, driver.Reject)
}

// Requeue puts the message back, to the head of its queue where the broker can.
// Errors as Ack's.
func (d *Delivery) Requeue(ctx context.Context) error {
	return d.settle(ctx, stRequeued, driver.Requeue)
}

// Release puts the message back as one that was never tried. Errors as Ack's.
func (d *Delivery) Release(ctx context.Context) error {
	return d.settle(ctx, stRequeued, driver.Release)
}

// Detach lets the handler return while the claim is kept, until one of the
// settling methods is called. It counts against the prefetch meanwhile.
func (d *Delivery) Detach() error {
	if !d.state.CompareAndSwap(stOpen, stDetached) {
		return d.settledError()
	}
	return nil
}

// Settled says whether the delivery was acknowledged, rejected or requeued.
func (d *Delivery) Settled() bool { return d.state.Load() > stDetached }

func (d *Delivery) settledError() error {
	return &Error{Op: "settle", Entity: d.Queue, Kind: ErrSettled,
		Err: fmt.Errorf("the delivery was %s before", stateWord[d.state.Load()])}
}

// claim moves the state to settled; false when it was.
func (d *Delivery) claim(to uint32) bool {
	return d.state.CompareAndSwap(stOpen, to) || d.state.CompareAndSwap(stDetached, to)
}

func (d *Delivery) settle(ctx context.Context, to uint32, o driver.Outcome) error {
	if d.rec.src.run.cfg.NoAck {
		return nil
	}
	if !d.claim(to) {
		return d.settledError()
	}
	d.one[0] = driver.Settlement{Tag: d.tag, Outcome: o}
	return d.rec.settle(ctx, d)
}

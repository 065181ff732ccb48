package amqp

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"sync"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// A sender is a publish channel in confirm mode. An error about one message
// closes the channel; once all that was on it has its outcome, the sender
// opens another and goes on.
type sender struct {
	s    *session
	cfg  driver.SenderConfig
	seed maphash.Seed
	news chan struct{} // one token: answers may have come in
	room chan struct{} // one token: an answer was handed out
	// forget stops the link's telling news.
	forget func()

	mu      sync.Mutex
	ch      *channel
	returns *returns // of ch; nil without confirms
	judged  bool     // pending has its fates: ch is over
	closed  bool     // by Close: no other channel follows
	pending []sent   // not yet answered, oldest first, all on ch; at most cfg.Window
	back    []sent   // the array that pending is in, from its start
}

// sent is a message on its way, without the caller's memory.
type sent struct {
	seq       uint64
	exchange  string
	size      int   // of the body
	position  int64 // the stream's when it was written, or before
	mandatory bool
	print     print
	returned  string                        // the broker's text when it came back
	confirm   *amqp091.DeferredConfirmation // nil while it is being written
	answered  bool                          // its outcome is known
	fate      error                         // the outcome if the channel ended without an answer
}

// OpenSender implements driver.Conn.
func (s *session) OpenSender(ctx context.Context, cfg driver.SenderConfig) (driver.Sender, error) {
	if cfg.Window <= 0 {
		return nil, failure("open sender", "", driver.ErrInvalid, fmt.Errorf("bad window %d: want 1 or more", cfg.Window))
	}
	if cfg.Replicas > 0 || cfg.Fsync {
		return nil, failure("open sender", "", driver.ErrUnsupported,
			errors.New("RabbitMQ waits for no number of replicas: it confirms a message of a quorum queue when most of the queue's members have it on disk; publish to a quorum queue, with confirms"))
	}
	n := &sender{
		s: s, cfg: cfg, seed: maphash.MakeSeed(),
		news: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	if err := n.open(ctx); err != nil {
		return nil, err
	}
	n.forget = s.link.onIdle(n.news)
	return n, nil
}

// open gives n a channel, its first or the next after one that is over.
func (n *sender) open(ctx context.Context) error {
	var back *returns
	ch, err := n.s.open(ctx, "open sender", "", func(c *channel) error {
		if n.cfg.NoConfirm {
			return nil
		}
		back = newReturns()
		c.NotifyReturn(back.in)
		n.s.wg.Go(back.keep) // inside a spawned call: Close already waits
		return c.Confirm(false)
	})
	if err != nil {
		return err
	}
	n.mu.Lock()
	closed := n.closed
	n.ch, n.returns, n.judged = ch, back, false
	n.mu.Unlock()
	tell(n.news) // Outcomes looks at the channel before
	if closed {
		return n.Close(ctx)
	}
	return nil
}

// current returns the channel, after opening one in place of one that is over
// and has nothing unanswered.
func (n *sender) current(ctx context.Context, exchange string) (*channel, error) {
	n.mu.Lock()
	ch, done := n.ch, len(n.pending) == 0 && !n.closed
	n.mu.Unlock()
	if !ch.ended() {
		return ch, nil
	}
	if err := n.notSent(ctx, ch, exchange); !done || n.s.Err() != nil || ctx.Err() != nil {
		return nil, err
	}
	if err := n.open(ctx); err != nil {
		return nil, failure("publish", exchange, driver.ErrNotSent, err)
	}
	return n.current(ctx, exchange)
}

// Submit implements driver.Sender.
func (n *sender) Submit(ctx context.Context, batch []driver.Outgoing) (int, error) {
	var msg amqp091.Publishing
	for i := range batch {
		m := &batch[i]
		size, err := n.s.encode(m, &msg)
		if err != nil {
			m.Done, m.Err = true, err
			continue
		}
		if err := n.submit(ctx, m, &msg, size); err != nil {
			return i, err
		}
	}
	return len(batch), nil
}

// TrySubmit implements driver.TrySubmitter.
func (n *sender) TrySubmit(batch []driver.Outgoing) int {
	var msg amqp091.Publishing
	for i := range batch {
		m := &batch[i]
		size, err := n.s.encode(m, &msg)
		if err != nil {
			m.Done, m.Err = true, err
			continue
		}
		n.mu.Lock()
		ch, full := n.ch, len(n.pending) >= n.cfg.Window
		n.mu.Unlock()
		if full || ch.ended() || !n.s.link.tryReserve(size) {
			return i
		}
		if !n.write(ch, m, &msg, size) {
			return i
		}
	}
	return len(batch)
}

// submit waits for a place in the window and for room in the buffer; what
// follows only copies.
func (n *sender) submit(ctx context.Context, m *driver.Outgoing, msg *amqp091.Publishing, size int) error {
	ch, err := n.current(ctx, m.Exchange)
	if err != nil {
		return err
	}
	if err := n.waitWindow(ctx, ch, m.Exchange); err != nil {
		return err
	}
	if err := n.s.link.reserve(ctx, size); err != nil {
		if ctx.Err() != nil {
			return n.s.ctxError(ctx, "publish", m.Exchange, driver.ErrNotSent)
		}
		return n.notSent(ctx, ch, m.Exchange)
	}
	if !n.write(ch, m, msg, size) {
		// A message of which a part is missing is none to the broker.
		return n.notSent(ctx, ch, m.Exchange)
	}
	return nil
}

// write writes msg, which is m, into the room that is reserved for it; false when
// the channel is over.
func (n *sender) write(ch *channel, m *driver.Outgoing, msg *amqp091.Publishing, size int) bool {
	defer n.s.link.release(size)
	if !n.cfg.NoConfirm {
		return n.publish(ch, m, msg)
	}
	// Nobody would be told of a return.
	_, err := ch.PublishWithDeferredConfirm(m.Exchange, m.Key, false, false, *msg)
	m.Done = err == nil
	return err == nil
}

// publish writes msg and puts it on the list of the unanswered.
func (n *sender) publish(ch *channel, m *driver.Outgoing, msg *amqp091.Publishing) bool {
	entry := sent{
		seq: m.Seq, exchange: m.Exchange, size: len(m.Body),
		position: n.s.link.position(), mandatory: !m.NoMandatory,
	}
	if entry.mandatory {
		entry.print = printOf(n.seed, m.Exchange, m.Key, msg.MessageId, msg.CorrelationId, msg.Headers, m.Body)
	}
	// It is on the list before it is written, because its return may be back
	// before PublishWithDeferredConfirm is.
	n.mu.Lock()
	n.push(entry)
	n.mu.Unlock()
	confirm, err := ch.PublishWithDeferredConfirm(m.Exchange, m.Key, entry.mandatory, false, *msg)
	n.mu.Lock()
	last := len(n.pending) - 1
	if err != nil {
		n.pending = n.pending[:last]
	} else {
		n.pending[last].confirm = confirm
	}
	n.mu.Unlock()
	if ch.ended() { // Outcomes may be waiting for this last one
		tell(n.news)
	}
	return err == nil
}

func (n *sender) waitWindow(ctx context.Context, ch *channel, exchange string) error {
	for {
		n.mu.Lock()
		full := len(n.pending) >= n.cfg.Window
		n.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-n.room:
		case <-ch.over:
			return n.notSent(ctx, ch, exchange)
		case <-ctx.Done():
			return n.s.ctxError(ctx, "publish", exchange, driver.ErrNotSent)
		}
	}
}

// notSent is the error of a message that found the channel closed.
func (n *sender) notSent(ctx context.Context, ch *channel, exchange string) error {
	select {
	case <-ch.over:
		return failure("publish", exchange, driver.ErrNotSent, ch.err)
	case <-ctx.Done():
		return n.s.ctxError(ctx, "publish", exchange, driver.ErrNotSent)
	}
}

// Outcomes implements driver.Sender.
func (n *sender) Outcomes(ctx context.Context, dst []driver.Receipt) (int, error) {
	for len(dst) > 0 {
		count, ch, over := n.collect(dst)
		if count > 0 {
			tell(n.room)
			return count, nil
		}
		if over && n.finished() {
			n.forget()
			return 0, at("publish", "", ch.err)
		}
		if err := n.wait(ctx, ch, over); err != nil {
			return 0, err
		}
	}
	return 0, nil
}

// finished says whether no outcome can follow.
func (n *sender) finished() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.pending) == 0 && (n.closed || n.s.Err() != nil)
}

// wait returns when looking again may be worth while.
func (n *sender) wait(ctx context.Context, ch *channel, over bool) error {
	// What has been seen is not waited for again: one last message may just be
	// being written, and news follows.
	ended, done := ch.over, n.s.done
	if over {
		ended = nil
	}
	if n.s.Err() != nil {
		done = nil
	}
	select {
	case <-n.news:
	case <-ended:
	case <-done:
	case <-ctx.Done():
		return n.s.ctxError(ctx, "publish", "", driver.ErrUncertain)
	}
	return nil
}

// collect moves answered messages to dst. The confirms are read before the
// returns, which come first: so each confirm seen has its return here too.
func (n *sender) collect(dst []driver.Receipt) (count int, ch *channel, over bool) {
	count, ch, back, over := n.look(len(dst))
	var list []amqp091.Return
	if back != nil && (count > 0 || over) {
		list = back.take()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ch != ch { // which was over and had nothing unanswered
		return 0, ch, over
	}
	n.markReturned(list)
	if over && !n.judged {
		n.judge()
		n.judged = true
	}
	n.take(dst[:count])
	return count, ch, over
}

// look marks the answered messages, most of them at the most.
func (n *sender) look(most int) (count int, ch *channel, back *returns, over bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	ch, back = n.ch, n.returns
	select {
	case <-ch.over:
		over = true
	default:
	}
	for i := range n.pending {
		if m := &n.pending[i]; n.isAnswered(m, over) {
			m.answered = true
			if count++; count == most {
				break
			}
		}
	}
	return count, ch, back, over
}

// push adds m to the unanswered; n.mu is held.
func (n *sender) push(m sent) {
	full := len(n.pending) == cap(n.pending)
	if full && 2*len(n.pending) < len(n.back) {
		copy(n.back, n.pending)
		clear(n.back[len(n.pending):])
		n.pending, full = n.back[:len(n.pending)], false
	}
	n.pending = append(n.pending, m)
	if full {
		n.back = n.pending[:cap(n.pending)]
	}
}

// take moves the answered to dst, of which there are as many. Brokers mostly
// answer in order: then nothing else is touched. n.mu is held.
func (n *sender) take(dst []driver.Receipt) {
	first, got := 0, 0
	for ; got < len(dst) && n.pending[first].answered; first++ {
		m := &n.pending[first]
		dst[got] = driver.Receipt{Seq: m.seq, Err: m.outcome()}
		got++
	}
	clear(n.pending[:first])
	n.pending = n.pending[first:]
	if got == len(dst) {
		return
	}
	kept := n.pending[:0]
	for i := range n.pending {
		m := n.pending[i]
		if !m.answered {
			kept = append(kept, m)
			continue
		}
		dst[got] = driver.Receipt{Seq: m.seq, Err: m.outcome()}
		got++
	}
	clear(n.pending[len(kept):])
	n.pending = kept
}

// isAnswered says whether the outcome of m is known. When the channel closes
// amqp091 calls everything open refused, and does so before over is closed:
// such an answer counts only while the channel stands or after it is over.
func (n *sender) isAnswered(m *sent, over bool) bool {
	if m.confirm == nil {
		return false
	}
	select {
	case <-m.confirm.Done():
		return m.confirm.Acked() || over || !n.ch.ended()
	default:
		return over
	}
}

func (m *sent) acked() bool { return m.confirm != nil && m.confirm.Acked() }

func (m *sent) outcome() error {
	switch {
	case m.acked() && m.returned != "":
		return failure("publish", m.exchange, driver.ErrUnroutable, errors.New(m.returned))
	case m.acked():
		return nil
	case m.fate != nil:
		return m.fate
	}
	return failure("publish", m.exchange, driver.ErrRefused, nil)
}

// Close implements driver.Sender. The broker has read all that was written
// when it answers.
func (n *sender) Close(ctx context.Context) error {
	n.mu.Lock()
	n.closed = true
	ch := n.ch
	n.mu.Unlock()
	n.forget()
	tell(n.news)
	if ch.ended() {
		return nil
	}
	return n.s.call(ctx, "close sender", "", ch.Close)
}

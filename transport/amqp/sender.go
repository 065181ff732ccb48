package amqp

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"strconv"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// A sender is a publish channel in confirm mode. It dies with its channel, of
// an error about one message as well; the session stays, and the caller opens
// another.
type sender struct {
	s      *session
	ch     *channel
	cfg    driver.SenderConfig
	seed   maphash.Seed
	news   chan struct{} // one token: answers may have come in
	room   chan struct{} // one token: an answer was handed out
	forget func()

	mu      sync.Mutex
	pending []sent // not yet answered, oldest first; at most cfg.Window
	returns chan amqp091.Return
	judged  bool // pending has its fates
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
	fate      error                         // the outcome if the channel ended without an answer
}

// OpenSender implements driver.Conn.
func (s *session) OpenSender(ctx context.Context, cfg driver.SenderConfig) (driver.Sender, error) {
	if cfg.Window <= 0 {
		return nil, failure("open sender", "", driver.ErrInvalid, fmt.Errorf("bad window %d: want 1 or more", cfg.Window))
	}
	n := &sender{
		s: s, cfg: cfg, seed: maphash.MakeSeed(),
		news: make(chan struct{}, 1), room: make(chan struct{}, 1),
	}
	ch, err := s.open(ctx, "open sender", "", func(c *channel) error {
		if cfg.NoConfirm {
			return nil
		}
		// Room for a return of each unanswered message: amqp091 drops one that
		// finds no room for 5 s, and the message would pass for delivered.
		n.returns = c.NotifyReturn(make(chan amqp091.Return, cfg.Window))
		return c.Confirm(false)
	})
	if err != nil {
		return nil, err
	}
	n.ch = ch
	n.forget = s.link.onIdle(n.news)
	return n, nil
}

// Submit implements driver.Sender.
func (n *sender) Submit(ctx context.Context, batch []driver.Outgoing) (int, error) {
	for i := range batch {
		m := &batch[i]
		p, size, err := n.s.encode(m)
		if err != nil {
			m.Done, m.Err = true, err
			continue
		}
		if err := n.submit(ctx, m, p, size); err != nil {
			return i, err
		}
	}
	return len(batch), nil
}

// submit waits for a place in the window and for room in the buffer; what
// follows only copies.
func (n *sender) submit(ctx context.Context, m *driver.Outgoing, p *amqp091.Publishing, size int) error {
	if err := n.waitWindow(ctx); err != nil {
		return err
	}
	if err := n.s.link.reserve(ctx, size); err != nil {
		if ctx.Err() != nil {
			return n.s.ctxError(ctx, "publish", m.Exchange, driver.ErrNotSent)
		}
		return n.notSent(ctx, m.Exchange)
	}
	defer n.s.link.release(size)
	if n.cfg.NoConfirm {
		// Nobody would be told of a return.
		if _, err := n.ch.PublishWithDeferredConfirm(m.Exchange, m.Key, false, false, *p); err != nil {
			return n.notSent(ctx, m.Exchange)
		}
		m.Done = true
		return nil
	}
	entry := sent{
		seq: m.Seq, exchange: m.Exchange, size: len(m.Body),
		position: n.s.link.position(), mandatory: !m.NoMandatory,
	}
	if entry.mandatory {
		entry.print = printOf(n.seed, m.Exchange, m.Key, p.MessageId, p.CorrelationId, p.Headers, m.Body)
	}
	// It is on the list before it is written, because its return may be back
	// before PublishWithDeferredConfirm is.
	n.mu.Lock()
	n.pending = append(n.pending, entry)
	n.mu.Unlock()
	confirm, err := n.ch.PublishWithDeferredConfirm(m.Exchange, m.Key, entry.mandatory, false, *p)
	n.mu.Lock()
	last := len(n.pending) - 1
	if err != nil {
		n.pending = n.pending[:last]
	} else {
		n.pending[last].confirm = confirm
	}
	n.mu.Unlock()
	if n.ch.ended() { // Outcomes may be waiting for this last one
		n.tell(n.news)
	}
	if err != nil {
		// A message of which a part is missing is none to the broker.
		return n.notSent(ctx, m.Exchange)
	}
	return nil
}

func (n *sender) tell(token chan struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

func (n *sender) waitWindow(ctx context.Context) error {
	for {
		n.mu.Lock()
		full := len(n.pending) >= n.cfg.Window
		n.mu.Unlock()
		if !full {
			return nil
		}
		select {
		case <-n.room:
		case <-n.ch.over:
			return n.notSent(ctx, "")
		case <-ctx.Done():
			return n.s.ctxError(ctx, "publish", "", driver.ErrNotSent)
		}
	}
}

// notSent is the error of a message that found the channel closed.
func (n *sender) notSent(ctx context.Context, exchange string) error {
	select {
	case <-n.ch.over:
		return failure("publish", exchange, driver.ErrNotSent, n.ch.err)
	case <-ctx.Done():
		return n.s.ctxError(ctx, "publish", exchange, driver.ErrNotSent)
	}
}

// Outcomes implements driver.Sender.
func (n *sender) Outcomes(ctx context.Context, dst []driver.Receipt) (int, error) {
	for {
		over := false
		select {
		case <-n.ch.over:
			over = true
		default:
		}
		count, left := n.collect(dst, over)
		switch {
		case count > 0:
			n.tell(n.room)
			return count, nil
		case over && left == 0:
			n.forget()
			return 0, at("publish", "", n.ch.err)
		case over: // one is just being written, or dst has no room
			if len(dst) == 0 {
				return 0, nil
			}
		}
		if err := n.wait(ctx, over); err != nil {
			return 0, err
		}
	}
}

// wait returns when looking again may be worth while.
func (n *sender) wait(ctx context.Context, over bool) error {
	ended := n.ch.over
	if over {
		ended = nil
	}
	select {
	case <-n.news:
	case <-ended:
	case <-ctx.Done():
		return n.s.ctxError(ctx, "publish", "", driver.ErrUncertain)
	}
	return nil
}

// collect moves answered messages to dst. The confirms are read before the
// returns, which come first: so each confirm seen has its return here too.
func (n *sender) collect(dst []driver.Receipt, over bool) (count, left int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var answered []int
	for i := range n.pending {
		if len(answered) == len(dst) {
			break
		}
		if n.answered(&n.pending[i], over) {
			answered = append(answered, i)
		}
	}
	n.markReturned()
	if over && !n.judged {
		n.judge()
		n.judged = true
	}
	kept := n.pending[:0]
	for i := range n.pending {
		m := n.pending[i]
		if count == len(answered) || answered[count] != i {
			kept = append(kept, m)
			continue
		}
		dst[count] = driver.Receipt{Seq: m.seq, Err: m.outcome()}
		count++
	}
	clear(n.pending[len(kept):])
	n.pending = kept
	return count, len(kept)
}

// answered says whether the outcome of m is known. When the channel closes
// amqp091 calls everything open refused, and does so before over is closed:
// such an answer counts only while the channel stands or after it is over.
func (n *sender) answered(m *sent, over bool) bool {
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
	n.forget()
	if n.ch.ended() {
		return nil
	}
	return n.s.call(ctx, "close sender", "", n.ch.Close)
}

const maxExpiration = math.MaxUint32 * time.Millisecond // RabbitMQ's

// encode makes an AMQP message of m and says how many bytes it takes on the
// wire. What amqp091 or the broker would end a channel or the connection over
// is refused here.
func (s *session) encode(m *driver.Outgoing) (*amqp091.Publishing, int, error) {
	invalid := func(err error) error { return failure("publish", m.Exchange, driver.ErrInvalid, err) }
	p := &m.Props
	headers, tableSize, err := fromHeaders(p.Headers)
	if err != nil {
		return nil, 0, invalid(fmt.Errorf("header %w", err))
	}
	if user := s.connector.cfg.User; p.UserID != "" && p.UserID != user && s.connector.cfg.LoginMethod != "EXTERNAL" {
		return nil, 0, invalid(fmt.Errorf("user id %q is not that of the connection, %q", p.UserID, user))
	}
	if p.Expiration > maxExpiration {
		return nil, 0, invalid(fmt.Errorf("expiration %v: want at most %v", p.Expiration, maxExpiration))
	}
	out := &amqp091.Publishing{
		Headers: headers, ContentType: p.ContentType, ContentEncoding: p.ContentEncoding,
		DeliveryMode: uint8(driver.Persistent), Priority: p.Priority,
		CorrelationId: p.CorrelationID, ReplyTo: p.ReplyTo, Expiration: expirationText(p.Expiration),
		MessageId: p.MessageID, Timestamp: p.Timestamp, Type: p.Type, UserId: p.UserID, AppId: p.AppID,
		Body: m.Body,
	}
	if p.DeliveryMode == driver.Transient {
		out.DeliveryMode = uint8(driver.Transient)
	}
	size, err := s.wireSize(m, out, tableSize)
	if err != nil {
		return nil, 0, failure("publish", m.Exchange, driver.ErrTooLarge, err)
	}
	return out, size, nil
}

// expirationText is whole milliseconds, at least one: "0" means at once.
func expirationText(d time.Duration) string {
	switch {
	case d == 0:
		return ""
	case d < 0:
		return "0"
	}
	return strconv.FormatInt(max(1, d.Milliseconds()), 10)
}

const (
	frameOverhead = 8  // head and end octet
	publishFixed  = 9  // basic.publish without its names: class, method, ticket, two length octets, bits
	headerFixed   = 15 // class, weight, body size, flags; delivery mode
)

// wireSize is how many bytes the frames of a message take (AMQP 0-9-1, section
// 4.2.6). Properties that are empty are left out of the header frame.
func (s *session) wireSize(m *driver.Outgoing, p *amqp091.Publishing, tableSize int) (int, error) {
	for _, name := range []struct{ what, text string }{
		{"exchange", m.Exchange}, {"routing key", m.Key},
		{"content type", p.ContentType}, {"content encoding", p.ContentEncoding},
		{"correlation id", p.CorrelationId}, {"reply-to", p.ReplyTo},
		{"message id", p.MessageId}, {"type", p.Type}, {"user id", p.UserId}, {"app id", p.AppId},
	} {
		if len(name.text) > maxShortstr {
			return 0, fmt.Errorf("the %s has %d bytes, AMQP allows %d", name.what, len(name.text), maxShortstr)
		}
	}
	header := headerFixed
	for _, text := range []string{
		p.ContentType, p.ContentEncoding, p.CorrelationId, p.ReplyTo, p.Expiration,
		p.MessageId, p.Type, p.UserId, p.AppId,
	} {
		if text != "" {
			header += 1 + len(text)
		}
	}
	if len(p.Headers) > 0 {
		header += tableSize
	}
	if p.Priority > 0 {
		header++
	}
	if !p.Timestamp.IsZero() {
		header += 8
	}
	size := 2*frameOverhead + publishFixed + len(m.Exchange) + len(m.Key) + header + len(m.Body)
	frame := s.conn.Config.FrameSize
	if frame == 0 { // no limit agreed
		return size + frameOverhead, nil
	}
	room := frame - frameOverhead
	if header > room {
		return 0, fmt.Errorf("the properties and headers take %d bytes, one frame holds %d", header, room)
	}
	return size + (len(m.Body)+room-1)/room*frameOverhead, nil
}

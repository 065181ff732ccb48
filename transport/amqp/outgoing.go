package amqp

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

const maxExpiration = math.MaxUint32 * time.Millisecond // RabbitMQ's

// encode makes an AMQP message of m, in out, and says how many bytes it takes on
// the wire. What amqp091 or the broker would end a channel or the connection over
// is refused here.
func (s *session) encode(m *driver.Outgoing, out *amqp091.Publishing) (int, error) {
	invalid := func(err error) error { return failure("publish", m.Exchange, driver.ErrInvalid, err) }
	p := &m.Props
	headers, tableSize, err := fromHeaders(p.Headers)
	if err != nil {
		return 0, invalid(fmt.Errorf("header %w", err))
	}
	if user := s.connector.cfg.User; p.UserID != "" && p.UserID != user && s.connector.cfg.LoginMethod != "EXTERNAL" {
		return 0, invalid(fmt.Errorf("user id %q is not that of the connection, %q", p.UserID, user))
	}
	if p.Expiration > maxExpiration {
		return 0, invalid(fmt.Errorf("expiration %v: want at most %v", p.Expiration, maxExpiration))
	}
	*out = amqp091.Publishing{
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
		return 0, failure("publish", m.Exchange, driver.ErrTooLarge, err)
	}
	return size, nil
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

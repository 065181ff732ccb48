package amqp

import (
	"hash/maphash"

	amqp091 "github.com/rabbitmq/amqp091-go"
)

// RabbitMQ returns an unroutable message before it acknowledges it, and says
// of the return only what it was: no tag. So a return is matched by content
// among the unanswered messages of its channel, oldest first. Messages with
// equal content are routed alike, so either may stand for the other.

// A print is what identifies a message in a return.
type print struct {
	place   uint64 // exchange and key
	content uint64 // that, message and correlation id, and body
	headers uint64 // those of the message; RabbitMQ strips BCC before it routes
}

func printOf(seed maphash.Seed, exchange, key, messageID, correlationID string, headers amqp091.Table, body []byte) print {
	var h maphash.Hash
	h.SetSeed(seed)
	add := func(s string) {
		h.WriteString(s)
		h.WriteByte(0)
	}
	add(exchange)
	add(key)
	p := print{place: h.Sum64(), headers: hashTable(seed, headers)}
	add(messageID)
	add(correlationID)
	h.Write(body)
	p.content = h.Sum64()
	return p
}

// markReturned notes for each return that has come in which message it was.
// s.mu is held; the channel is filled by amqp091 and never waited for.
func (s *sender) markReturned() {
	for {
		select {
		case r, ok := <-s.returns:
			if !ok {
				s.returns = nil // the channel is over
				continue
			}
			p := printOf(s.seed, r.Exchange, r.RoutingKey, r.MessageId, r.CorrelationId, r.Headers, r.Body)
			s.markMatch(p, r.ReplyText)
		default:
			return
		}
	}
}

// markMatch falls back on less exact matches, because a return that belongs to
// nobody would let an unroutable message pass for delivered.
func (s *sender) markMatch(p print, why string) {
	for _, same := range []func(q print) bool{
		func(q print) bool { return q == p },
		func(q print) bool { return q.content == p.content },
		func(q print) bool { return q.place == p.place },
	} {
		for i := range s.pending {
			if m := &s.pending[i]; m.mandatory && m.returned == "" && same(m.print) {
				m.returned = why
				return
			}
		}
	}
}

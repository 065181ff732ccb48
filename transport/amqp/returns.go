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

// returns is what came back on one channel and has not been matched yet. Its
// goroutine takes it from amqp091, which drops a return that nobody takes for 5 s:
// the message would pass for delivered. A channel with room for a return of each
// unanswered message would take a megabyte.
type returns struct {
	in   chan amqp091.Return   // without room: amqp091 reads on when the return is in the list
	out  chan []amqp091.Return // the list, whenever somebody wants it
	over chan struct{}         // closed after last is set
	last []amqp091.Return
}

func newReturns() *returns {
	return &returns{in: make(chan amqp091.Return), out: make(chan []amqp091.Return), over: make(chan struct{})}
}

// keep runs until the channel is over.
func (t *returns) keep() {
	var list []amqp091.Return
	for {
		select {
		case r, ok := <-t.in:
			if !ok {
				t.last = list
				close(t.over)
				return
			}
			list = append(list, r)
		case t.out <- list:
			list = nil
		}
	}
}

// take returns what has come back since it was called last; one goroutine at a
// time may. What amqp091 had read before an answer is in it.
func (t *returns) take() (list []amqp091.Return) {
	select {
	case list = <-t.out:
	case <-t.over:
		list, t.last = t.last, nil
	}
	return list
}

// markReturned notes for each return in which message it was. s.mu is held.
func (s *sender) markReturned(list []amqp091.Return) {
	for i := range list {
		r := &list[i]
		p := printOf(s.seed, r.Exchange, r.RoutingKey, r.MessageId, r.CorrelationId, r.Headers, r.Body)
		s.markMatch(p, r.ReplyText)
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

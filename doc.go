// Package gombu sends and receives messages over any broker: one model
// (exchange, queue, binding, producer, consumer, message) and one API over
// RabbitMQ, Redis and memory, speaking the wire formats of Python's Kombu.
//
// # Model
//
// A Conn is a supervised connection: Open parses a URL and dials nothing, the
// first call that needs the broker does, and from then on one goroutine keeps a
// session alive and puts back what was declared. Producers publish through it,
// Consumers take from queues, and one Conn serves any number of goroutines.
// Where Kombu has a Channel, there is none here: a Producer is a publish
// channel, a Run is a consume channel.
//
// Entities (Exchange, Queue, Binding, Topology) are plain structs whose zero
// values are the safe ones: durable, persistent, confirmed, mandatory.
//
// # Delivery
//
// Publish returns nil when the broker has the message, in at least one queue
// when it is mandatory. Any other outcome is an error that says whether it can
// be repeated: ErrNotSent yes, ErrUncertain at the price of a duplicate.
//
// A message is delivered at least once. A Handler's nil acknowledges it; after
// an error or a panic, and a back-off, it gets another attempt; Reject, Drop and
// Retry choose otherwise. An attempt is the start of a handler, counted before
// it, so that one which ends the process counts too. After MaxAttempts the
// message moves to gombu.dead.<queue>, as does at once what cannot be decoded.
// Nothing is dropped by default.
//
// Stopping is ordered: no new deliveries; what has not begun is given back;
// handlers finish within their grace, then their contexts end; settles and
// publishes are flushed; sockets are closed.
//
// # Errors
//
// errors.Is(err, gombu.ErrNotFound) and its like work the same on every
// transport, and errors.As reaches the client library's own error. A call that
// ends by its context returns an error that is both the context's cause and the
// kind. Retryable says what can be repeated.
//
// # Transports
//
// A transport registers its URL schemes when it is imported:
//
//	import _ "github.com/gombu/gombu/transport/amqp"
//
// What a transport does not keep of what is declared is said once in the log,
// or refused with Config.Strict.
package gombu

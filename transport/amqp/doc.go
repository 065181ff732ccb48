// Package amqp is the transport to RabbitMQ, and to other brokers that speak
// AMQP 0-9-1 with publisher confirms, by github.com/rabbitmq/amqp091-go. That
// library's own recovery is off: a session never reconnects.
//
// # URL
//
//	amqp://user:password@host:5672/vhost?option=value
//	amqps://…  TLS, port 5671     pyamqp://…  the same as amqp
//
// Parts are percent-decoded. Missing ones are guest, guest, localhost (dialed
// as 127.0.0.1) and "/"; an empty path, "/" and "//" all name the virtual host
// "/". Options: connect_timeout (5 s), heartbeat (10 s; 0 turns it off),
// login_method (PLAIN, AMQPLAIN, EXTERNAL), frame_max, channel_max,
// write_timeout (10 s), management, ssl, ssl_cert_reqs, ssl_ca_certs,
// ssl_certfile, ssl_keyfile, ssl_check_hostname, server_hostname. Certificates
// and host names are verified unless these say otherwise. An unknown option is
// an error.
//
// # Mapping
//
// A session is a TCP connection. A Sender is a channel in confirm mode; a
// Receiver is a channel with one consumer and its own basic.qos. Declarations
// and questions use one more channel, opened again whenever an error closed it,
// and exchange types that plugins add a connection of their own, because
// RabbitMQ closes the connection over a type that it does not know. A question
// that is not answered in its caller's time keeps its channel until it is, at
// most 8 of them, and the next one opens another.
//
// So a gombu.Conn has two connections, one to publish and one for the rest. The
// first has a channel for confirmed messages and one for others, however many
// Producers there are; the second has one for questions, one for each queue that
// is consumed, and one more for a queue once a message of it had to be moved to
// its retry queue. Exchanges
// called "" or amq.* are never declared; an exclusive queue is declared
// auto-delete; other names and arguments go out as they are. Requeue and
// Release are basic.nack with requeue, Reject is basic.reject without. Whole
// numbers in headers are sent in 32 bits where they fit and else in 64, and
// come back as int64; times come back in whole seconds, UTC; an AMQP decimal
// stays an amqp091.Decimal; a table has no order. A
// consumer without acknowledgement is one that acknowledges as it hands out,
// so that its prefetch bounds memory.
//
// # Guarantees
//
// A confirmed message is on the broker; an unroutable one is ErrUnroutable, by
// matching the broker's return to the message. An error about one message (its
// exchange is missing, access is refused, it is too large for the broker)
// closes its channel: that message gets the error, those before it ErrUncertain
// unless they were answered, those behind it ErrNotSent; when all have their
// outcome the Sender opens another channel and goes on. When the link goes, a
// message is ErrUncertain if a byte of it was given to the socket, else
// ErrNotSent. Order is kept per queue and Sender. Higher Priority is sooner, on queues declared
// with x-max-priority. A session is lost when the broker is silent for one and
// a half heartbeats, or reads nothing for WriteTimeout and has not said that it
// is blocked.
//
// # Limits
//
// Properties and headers together must fit one frame (128 KiB by default), a
// name 255 bytes; else ErrTooLarge. The broker's own limit for a body is 128 MiB
// by default (max_message_size). What quorum queues count is deliveries, classic
// ones nothing; handler starts are counted by the core, which pulls copies from
// a retry queue (OpenPuller: one more channel). There is no
// delay. A delivery that is not settled in the broker's acknowledgement timeout
// (consumer_timeout in its configuration, 30 min by default; from RabbitMQ 3.12
// also x-consumer-timeout in Queue.Args) is taken back: its handler's context
// ends with ErrLeaseLost, and its consumer starts again; no other feels it. A
// binding cannot be checked. Properties.Extra has no place on the wire
// and is left out, as is an empty header table and priority 0, which Kombu
// sends: its readers take them as given. A user id other than the connection's
// is ErrInvalid. An ack is not confirmed: Settle returns when it is on its way, and
// one that the link takes along is redelivered. Sizes of queues are without what is unacknowledged, except in
// Queues. After a change of the prefetch as many deliveries as were unsettled
// then may wait in memory beyond it; on a quorum queue as many as the prefetch
// before, until that many were here at once. Whether a queue is one is known
// when this Conn declared it with x-queue-type, or when it redelivered; a change
// on one that is not known for it can redeliver. A quorum queue that RabbitMQ
// 3.10 made less than half a second before its process died has no leader
// afterwards, and answers nothing. py-amqp reads a number below -2147483648 in a header as one above
// zero. Heartbeat 0 leaves a half-open link undetected.
package amqp

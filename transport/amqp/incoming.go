package amqp

import (
	"strconv"
	"time"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// incoming takes over d: its memory is in's then. The mark tells the receiver's
// claims from those of another.
func incoming(in *driver.Incoming, queue, mark string, d *amqp091.Delivery) {
	*in = driver.Incoming{
		Tag:         driver.Tag{ID: d.DeliveryTag, Ref: mark},
		Queue:       queue,
		ConsumerTag: d.ConsumerTag,
		Exchange:    d.Exchange,
		Key:         d.RoutingKey,
		Redelivered: d.Redelivered,
		Body:        d.Body,
		Props: driver.Properties{
			ContentType: d.ContentType, ContentEncoding: d.ContentEncoding,
			MessageID: d.MessageId, CorrelationID: d.CorrelationId, ReplyTo: d.ReplyTo,
			Type: d.Type, AppID: d.AppId, UserID: d.UserId,
			Expiration: parseExpiration(d.Expiration),
			Priority:   d.Priority, DeliveryMode: driver.DeliveryMode(d.DeliveryMode),
			Headers: toHeaders(d.Headers),
		},
	}
	if !d.Timestamp.IsZero() {
		in.Props.Timestamp = d.Timestamp.UTC()
	}
	switch n, ok := wholeNumber(d.Headers["x-delivery-count"]); {
	case ok && d.Redelivered: // by a quorum queue: how often it came back
		in.Attempt = int(n) + 1
	case !d.Redelivered:
		in.Attempt = 1
	}
}

// parseExpiration reads what expirationText wrote; RabbitMQ lets no other text
// pass.
func parseExpiration(s string) time.Duration {
	if s == "" {
		return 0
	}
	ms, err := strconv.ParseInt(s, 10, 64)
	switch {
	case err != nil || ms < 0:
		return 0
	case ms == 0:
		return -1
	}
	return time.Duration(ms) * time.Millisecond
}

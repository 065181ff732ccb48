package growth

import (
	"context"
	"errors"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gombu/gombu"
)

// consumeRaw has an idle consumer of amqp091-go's: a channel, and a goroutine that
// waits for deliveries.
func consumeRaw(c *amqp.Connection, queue string) error {
	ch, err := c.Channel()
	if err != nil {
		return err
	}
	if err := ch.Qos(32, 0, false); err != nil {
		return err
	}
	deliveries, err := ch.Consume(queue, "", false, false, false, false, nil)
	if err != nil {
		return err
	}
	go func() { // until the connection is closed
		for range deliveries {
		}
	}()
	return nil
}

// channels is what one idle consumer of amqp091-go's takes, of many on a
// connection; the queues are those of consumers.
func (c *Config) channels(ctx context.Context, b *broker, declares *gombu.Conn) (grown float64, err error) {
	queues := names(c.Many + 1)
	if err := b.declared(ctx, declares, queues); err != nil {
		return 0, err
	}
	conn, err := amqp.Dial(b.s.URL())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := consumeRaw(conn, queues[0]); err != nil {
		return 0, err
	}
	before := inUse()
	for _, q := range queues[1:] {
		if err := consumeRaw(conn, q); err != nil {
			return 0, err
		}
	}
	err = pause(ctx, 200*time.Millisecond) // as consumers does
	return (inUse() - before) / float64(c.Many), err
}

// links is what two connections of amqp091-go's take, one that publishes with
// confirms and one that consumes; of some.
func (c *Config) links(ctx context.Context, url string) (grown float64, err error) {
	n := max(10, c.Many/10)
	before := inUse()
	var all []*amqp.Connection
	defer func() {
		for _, conn := range all {
			err = errors.Join(err, conn.Close())
		}
	}()
	for _, q := range names(n) {
		for range 2 {
			conn, err := amqp.Dial(url)
			if err != nil {
				return 0, err
			}
			all = append(all, conn)
		}
		if err := consumeRaw(all[len(all)-1], q); err != nil {
			return 0, err
		}
		ch, err := all[len(all)-2].Channel()
		if err != nil {
			return 0, err
		}
		if err := ch.Confirm(false); err != nil {
			return 0, err
		}
	}
	err = pause(ctx, 200*time.Millisecond)
	return (inUse() - before) / float64(n), err
}

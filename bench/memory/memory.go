// Package memory has what Gombu's memory transport is compared with: a channel
// with a codec, which is the least there is, and rivals' pub/subs.
package memory

import (
	"context"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/ThreeDotsLabs/watermill/pubsub/gochannel"
	"gocloud.dev/pubsub"
	"gocloud.dev/pubsub/mempubsub"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/loop"
)

// channel is a Go channel.
type channel chan []byte

func dialChannel(context.Context, contender.Job) (loop.Peer, error) {
	return make(channel, contender.Backlog), nil
}

func (channel) Close() {}

// Publish implements loop.Peer.
func (c channel) Publish(ctx context.Context, src *loop.Source) error {
	for src.Next(ctx, 1) > 0 {
		body, err := src.Body()
		if err != nil {
			return err
		}
		select {
		case c <- body:
		case <-ctx.Done():
			return nil
		}
	}
	return nil
}

// Consume implements loop.Peer.
func (c channel) Consume(ctx context.Context, dst *loop.Sink) error {
	for {
		select {
		case body := <-c:
			if err := dst.Handle(body); err != nil {
				return err
			}
			dst.Done(1)
		case <-ctx.Done():
			return nil
		}
	}
}

// gochan is watermill's gochannel with one subscription.
type gochan struct {
	topic string
	ps    *gochannel.GoChannel
	in    <-chan *message.Message
}

func dialGochan(_ context.Context, job contender.Job) (loop.Peer, error) {
	ps := gochannel.NewGoChannel(gochannel.Config{OutputChannelBuffer: contender.Backlog}, watermill.NopLogger{})
	in, err := ps.Subscribe(context.Background(), job.Queues[0]) // Close ends it
	return &gochan{job.Queues[0], ps, in}, err
}

func (g *gochan) Close() { _ = g.ps.Close() } // it holds nothing else

// Publish implements loop.Peer.
func (g *gochan) Publish(ctx context.Context, src *loop.Source) error {
	for src.Next(ctx, 1) > 0 {
		body, err := src.Body()
		if err != nil {
			return err
		}
		if err := g.ps.Publish(g.topic, message.NewMessage(watermill.NewUUID(), body)); err != nil {
			return err
		}
	}
	return nil
}

// Consume implements loop.Peer.
func (g *gochan) Consume(ctx context.Context, dst *loop.Sink) error {
	for {
		select {
		case m := <-g.in:
			if err := dst.Handle(m.Payload); err != nil {
				return err
			}
			m.Ack()
			dst.Done(1)
		case <-ctx.Done():
			return nil
		}
	}
}

// cloud is gocloud's mempubsub.
type cloud struct {
	topic *pubsub.Topic
	sub   *pubsub.Subscription
}

func dialCloud(context.Context, contender.Job) (loop.Peer, error) {
	topic := mempubsub.NewTopic()
	return &cloud{topic, mempubsub.NewSubscription(topic, time.Minute)}, nil
}

func (c *cloud) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), loop.Linger)
	defer cancel()
	_ = c.topic.Shutdown(ctx) // what is under way no longer counts
	_ = c.sub.Shutdown(ctx)
}

// Publish implements loop.Peer.
func (c *cloud) Publish(ctx context.Context, src *loop.Source) error {
	for src.Next(ctx, 1) > 0 {
		body, err := src.Body()
		if err != nil {
			return err
		}
		if err := c.topic.Send(ctx, &pubsub.Message{Body: body}); err != nil {
			return err
		}
	}
	return nil
}

// Consume implements loop.Peer.
func (c *cloud) Consume(ctx context.Context, dst *loop.Sink) error {
	for {
		m, err := c.sub.Receive(ctx)
		if err != nil {
			return err
		}
		if err := dst.Handle(m.Body); err != nil {
			return err
		}
		m.Ack()
		dst.Done(1)
	}
}

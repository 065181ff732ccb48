package redis

import (
	"context"
	"sync"

	"github.com/ThreeDotsLabs/watermill"
	"github.com/ThreeDotsLabs/watermill-redisstream/pkg/redisstream"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/hibiken/asynq"
	"github.com/redis/go-redis/v9"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/loop"
)

// stream is watermill on a Redis stream with a consumer group.
type stream struct {
	job    contender.Job
	client *redis.Client
	pub    *redisstream.Publisher
}

func dialStream(ctx context.Context, job contender.Job) (loop.Peer, error) {
	c, err := dialGoRedis(ctx, job.URL)
	if err != nil {
		return nil, err
	}
	pub, err := redisstream.NewPublisher(redisstream.PublisherConfig{Client: c}, watermill.NopLogger{})
	return &stream{job, c, pub}, err
}

func (s *stream) Close() { _ = s.client.Close() } // all calls have returned

// Publish implements loop.Peer.
func (s *stream) Publish(ctx context.Context, src *loop.Source) error {
	for n := src.Next(ctx, src.Batch()); n > 0; n = src.Next(ctx, src.Batch()) {
		ms := make([]*message.Message, n)
		for i := range ms {
			body, err := src.Body()
			if err != nil {
				return err
			}
			ms[i] = message.NewMessageWithContext(ctx, watermill.NewUUID(), body)
		}
		if err := s.pub.Publish(s.job.Queues[0], ms...); err != nil {
			return err
		}
		src.Done(n)
	}
	return nil
}

// Consume implements loop.Peer.
func (s *stream) Consume(ctx context.Context, dst *loop.Sink) error {
	sub, err := redisstream.NewSubscriber(redisstream.SubscriberConfig{
		Client: s.client, ConsumerGroup: "bench", DisableIndefiniteInitialBlock: true,
	}, watermill.NopLogger{})
	if err != nil {
		return err
	}
	defer func() { _ = sub.Close() }() // it closes the client too, of which Close speaks
	ms, err := sub.Subscribe(ctx, s.job.Queues[0])
	if err != nil {
		return err
	}
	for m := range ms {
		if err := dst.Handle(m.Payload); err != nil {
			return err
		}
		m.Ack()
		dst.Done(1)
	}
	return ctx.Err()
}

// tasks is asynq with 64 workers.
type tasks struct {
	job    contender.Job
	opt    asynq.RedisConnOpt
	client *asynq.Client
}

func dialTasks(_ context.Context, job contender.Job) (loop.Peer, error) {
	opt, err := asynq.ParseRedisURI(job.URL)
	if err != nil {
		return nil, err
	}
	return &tasks{job, opt, asynq.NewClient(opt)}, nil
}

func (t *tasks) Close() { _ = t.client.Close() } // all calls have returned

// Publish implements loop.Peer.
func (t *tasks) Publish(ctx context.Context, src *loop.Source) error {
	for src.Next(ctx, 1) > 0 {
		body, err := src.Body()
		if err != nil {
			return err
		}
		if _, err := t.client.EnqueueContext(ctx, asynq.NewTask("bench", body), asynq.Queue(t.job.Queues[0])); err != nil {
			return err
		}
		src.Done(1)
	}
	return nil
}

// Consume implements loop.Peer. A task counts when its handler returns: when
// asynq has forgotten it, nobody is told.
func (t *tasks) Consume(ctx context.Context, dst *loop.Sink) error {
	var once sync.Once
	failed := make(chan error, 1)
	srv := asynq.NewServer(t.opt, asynq.Config{Concurrency: 64, Queues: map[string]int{t.job.Queues[0]: 1}, LogLevel: asynq.FatalLevel, ShutdownTimeout: loop.Linger})
	err := srv.Start(asynq.HandlerFunc(func(_ context.Context, task *asynq.Task) error {
		if err := dst.Handle(task.Payload()); err != nil {
			once.Do(func() { failed <- err })
			return err
		}
		dst.Done(1)
		return nil
	}))
	if err != nil {
		return err
	}
	defer srv.Shutdown()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}

// Package ours is Gombu as a contender, on every broker: the public API as a
// user would use it, with a user's defaults in all that the job leaves open.
package ours

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gombu/gombu"
	_ "github.com/gombu/gombu/transport/amqp" // the schemes
	_ "github.com/gombu/gombu/transport/memory"
	_ "github.com/gombu/gombu/transport/redis"

	"github.com/gombu/gombu/bench/contender"
)

// New returns Gombu under a name, with a configuration of its own; nil: the
// defaults. A job without URL is done in memory.
func New(name string, configure func(*gombu.Config)) contender.Contender {
	return contender.Contender{
		Name: name,
		Fill: func(ctx context.Context, job contender.Job) error {
			if job.URL == "" {
				return nil // Run's process does it
			}
			b, err := begin(ctx, job, nil, configure)
			if err != nil {
				return err
			}
			return errors.Join(b.fill(ctx), b.conn.Close())
		},
		Run: func(ctx context.Context, job contender.Job, m *contender.Meter) error {
			b, err := begin(ctx, job, m, configure)
			if err != nil {
				return err
			}
			return errors.Join(b.run(ctx), b.conn.Close())
		},
	}
}

// Fill puts job.Messages messages into the job's queues.
func Fill(ctx context.Context, job contender.Job) error { return New("", nil).Fill(ctx, job) }

// A bench is one job of Gombu's.
type bench struct {
	job  contender.Job
	m    *contender.Meter
	conn *gombu.Conn
	body contender.Body
	raw  []byte
}

func begin(ctx context.Context, job contender.Job, m *contender.Meter, configure func(*gombu.Config)) (*bench, error) {
	url := job.URL
	if url == "" {
		url = "memory://"
	}
	cfg := gombu.Config{Log: slog.New(slog.DiscardHandler)}
	if configure != nil {
		configure(&cfg)
	}
	conn, err := gombu.Open(url, &cfg)
	if err != nil {
		return nil, err
	}
	var topology gombu.Topology
	for _, q := range job.Queues {
		topology.Queues = append(topology.Queues, gombu.Queue{Name: q})
	}
	if err := conn.Declare(ctx, topology); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return &bench{job: job, m: m, conn: conn, body: contender.NewBody(job.Size), raw: contender.JSON(job.Size)}, nil
}

func (b *bench) run(ctx context.Context) error {
	switch b.job.Work {
	case contender.Publish:
		return b.publish(ctx)
	case contender.Consume:
		if b.job.URL == "" {
			if err := b.fill(ctx); err != nil {
				return err
			}
		}
		return b.consuming(ctx, false, nil, nil)
	case contender.EndToEnd:
		return b.endToEnd(ctx)
	case contender.Latency:
		return b.latency(ctx)
	case contender.Idle:
		return b.consuming(ctx, true, nil, nil)
	default:
		return fmt.Errorf("no such work: %q", b.job.Work)
	}
}

// queue is the one that the n-th message goes to.
func (b *bench) queue(n int) string { return b.job.Queues[n%len(b.job.Queues)] }

// message is the n-th message, made anew each time, as most programs do.
func (b *bench) message(n int) gombu.Message {
	m := gombu.Message{Queue: b.queue(n)}
	if !b.job.Confirm {
		m.DeliveryMode = gombu.Transient
	}
	if b.job.Raw {
		m.Body = b.raw
		return m
	}
	body := b.body
	body.Seq = int64(n)
	if b.job.Work == contender.Latency {
		body.Sent = time.Now().UnixNano()
	}
	m.Value = body
	return m
}

func (b *bench) producer() *gombu.Producer {
	if b.job.Confirm {
		return b.conn.Producer(nil) // confirmed, persistent and mandatory
	}
	return b.conn.Producer(&gombu.ProducerConfig{NoConfirm: true, Mandatory: gombu.MandatoryOff})
}

// fill is not measured: each message is confirmed, none is synced to disk.
func (b *bench) fill(ctx context.Context) error {
	b.job.Confirm = false
	p := b.conn.Producer(nil)
	w := window{ctx: ctx, size: 1000}
	for n := range b.job.Messages {
		m := b.message(n)
		if m.Body != nil {
			m.ContentType, m.ContentEncoding = "application/json", "utf-8" // for everybody
		}
		if err := w.add(p.PublishAsync(ctx, &m)); err != nil {
			return err
		}
	}
	return w.drain()
}

// consuming runs the consumers of all queues; with them, meanwhile runs once
// they stand. handle is told of each message; the meter is started and stopped here.
func (b *bench) consuming(ctx context.Context, standing bool, handle func(*gombu.Delivery) error, meanwhile func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if handle == nil {
		handle = b.handle
	}
	ks := make([]*gombu.Consumer, max(b.job.Consumers, 1))
	for i := range ks {
		ks[i] = b.conn.Consumer(gombu.ConsumerConfig{Queues: b.job.Queues, Prefetch: b.job.Prefetch, Workers: b.job.Workers})
	}
	if !standing {
		if err := b.m.Start(); err != nil {
			return err
		}
	}
	errs := make(chan error, len(ks)+1)
	var wg sync.WaitGroup
	for _, k := range ks {
		wg.Go(func() {
			errs <- k.Run(ctx, func(_ context.Context, d *gombu.Delivery) error { return handle(d) })
		})
	}
	err := func() error {
		if standing {
			for _, k := range ks {
				if err := k.Ready(ctx); err != nil {
					return err
				}
			}
			if err := b.m.Start(); err != nil {
				return err
			}
		}
		if meanwhile != nil {
			wg.Go(func() { errs <- meanwhile(ctx) })
		}
		for {
			select {
			case <-b.m.Finished():
				return b.m.Stop()
			case err := <-errs:
				if err != nil {
					return err
				}
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}()
	cancel()
	wg.Wait()
	return err
}

func (b *bench) handle(d *gombu.Delivery) error {
	if err := b.read(d); err != nil {
		return err
	}
	b.m.Add(1)
	return nil
}

// read decodes a body into a struct, unless the job says that it is bytes.
func (b *bench) read(d *gombu.Delivery) error {
	if b.job.Raw {
		_, err := d.Bytes()
		return err
	}
	var body contender.Body
	if err := d.Decode(&body); err != nil {
		return err
	}
	if b.job.Work == contender.Latency {
		b.m.Took(time.Duration(time.Now().UnixNano() - body.Sent))
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/gombutest/server"
)

// A broker is what a suite's jobs are done on.
type broker struct {
	name   string
	once   sync.Once
	err    error // of its start
	server *server.Server
	dir    string

	url  string // empty: the contender's process
	addr string
	pids []int
}

// brokers are started when they are first needed, one of each, with their
// files in folders that are gone afterwards.
type brokers map[string]*broker

func newBrokers(suites []contender.Suite) brokers {
	b := brokers{}
	for _, s := range suites {
		b[s.Broker] = &broker{name: s.Broker}
	}
	return b
}

func (b brokers) get(ctx context.Context, name string) (*broker, error) {
	k := b[name]
	k.once.Do(func() {
		if k.err = k.start(ctx); k.err != nil {
			k.err = fmt.Errorf("%s: %w", name, k.err)
		}
	})
	return k, k.err
}

func (b *broker) start(ctx context.Context) (err error) {
	if b.name == "memory" {
		return nil
	}
	if b.dir, err = os.MkdirTemp("", "gombu-bench-"); err != nil {
		return err
	}
	switch b.name {
	case "rabbitmq":
		b.server, err = server.RabbitMQ(b.dir)
	case "redis":
		b.server, err = server.Redis(b.dir, "--appendonly", "no")
	default:
		err = errors.New("no such broker")
	}
	if errors.Is(err, server.ErrMissing) {
		err = fmt.Errorf("%w: run scripts/install", err)
	}
	if err != nil {
		return err
	}
	if err := b.server.Start(ctx); err != nil {
		return err
	}
	b.url, b.addr, b.pids = b.server.URL(), b.server.Addr(), []int{b.server.Pid()}
	return nil
}

func (b brokers) close() {
	for _, k := range b {
		if k.server != nil {
			k.server.Close()
		}
		if k.dir != "" {
			_ = os.RemoveAll(k.dir) // in the temporary folder anyway
		}
	}
}

// clean deletes what a job left. It does so even when ctx is over.
func (b *broker) clean(ctx context.Context, queues []string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer cancel()
	switch b.name {
	case "rabbitmq":
		return onChannel(ctx, b.url, func(ch *amqp.Channel) error {
			for _, q := range queues {
				if _, err := ch.QueueDelete(q, false, false, false); err != nil {
					return err
				}
			}
			return nil
		})
	case "redis":
		return b.flush(ctx)
	default:
		return nil
	}
}

// flush empties the private Redis.
func (b *broker) flush(ctx context.Context) error {
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", b.addr)
	if err != nil {
		return err
	}
	defer func() { _ = c.Close() }() // it was only asked
	if d, ok := ctx.Deadline(); ok {
		_ = c.SetDeadline(d)
	}
	if _, err := io.WriteString(c, "FLUSHALL\r\n"); err != nil {
		return err
	}
	answer := make([]byte, 5)
	if _, err := io.ReadFull(c, answer); err != nil || string(answer) != "+OK\r\n" {
		return fmt.Errorf("FLUSHALL: %q %w", answer, err)
	}
	return nil
}

// holds says whether all that was counted as published is in the queues.
// Others than RabbitMQ confirm every publish, and contenders keep it elsewhere.
func (b *broker) holds(ctx context.Context, queues []string, n int) error {
	if b.name != "rabbitmq" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	return onChannel(ctx, b.url, func(ch *amqp.Channel) error {
		look := time.NewTicker(50 * time.Millisecond)
		defer look.Stop()
		for {
			found := 0
			for _, name := range queues {
				q, err := ch.QueueDeclarePassive(name, true, false, false, false, nil)
				if err != nil {
					return err
				}
				found += q.Messages
			}
			if found >= n {
				return nil
			}
			select {
			case <-look.C: // what was not confirmed may be on its way
			case <-ctx.Done():
				return fmt.Errorf("%d messages were counted, and %d are in the queue", n, found)
			}
		}
	})
}

func onChannel(ctx context.Context, url string, f func(*amqp.Channel) error) error {
	c, err := amqp.Dial(url)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer func() { stop(); _ = c.Close() }() // closed twice is no harm
	ch, err := c.Channel()
	if err != nil {
		return err
	}
	return f(ch)
}

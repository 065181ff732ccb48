package growth

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/gombutest/server"
	_ "github.com/gombu/gombu/transport/amqp" // the scheme
	"github.com/gombu/gombu/transport/memory"
	_ "github.com/gombu/gombu/transport/redis" // the scheme
)

// A broker is what is measured on.
type broker struct {
	name string
	s    *server.Server // nil: memory
	ask  *wire          // to Redis; nil: another
	used int            // queues, by their numbers, on RabbitMQ
}

// remote is RabbitMQ: it works for itself, and what it takes is not our cost.
func (b *broker) remote() bool { return b.name == "rabbitmq" }

// on starts a broker for f.
func on(ctx context.Context, name string, f func(*broker) error) error {
	b := &broker{name: name}
	if name == "memory" {
		return f(b)
	}
	dir, err := os.MkdirTemp("", "gombu-growth-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }() // in the temporary folder anyway
	if b.s, err = private(name, dir); err != nil {
		return err
	}
	defer b.s.Close()
	if err := b.s.Start(ctx); err != nil {
		return err
	}
	if b.remote() {
		return f(b)
	}
	if b.ask, err = dialWire(ctx, b.s.Addr()); err != nil {
		return err
	}
	defer b.ask.close()
	return f(b)
}

func private(name, dir string) (*server.Server, error) {
	if name == "rabbitmq" {
		return server.RabbitMQ(dir)
	}
	return server.Redis(dir, "--appendonly", "no")
}

// open makes a connection; in memory each is a broker of its own.
func (b *broker) open() (*gombu.Conn, error) {
	cfg := &gombu.Config{Log: slog.New(slog.DiscardHandler)}
	if b.s == nil {
		return gombu.New(memory.New(memory.Config{}), cfg), nil
	}
	return gombu.Open(b.s.URL(), cfg)
}

// pids are the processes whose CPU time is the broker's.
func (b *broker) pids() []int {
	if b.s == nil {
		return nil
	}
	return []int{b.s.Pid()}
}

func (b *broker) clean(ctx context.Context) error {
	switch {
	case b.s == nil:
		return nil
	case b.remote():
		return b.deleteAll(ctx)
	}
	_, err := b.command(ctx, "FLUSHALL")
	return err
}

// deleteAll deletes what measurements declared on RabbitMQ.
func (b *broker) deleteAll(ctx context.Context) error {
	t := gombu.Topology{Exchanges: []gombu.Exchange{{Name: "growth"}}}
	for _, q := range names(b.used) {
		t.Queues = append(t.Queues, gombu.Queue{Name: q})
	}
	b.used = 0
	return b.with(func(conn *gombu.Conn) error { return conn.Delete(ctx, t, nil) })
}

// commands is how often the server has processed each command, those that scripts
// call too. Asking is none.
func (b *broker) commands(ctx context.Context) (map[string]int, error) {
	text, err := b.command(ctx, "INFO", "commandstats")
	if err != nil {
		return nil, err
	}
	all := map[string]int{}
	for line := range strings.Lines(text) {
		name, rest, ok := strings.Cut(strings.TrimSpace(line), ":calls=")
		if !ok || name == "cmdstat_info" {
			continue
		}
		calls, _, _ := strings.Cut(rest, ",")
		n, err := strconv.Atoi(calls)
		if err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		all[strings.TrimPrefix(name, "cmdstat_")] = n
	}
	return all, nil
}

// command sends a command and returns its simple reply.
func (b *broker) command(ctx context.Context, args ...string) (string, error) {
	deadline := time.Now().Add(30 * time.Second)
	if d, ok := ctx.Deadline(); ok && d.Before(deadline) {
		deadline = d
	}
	if err := b.ask.SetDeadline(deadline); err != nil {
		return "", err
	}
	reply, err := b.ask.do(args...)
	if err != nil {
		err = fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return reply, err
}

// Package growth measures what Gombu costs as things become many or large:
// queues, bindings, publishers, messages that wait, bytes, consumers, idle
// connections. There are no other contenders.
package growth

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strconv"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// A Row is one figure, a line of JSON.
type Row struct {
	Table  string  `json:"table"` // "queues", "idle", ...
	Broker string  `json:"broker"`
	At     string  `json:"at"`    // "1000", "64 consumers × 20 queues"
	Value  float64 `json:"value"` // -1: it failed, Note says why
	Unit   string  `json:"unit"`
	Limit  float64 `json:"limit,omitempty"` // the most it may be; 0: it is only told
	Note   string  `json:"note,omitempty"`
}

// Met says whether the figure is there and within its limit.
func (r *Row) Met() bool { return r.Value >= 0 && (r.Limit == 0 || r.Value <= r.Limit) }

// Config says how much is done. Long and Quick return what is usual.
type Config struct {
	Rounds  int
	Window  time.Duration // of each measurement
	Flat    float64
	Brokers []string
	Only    func(broker, table string) bool // which tables; nil: all

	Queues, Bindings, Publishers, Waiting, Bytes []int

	Consumers  []int // idle ones, of
	IdleQueues []int // so many queues each
	Watch      time.Duration
	Wakes      int // messages that come to idle consumers
	Many       int // of what memory is measured
}

// Long is the whole range: some minutes.
func Long() Config {
	return Config{
		Rounds: 5, Window: 200 * time.Millisecond, Flat: 1.15, Brokers: []string{"memory", "redis", "rabbitmq"},
		Queues: []int{1, 10, 100, 1000}, Bindings: []int{1, 100, 1000, 10_000}, Publishers: []int{1, 8, 64, 1000},
		Waiting: []int{0, 1000, 100_000, 1_000_000}, Bytes: []int{1 << 10, 16 << 10, 128 << 10, 1 << 20},
		Consumers: []int{1, 8, 64}, IdleQueues: []int{1, 20}, Watch: 5 * time.Second, Wakes: 200, Many: 500,
	}
}

// Quick is the ends of the range only, with bounds that a busy machine keeps.
func Quick() Config {
	return Config{
		Rounds: 1, Window: 50 * time.Millisecond, Flat: 4, Brokers: []string{"memory", "redis", "rabbitmq"},
		Queues: []int{1, 100}, Bindings: []int{1, 1000}, Publishers: []int{1, 64},
		Waiting: []int{0, 10_000}, Bytes: []int{1 << 10, 64 << 10},
		Consumers: []int{8}, IdleQueues: []int{20}, Watch: 2 * time.Second, Wakes: 20, Many: 50,
	}
}

// Run measures everything and tells each row once it is known. It starts the
// brokers that it needs. Memory comes first, on each of them: what has been busy
// leaves stacks behind in which others find room, or none.
func Run(ctx context.Context, c Config, tell func(Row) error) error {
	// With nothing else in it, a heap of a few MB is collected a hundred times a
	// second, and the more rarely the more waits in it: that would be measured.
	ballast := make([]byte, 64<<20)
	defer runtime.KeepAlive(ballast)
	var errs []error
	for _, measure := range []func(*Config, context.Context, *broker, func(Row) error) error{(*Config).memory, (*Config).times} {
		for _, name := range c.Brokers {
			c := c
			if name == "rabbitmq" { // to declare and to fill takes longer than what is measured
				c.Rounds, c.Window = min(c.Rounds, 3), 2*c.Window
				c.Waiting = slices.DeleteFunc(slices.Clone(c.Waiting), func(n int) bool { return n > 100_000 })
			}
			if err := on(ctx, name, func(b *broker) error { return measure(&c, ctx, b, tell) }); err != nil {
				errs = append(errs, fmt.Errorf("%s: %w", name, err))
			}
		}
	}
	return errors.Join(errs...)
}

func (c *Config) memory(ctx context.Context, b *broker, tell func(Row) error) error {
	if !c.wants(b, "memory") {
		return nil
	}
	return c.footprint(ctx, b, tell)
}

func (c *Config) times(ctx context.Context, b *broker, tell func(Row) error) error {
	for _, k := range c.curves() {
		if !c.wants(b, k.name) {
			continue
		}
		if err := c.curve(ctx, b, k, tell); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	for _, part := range []struct {
		table string
		do    func(context.Context, *broker, func(Row) error) error
	}{{"start", c.start}, {"idle consumers", c.idle}, {"waiting for work", c.waiting}} {
		if !c.wants(b, part.table) {
			continue
		}
		if err := part.do(ctx, b, tell); err != nil {
			return err
		}
	}
	return nil
}

func (c *Config) wants(b *broker, table string) bool {
	return c.Only == nil || c.Only(b.name, table)
}

// A curve is one thing that grows.
type curve struct {
	name    string
	points  []int
	perByte bool // the point is a size: cost is by KiB
	measure func(ctx context.Context, b *broker, x int, length time.Duration) (contender.Figures, error)
}

func (c *Config) curves() []curve {
	return []curve{
		{"queues, publish", c.Queues, false, manyQueuesPublish},
		{"queues, publish and consume", c.Queues, false, manyQueues},
		{"bindings, direct", c.Bindings, false, manyBindings("direct")},
		{"bindings, topic", c.Bindings, false, manyBindings("topic")},
		{"publishers", c.Publishers, false, manyPublishers},
		{"waiting messages", c.Waiting, false, manyWaiting},
		{"bytes of a body", c.Bytes, true, manyBytes},
	}
}

// curve measures the points of a curve in turns. The cost is CPU time, of client
// and server, on RabbitMQ of the client, which is ours: the wall clock of a
// machine with other work says little.
func (c *Config) curve(ctx context.Context, b *broker, k curve, tell func(Row) error) error {
	costs, servers, walls := make([][]float64, len(k.points)), make([][]float64, len(k.points)), make([][]float64, len(k.points))
	failed := make([]error, len(k.points))
	for round := range c.Rounds {
		for i := range k.points {
			i = (round + i) % len(k.points)
			if failed[i] != nil || round > 0 && b.remote() && !k.perByte && k.points[i] > 1000 { // which took long to declare
				continue
			}
			once, cancel := context.WithTimeout(ctx, patience)
			f, err := k.measure(once, b, k.points[i], c.Window)
			cancel()
			if failed[i] = err; ctx.Err() != nil {
				return ctx.Err()
			}
			per := float64(max(f.Messages, 1))
			if k.perByte {
				per *= float64(k.points[i]) / 1024
			}
			cost := f.Client + f.Server
			if b.remote() {
				cost = f.Client
				servers[i] = append(servers[i], float64(f.Server.Nanoseconds())/1e3/per)
			}
			costs[i] = append(costs[i], float64(cost.Nanoseconds())/1e3/per)
			walls[i] = append(walls[i], float64(f.Elapsed.Nanoseconds())/1e3/per)
			if err := b.clean(ctx); err != nil {
				return err
			}
		}
	}
	least := 0.0
	for i, x := range k.points {
		r := Row{Table: k.name, Broker: b.name, At: strconv.Itoa(x), Value: median(costs[i]), Unit: "µs CPU/msg", Note: fmt.Sprintf("%.2f µs by the clock", median(walls[i]))}
		if k.perByte {
			r.Unit = "µs CPU/KiB"
		}
		if b.remote() {
			r.Note += fmt.Sprintf(", the server's CPU %.2f µs", median(servers[i]))
		}
		if least > 0 {
			r.Limit = c.Flat * least
		}
		switch {
		case failed[i] != nil:
			r.Value, r.Note = -1, failed[i].Error()
		case least == 0 || r.Value < least:
			least = r.Value
		}
		if err := tell(r); err != nil {
			return err
		}
	}
	return nil
}

// patience is how long a measurement may take.
const patience = 30 * time.Second

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}

// Table writes rows for people, in Markdown.
func Table(out io.Writer, rows []Row) {
	last := ""
	for i := range rows {
		r := &rows[i]
		if name := r.Broker + ": " + r.Table; name != last {
			fmt.Fprintf(out, "\n### %s\n\n| at | %s | at most | | |\n|---|---|---|---|---|\n", name, r.Unit)
			last = name
		}
		limit, verdict := "–", ""
		if r.Limit > 0 {
			limit, verdict = fmt.Sprintf("%.2f", r.Limit), "met"
		}
		if !r.Met() {
			verdict = "**missed**"
		}
		fmt.Fprintf(out, "| %s | %.2f | %s | %s | %s |\n", r.At, r.Value, limit, verdict, r.Note)
	}
}

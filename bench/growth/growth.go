// Package growth measures what Gombu costs as things become many or large:
// queues, bindings, publishers, messages that wait, bytes, consumers, idle
// connections. On memory and on Redis; there are no other contenders.
package growth

import (
	"context"
	"errors"
	"fmt"
	"io"
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
	Rounds   int
	Messages int // of each measurement
	Flat     float64
	Brokers  []string

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
		Rounds: 3, Messages: 20_000, Flat: 1.15, Brokers: []string{"memory", "redis"},
		Queues: []int{1, 10, 100, 1000}, Bindings: []int{1, 100, 1000, 10_000}, Publishers: []int{1, 8, 64, 1000},
		Waiting: []int{0, 1000, 100_000, 1_000_000}, Bytes: []int{1 << 10, 16 << 10, 128 << 10, 1 << 20},
		Consumers: []int{1, 8, 64}, IdleQueues: []int{1, 20}, Watch: 5 * time.Second, Wakes: 200, Many: 500,
	}
}

// Quick is the ends of the range only, with bounds that a busy machine keeps.
func Quick() Config {
	return Config{
		Rounds: 1, Messages: 2000, Flat: 4, Brokers: []string{"memory", "redis"},
		Queues: []int{1, 100}, Bindings: []int{1, 1000}, Publishers: []int{1, 64},
		Waiting: []int{0, 10_000}, Bytes: []int{1 << 10, 64 << 10},
		Consumers: []int{8}, IdleQueues: []int{20}, Watch: 2 * time.Second, Wakes: 20, Many: 50,
	}
}

// Run measures everything and tells each row once it is known. It starts the
// brokers that it needs.
func Run(ctx context.Context, c Config, tell func(Row) error) error {
	var errs []error
	for _, name := range c.Brokers {
		if err := on(ctx, name, func(b *broker) error { return c.broker(ctx, b, tell) }); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
	}
	return errors.Join(errs...)
}

func (c *Config) broker(ctx context.Context, b *broker, tell func(Row) error) error {
	for _, k := range c.curves() {
		if err := c.curve(ctx, b, k, tell); err != nil {
			return fmt.Errorf("%s: %w", k.name, err)
		}
	}
	for _, f := range []func(context.Context, *broker, func(Row) error) error{c.footprint, c.start, c.idle, c.waiting} {
		if err := f(ctx, b, tell); err != nil {
			return err
		}
	}
	return nil
}

// A curve is one thing that grows.
type curve struct {
	name    string
	points  []int
	perByte bool // the point is a size: cost is by KiB
	measure func(ctx context.Context, b *broker, x, n int) (contender.Figures, error)
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
// and server: the wall clock of a machine with other work says little.
func (c *Config) curve(ctx context.Context, b *broker, k curve, tell func(Row) error) error {
	costs, walls, failed := make([][]float64, len(k.points)), make([][]float64, len(k.points)), make([]error, len(k.points))
	for round := range c.Rounds {
		for i := range k.points {
			i = (round + i) % len(k.points)
			n := c.Messages
			if k.perByte { // fewer of the large ones
				n = max(50, n*k.points[0]/k.points[i])
			}
			if failed[i] != nil {
				continue
			}
			once, cancel := context.WithTimeout(ctx, patience)
			f, err := k.measure(once, b, k.points[i], n)
			cancel()
			if failed[i] = err; ctx.Err() != nil {
				return ctx.Err()
			}
			per := float64(n)
			if k.perByte {
				per *= float64(k.points[i]) / 1024
			}
			costs[i] = append(costs[i], float64((f.Client+f.Server).Nanoseconds())/1e3/per)
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

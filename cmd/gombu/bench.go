package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/cmd/gombu/internal/bench"
)

func (a *app) bench() *cobra.Command {
	var cfg bench.Config
	var asJSON bool
	var kind string
	cmd := &cobra.Command{
		Use:   "bench",
		Short: "Measure what a broker does: publish, consume, both at once, latency",
		Long: `Measure a broker from this process: how many messages a second it takes, hands out, and
does both with, and how long a message takes from publish to handler. Publishes are
confirmed, persistent and mandatory, every message is acknowledged, bodies are plain bytes.
A queue of its own is used, and deleted at the end. Without --url it runs in memory.

How Gombu compares with other libraries on the same machine is in docs/benchmarks.md.`,
		Example: "  gombu bench -u amqp://localhost\n  gombu bench -u redis://localhost --work publish --producers 64 --window 1 --json",
		Args:    exactly(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := checkBench(&cfg, kind); err != nil {
				return err
			}
			return a.runBench(cmd, cfg, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Works, "work", bench.Works(), "`WORK[,WORK]`: publish, consume, e2e, latency")
	f.IntVar(&cfg.Size, "size", 256, "`BYTES` of a body")
	f.DurationVar(&cfg.For, "for", 5*time.Second, "each work takes `DUR`; consume until all is consumed")
	f.IntVar(&cfg.Messages, "messages", 100_000, "`N` messages in the queue at most")
	f.IntVar(&cfg.Producers, "producers", 1, "`P` goroutines publish")
	f.IntVar(&cfg.Window, "window", 100, "`N` messages of a producer without an answer at once")
	f.BoolVar(&cfg.Unsafe, "fire-and-forget", false, "transient, without confirms")
	f.IntVar(&cfg.Prefetch, "prefetch", 100, "`N` messages without an acknowledgement at once")
	f.IntVar(&cfg.Workers, "workers", 1, "`N` messages are handled at once")
	f.IntVar(&cfg.Rate, "rate", 500, "latency: `N` messages a second")
	f.StringVar(&kind, "queue-type", "", "classic or quorum, on RabbitMQ")
	f.BoolVar(&asJSON, "json", false, "write the results as one JSON object")
	return cmd
}

func checkBench(cfg *bench.Config, kind string) error {
	for _, w := range cfg.Works {
		if !slices.Contains(bench.Works(), w) {
			return usage("--work %s: want %s", w, strings.Join(bench.Works(), ", "))
		}
	}
	for flag, n := range map[string]int{"size": cfg.Size, "messages": cfg.Messages, "producers": cfg.Producers,
		"window": cfg.Window, "prefetch": cfg.Prefetch, "workers": cfg.Workers, "rate": cfg.Rate} {
		if n < 1 {
			return usage("--%s %d: want at least 1", flag, n)
		}
	}
	if cfg.For <= 0 {
		return usage("--for %v: want more than 0", cfg.For)
	}
	if kind != "" {
		cfg.Args = cfg.Args.With("x-queue-type", kind)
	}
	return nil
}

func (a *app) runBench(cmd *cobra.Command, cfg bench.Config, asJSON bool) error {
	conn, err := a.open("memory://")
	if err != nil {
		return err
	}
	var tell bench.Progress
	if terminal(a.stderr) {
		tell = func(work string, published, consumed int) {
			fmt.Fprintf(a.stderr, "\r\033[K%s: published %d, consumed %d", work, published, consumed)
		}
	}
	results, err := bench.Run(cmd.Context(), conn, cfg, tell)
	if tell != nil {
		fmt.Fprint(a.stderr, "\r\033[K")
	}
	if cerr := conn.Close(); err == nil {
		err = cerr
	}
	if werr := a.printBench(conn, cfg, results, asJSON); err == nil {
		err = werr
	}
	return err
}

func (a *app) printBench(conn *gombu.Conn, cfg bench.Config, results []bench.Result, asJSON bool) error {
	if !asJSON {
		for _, r := range results {
			if _, err := fmt.Fprintln(a.stdout, r); err != nil {
				return err
			}
		}
		return nil
	}
	return json.NewEncoder(a.stdout).Encode(struct {
		Broker    string         `json:"broker"`
		Size      int            `json:"size"`
		Producers int            `json:"producers"`
		Window    int            `json:"window"`
		Confirmed bool           `json:"confirmed"`
		Prefetch  int            `json:"prefetch"`
		Workers   int            `json:"workers"`
		Results   []bench.Result `json:"results"`
	}{conn.String(), cfg.Size, cfg.Producers, cfg.Window, !cfg.Unsafe, cfg.Prefetch, cfg.Workers, results})
}

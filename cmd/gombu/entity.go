package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/gombu/gombu"
)

// entity is the flags that name an exchange, queues and the binding between.
type entity struct {
	exchange, kind, key string
	queues              []string
	transient           bool
}

func (e *entity) flags(f *pflag.FlagSet, queue string) {
	f.StringVarP(&e.exchange, "exchange", "e", "", "`EXCHANGE`")
	f.StringVar(&e.kind, "type", "", "`TYPE` of the exchange: direct, topic, fanout or headers (default direct)")
	f.StringVarP(&e.key, "routing-key", "k", "", "routing or binding `KEY`")
	f.StringSliceVarP(&e.queues, "queue", "q", nil, queue)
	f.BoolVar(&e.transient, "transient", false, "not durable; messages not persistent")
}

func (e *entity) check() error {
	switch e.kind {
	case "", gombu.Direct, gombu.Topic, gombu.Fanout, gombu.MatchHeaders:
	default:
		return usage("--type %s: want direct, topic, fanout or headers", e.kind)
	}
	if e.kind != "" && e.exchange == "" {
		return usage("--type needs --exchange")
	}
	return nil
}

// bindingKey is the key of the bindings: the one given, else the queue's name
// where the type looks at keys.
func (e *entity) bindingKey(queue string) string {
	if e.key == "" && e.kind != gombu.Fanout && e.kind != gombu.MatchHeaders {
		return queue
	}
	return e.key
}

// topology is what the flags describe.
func (e *entity) topology() gombu.Topology {
	var t gombu.Topology
	if e.exchange != "" {
		t.Exchanges = []gombu.Exchange{{Name: e.exchange, Type: e.kind, Transient: e.transient}}
	}
	for _, q := range e.queues {
		t.Queues = append(t.Queues, gombu.Queue{Name: q, Transient: e.transient})
		if e.exchange != "" {
			t.Bindings = append(t.Bindings, gombu.Binding{Exchange: e.exchange, Queue: q, Key: e.bindingKey(q)})
		}
	}
	return t
}

// ensure declares what is missing. A queue that exists stays as it is, whatever
// its arguments are, and so does an exchange whose type was not given.
func (e *entity) ensure(ctx context.Context, conn *gombu.Conn) error {
	t := e.topology()
	for i := range t.Queues {
		q := t.Queues[i]
		q.Passive = true
		err := conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{q}})
		if err != nil && !errors.Is(err, gombu.ErrNotFound) {
			return err
		}
		t.Queues[i].NoDeclare = err == nil
	}
	if e.kind == "" && len(t.Exchanges) > 0 {
		x := t.Exchanges[0]
		x.Passive = true
		if err := conn.Declare(ctx, gombu.Topology{Exchanges: []gombu.Exchange{x}}); err == nil {
			t.Exchanges = nil
		} else if !errors.Is(err, gombu.ErrNotFound) {
			return err
		}
	}
	return conn.Declare(ctx, t)
}

func (a *app) declare() *cobra.Command {
	var e entity
	cmd := &cobra.Command{
		Use:     "declare",
		Short:   "Declare an exchange, queues, and the bindings between them",
		Example: "  gombu declare -e media --type topic -q video,audio -k 'media.#'",
		Args:    exactly(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withTopology(cmd.Context(), &e, func(ctx context.Context, c *gombu.Conn, t gombu.Topology) error { return c.Declare(ctx, t) })
		},
	}
	e.flags(cmd.Flags(), "`QUEUE`[,QUEUE]")
	return cmd
}

func (a *app) delete() *cobra.Command {
	var e entity
	var cfg gombu.DeleteConfig
	var bindings bool
	cmd := &cobra.Command{
		Use:     "delete",
		Short:   "Delete queues and an exchange, or only the bindings between them",
		Example: "  gombu delete -q video\n  gombu delete -e media -q video -k media.video --bindings",
		Args:    exactly(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.withTopology(cmd.Context(), &e, func(ctx context.Context, c *gombu.Conn, t gombu.Topology) error {
				if bindings {
					return c.Delete(ctx, gombu.Topology{Bindings: t.Bindings}, &cfg)
				}
				t.Bindings = nil
				return c.Delete(ctx, t, &cfg)
			})
		},
	}
	e.flags(cmd.Flags(), "`QUEUE`[,QUEUE]")
	cmd.Flags().BoolVar(&cfg.IfUnused, "if-unused", false, "only without consumers or bindings")
	cmd.Flags().BoolVar(&cfg.IfEmpty, "if-empty", false, "only queues without messages")
	cmd.Flags().BoolVar(&bindings, "bindings", false, "only undo the bindings")
	return cmd
}

func (a *app) withTopology(ctx context.Context, e *entity, do func(context.Context, *gombu.Conn, gombu.Topology) error) error {
	if err := e.check(); err != nil {
		return err
	}
	if e.exchange == "" && len(e.queues) == 0 {
		return usage("nothing named: give --exchange or --queue")
	}
	return a.with(func(conn *gombu.Conn) error { return do(ctx, conn, e.topology()) })
}

// with opens the broker, does, and closes it; the first error counts.
func (a *app) with(do func(*gombu.Conn) error) error {
	conn, err := a.open("")
	if err != nil {
		return err
	}
	err = do(conn)
	if cerr := conn.Close(); err == nil {
		err = cerr
	}
	return err
}

func (a *app) purge() *cobra.Command {
	return &cobra.Command{
		Use:     "purge QUEUE...",
		Short:   "Drop the ready messages of queues and print their number",
		Example: "  gombu purge video",
		Args:    exactly(cobra.MinimumNArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(conn *gombu.Conn) error {
				for _, q := range args {
					n, err := conn.Purge(cmd.Context(), q)
					if err != nil {
						return err
					}
					if _, err := fmt.Fprintf(a.stdout, "%s\t%d\n", q, n); err != nil {
						return err
					}
				}
				return nil
			})
		},
	}
}

// queueLine is one queue in the output of queues --json; null is unknown.
type queueLine struct {
	Name      string `json:"name"`
	Ready     *int   `json:"ready"`
	Unacked   *int   `json:"unacked"`
	Consumers *int   `json:"consumers"`
}

func known(n int) *int {
	if n < 0 {
		return nil
	}
	return &n
}

func (a *app) queues() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "queues [QUEUE...]",
		Short: "Count what is in queues: those named, or all that the broker can list",
		Example: `  gombu queues
  gombu queues --json video audio`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.with(func(conn *gombu.Conn) error {
				infos, err := inspect(cmd.Context(), conn, args)
				if err != nil {
					return err
				}
				return a.printQueues(infos, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line; unknown numbers are null")
	return cmd
}

func inspect(ctx context.Context, conn *gombu.Conn, names []string) ([]gombu.QueueInfo, error) {
	if len(names) == 0 {
		return conn.Queues(ctx)
	}
	var infos []gombu.QueueInfo
	for _, n := range names {
		info, err := conn.Inspect(ctx, n)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

func (a *app) printQueues(infos []gombu.QueueInfo, asJSON bool) error {
	if asJSON {
		enc := json.NewEncoder(a.stdout)
		for _, q := range infos {
			if err := enc.Encode(queueLine{q.Name, known(q.Ready), known(q.Unsettled), known(q.Consumers)}); err != nil {
				return err
			}
		}
		return nil
	}
	w := tabwriter.NewWriter(a.stdout, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.Join([]string{"QUEUE", "READY", "UNACKED", "CONSUMERS"}, "\t"))
	for _, q := range infos {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", q.Name, count(q.Ready), count(q.Unsettled), count(q.Consumers))
	}
	return w.Flush()
}

func count(n int) string {
	if n < 0 {
		return "?"
	}
	return fmt.Sprint(n)
}

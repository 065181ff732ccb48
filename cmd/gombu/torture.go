package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/gombu/gombu/cmd/gombu/internal/torture"
)

func (a *app) torture() *cobra.Command {
	var cfg torture.Config
	var asJSON bool
	var consumer string
	cmd := &cobra.Command{
		Use:   "torture",
		Short: "Break something under load, and count what was lost",
		Long: `Run producers and consumers as processes of their own, break something while they
work, keep account of every message, and say what was lost, duplicated or late. The exit
status is 1 when a confirmed message was lost, or anything else went wrong that no fault
excuses.

--url redis-server: and --url rabbitmq-server: start a private broker for the run, which
may be killed; redis-server:?appendonly=no takes options of redis-server. On a broker of
your own the faults that need its process want to be told how to reach it. A queue of the
run's own is used, and deleted at the end. --fault list lists the faults.`,
		Example: `  gombu torture -u redis-server: --fault kill-broker
  gombu torture -u rabbitmq-server: --queue-type quorum --fault kill-consumer,cut --times 5
  gombu torture -u amqp://localhost --fault kill-consumers --messages 100000`,
		Args: exactly(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(cfg.Faults) == 1 && cfg.Faults[0] == "list" {
				torture.List(a.stdout)
				return nil
			}
			switch consumer {
			case "gombu":
			case "python":
				cfg.OnlyPython = true
			default:
				return usage("--consumer %s: want gombu or python", consumer)
			}
			if !cmd.Flags().Changed("seed") {
				cfg.Seed = rand.Uint64()
			}
			return a.runTorture(cmd, cfg, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringSliceVar(&cfg.Faults, "fault", nil, "`NAME`[,NAME] of what goes wrong; list lists them")
	f.IntVar(&cfg.Times, "times", 1, "`N` times each fault")
	f.IntVar(&cfg.Messages, "messages", 10_000, "`N` messages, of all producers together")
	f.IntVar(&cfg.Producers, "producers", 2, "`P` processes")
	f.IntVar(&cfg.Consumers, "consumers", 3, "`C` processes")
	f.IntVar(&cfg.Prefetch, "prefetch", 50, "unacknowledged messages of a consumer at once")
	f.IntVar(&cfg.Workers, "workers", 8, "messages that a consumer handles at once")
	f.DurationVar(&cfg.Work, "work", 0, "a handler takes `DUR`")
	f.IntVar(&cfg.Rate, "rate", 2000, "messages a second of all producers together, 0: as many as they can")
	f.IntVar(&cfg.Size, "size", 0, "`BYTES` of a body, at least")
	f.BoolVar(&cfg.Resend, "resend", false, "producers repeat what is uncertain")
	f.StringVar(&cfg.QueueType, "queue-type", "classic", "classic or quorum, on RabbitMQ")
	f.BoolVar(&cfg.WithPython, "with-python", false, "one consumer more: Python's Kombu")
	f.StringVar(&consumer, "consumer", "gombu", "gombu or python: Python's Kombu alone consumes")
	f.StringVar(&cfg.Python, "python", "/usr/bin/python3", "`PROGRAM` that has Kombu")
	f.Uint64Var(&cfg.Seed, "seed", 0, "`S` of the moments and the victims (default: another each time)")
	f.DurationVar(&cfg.For, "for", 0, "faults that last, last `DUR` (default 5s)")
	f.DurationVar(&cfg.Grace, "grace", 0, "`DUR` for handlers at the end of a consumer (default 5s)")
	f.DurationVar(&cfg.Patience, "patience", 0, "give up after `DUR` without any handling (default 1m)")
	f.StringVar(&cfg.Broker.Pid, "broker-pid", "", "`PID` of your broker, or a file that holds it")
	f.StringVar(&cfg.Broker.Start, "broker-start", "", "shell `COMMAND` that starts your broker again")
	f.StringVar(&cfg.Broker.Ctl, "rabbitmqctl", "", "shell `COMMAND` that is rabbitmqctl of your broker")
	f.StringVar(&cfg.Broker.Management, "management", "", "`URL` of your RabbitMQ's management API")
	f.BoolVar(&asJSON, "json", false, "write the result as one JSON object")
	return cmd
}

func (a *app) runTorture(cmd *cobra.Command, cfg torture.Config, asJSON bool) (err error) {
	if cfg.URL = a.broker(""); cfg.URL == "" {
		return usage("no broker: give --url, such as redis-server: or rabbitmq-server:")
	}
	if cfg.Self, err = os.Executable(); err != nil {
		return err
	}
	cfg.Log, cfg.Verbose = a.stderr, a.verbose
	result, err := torture.Run(cmd.Context(), cfg)
	if errors.Is(err, torture.ErrUsage) {
		return usageError{err}
	}
	switch {
	case result == nil:
	case asJSON:
		err = errors.Join(err, json.NewEncoder(a.stdout).Encode(result))
	default:
		_, werr := fmt.Fprint(a.stdout, result)
		err = errors.Join(err, werr)
	}
	if err == nil && len(result.Wrong) > 0 {
		return errors.New(strings.Join(result.Wrong, "; "))
	}
	return err
}

// tortureTable writes results as tables; scripts/torture calls it.
func (a *app) tortureTable() *cobra.Command {
	return &cobra.Command{
		Use: "torture-table DIRECTORY DOCUMENT", Hidden: true, Args: exactly(cobra.ExactArgs(2)),
		RunE: func(_ *cobra.Command, args []string) error { return torture.WriteTable(a.stdout, args[0], args[1]) },
	}
}

// tortureChild is what the torture runs as processes of their own.
func (a *app) tortureChild() *cobra.Command {
	return &cobra.Command{
		Use: torture.ChildCommand, Hidden: true, Args: exactly(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error {
			return torture.Child(cmd.Context(), args[0], a.stdin, a.stderr)
		},
	}
}

// Command gombu publishes, consumes and looks after queues on any broker that
// the gombu library speaks to.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/gombu/gombu"
	_ "github.com/gombu/gombu/transport/amqp"
	_ "github.com/gombu/gombu/transport/memory"
	_ "github.com/gombu/gombu/transport/redis"
)

// Exit statuses; scripts rely on them.
const (
	exitOK     = 0
	exitBroker = 1 // broker or transport error, unroutable
	exitUsage  = 2 // bad usage or bad input
	exitFewer  = 4 // fewer messages than -n before --timeout or a signal
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// run is the whole program, for main and for tests.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	a := &app{stdin: stdin, stdout: stdout, stderr: stderr}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil && !errors.Is(err, errFewer) {
		fmt.Fprintln(stderr, "gombu:", strings.TrimPrefix(err.Error(), "gombu: "))
	}
	return status(err)
}

// app is what the commands share.
type app struct {
	stdin          io.Reader
	stdout, stderr io.Writer
	url            string
	verbose        bool
}

var errFewer = errors.New("fewer messages than asked for")

// A usageError is a mistake in the command line or its input.
type usageError struct{ err error }

func (e usageError) Error() string { return e.err.Error() }
func (e usageError) Unwrap() error { return e.err }

func usage(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

func status(err error) int {
	var u usageError
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errFewer):
		return exitFewer
	case errors.As(err, &u), errors.Is(err, gombu.ErrInvalid), errors.Is(err, gombu.ErrTooLarge):
		return exitUsage
	}
	return exitBroker
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "gombu",
		Short: "Publish, consume and look after queues on any broker",
		Long: `gombu publishes, consumes and looks after queues on RabbitMQ, Redis and in memory.
The broker is given by --url or GOMBU_URL: amqp://user:password@host/vhost, redis://host/0.

Exit status: 0 done; 1 broker error or unroutable message; 2 bad usage or bad input;
4 fewer messages than -n before --timeout or a signal.`,
		Example: `  gombu demo
  gombu publish -u amqp://localhost -q video '{"name": "/tmp/lolcat1.avi"}'
  gombu consume -u amqp://localhost -q video -n 1`,
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usage("unknown command %q; see gombu --help", args[0])
			}
			return cmd.Help()
		},
		Args: cobra.ArbitraryArgs,
	}
	root.PersistentFlags().StringVarP(&a.url, "url", "u", "", "broker `URL` (default $GOMBU_URL)")
	root.PersistentFlags().BoolVarP(&a.verbose, "verbose", "v", false, "log what the library does to standard error")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })
	root.AddCommand(a.demo(), a.bench(), a.publish(), a.consume(), a.declare(), a.delete(), a.purge(), a.queues(), a.torture(), a.tortureChild(), a.tortureTable())
	return root
}

// broker is the URL of --url, of GOMBU_URL, or otherwise.
func (a *app) broker(otherwise string) string {
	return cmp.Or(a.url, os.Getenv("GOMBU_URL"), otherwise)
}

// open opens the broker of --url, of GOMBU_URL, or of otherwise.
func (a *app) open(otherwise string) (*gombu.Conn, error) {
	var cfg gombu.Config
	url := a.broker(otherwise)
	if url == "" {
		return nil, usage("no broker: give --url or set GOMBU_URL")
	}
	level := slog.LevelWarn
	if a.verbose {
		level = slog.LevelDebug
	}
	cfg.Log = slog.New(slog.NewTextHandler(a.stderr, &slog.HandlerOptions{Level: level}))
	cfg.Retry.MaxRetries = 20 // about ten seconds: a command should end
	return gombu.Open(url, &cfg)
}

// exactly wraps an argument check so that its failure is a usage error.
func exactly(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return usageError{err}
		}
		return nil
	}
}

package torture

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/gombu/gombu/gombutest/server"
	"github.com/gombu/gombu/internal/proc"
)

// A broker is what the faults do to a broker's process.
type broker interface {
	URL() string
	Management() string
	Answers(ctx context.Context) error
	Pid() int
	Kill() error
	Shutdown() error
	Pause() error
	Resume() error
	Start(ctx context.Context) error
	Ctl(ctx context.Context, args ...string) (string, error)
	Close()
}

// newBroker starts the private broker that the URL asks for, or makes do with
// what is known of the user's.
func newBroker(ctx context.Context, cfg *Config) (broker, error) {
	kind, private, err := kindOf(cfg.URL)
	if err != nil || !private {
		return &own{url: cfg.URL, kind: kind, Broker: cfg.Broker}, err
	}
	dir, err := os.MkdirTemp("", "gombu-torture-")
	if err != nil {
		return nil, err
	}
	var s *server.Server
	if kind == redis {
		args, aerr := redisOptions(cfg.URL)
		if aerr != nil {
			return nil, aerr
		}
		s, err = server.Redis(dir, args...)
	} else {
		s, err = server.RabbitMQ(dir)
	}
	if err == nil {
		fmt.Fprintf(cfg.Log, "starting a private %s\n", kind)
		if err = s.Start(ctx); err != nil {
			s.Close()
		}
	}
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return &boxed{s, dir}, nil
}

// redisOptions are those of "redis-server:?appendfsync=everysec".
func redisOptions(text string) ([]string, error) {
	_, query, _ := strings.Cut(text, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, misuse("options of %s: %w", text, err)
	}
	args := []string{"--appendonly", "yes", "--appendfsync", "always"}
	for k, v := range values {
		args = append(args, "--"+k, v[len(v)-1])
	}
	return args, nil
}

// boxed is a private broker, with the directory that it leaves behind.
type boxed struct {
	*server.Server
	dir string
}

func (b *boxed) Close() {
	b.Server.Close()
	_ = os.RemoveAll(b.dir) // of the temporary directory: the system tidies up as well
}

// own is the user's own broker.
type own struct {
	Broker
	url, kind string
}

func (o *own) URL() string        { return o.url }
func (o *own) Management() string { return o.Broker.Management }
func (o *own) Close()             {}

func (o *own) Answers(ctx context.Context) error {
	u, err := url.Parse(o.url)
	if err != nil {
		return err
	}
	if u.Port() == "" {
		u.Host += map[string]string{rabbitmq: ":5672", redis: ":6379"}[o.kind]
	}
	if o.kind == redis {
		return server.AnswersRedis(ctx, u.Host)
	}
	return server.AnswersAMQP(ctx, u.Host)
}

func (o *own) Pid() int {
	if n, err := strconv.Atoi(o.Broker.Pid); err == nil {
		return n
	}
	b, err := os.ReadFile(o.Broker.Pid)
	if err != nil {
		return 0
	}
	n, _ := strconv.Atoi(string(bytes.TrimSpace(b)))
	return n
}

func (o *own) Kill() error     { return o.end(proc.Kill, 10*time.Second) }
func (o *own) Shutdown() error { return o.end(proc.Interrupt, time.Minute) }
func (o *own) Pause() error    { return proc.Stop(o.Pid()) }
func (o *own) Resume() error   { return proc.Continue(o.Pid()) }

func (o *own) end(how func(int) error, within time.Duration) error {
	pid := o.Pid()
	if err := how(pid); err != nil {
		return fmt.Errorf("the broker's process %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	return until(ctx, "the broker to end", func() bool { return !proc.Alive(pid) })
}

func (o *own) Start(ctx context.Context) error {
	c := exec.CommandContext(ctx, "/bin/sh", "-c", o.Broker.Start+" &")
	proc.Apart(c)
	if err := c.Run(); err != nil { // its output goes nowhere: it outlives this call
		return fmt.Errorf("%s: %w", o.Broker.Start, err)
	}
	return until(ctx, "the broker to answer", func() bool { return o.Answers(ctx) == nil })
}

func (o *own) Ctl(ctx context.Context, args ...string) (string, error) {
	c := exec.CommandContext(ctx, "/bin/sh", append([]string{"-c", o.Broker.Ctl + ` "$@"`, "rabbitmqctl"}, args...)...)
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("rabbitmqctl %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return string(out), nil
}

// until waits for a condition, as long as the run has patience.
func (r *run) until(ctx context.Context, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeoutCause(ctx, r.cfg.Patience, fmt.Errorf("not in %v", r.cfg.Patience))
	defer cancel()
	return until(ctx, what, ok)
}

// until waits for a condition.
func until(ctx context.Context, what string, ok func() bool) error {
	look := time.NewTicker(5 * time.Millisecond)
	defer look.Stop()
	for !ok() {
		select {
		case <-look.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
	return nil
}

// pause waits; false when ctx ended first.
func pause(ctx context.Context, d time.Duration) bool {
	if d < time.Millisecond/2 { // a timer is no finer
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

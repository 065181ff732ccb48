// Package torture runs producers and consumers against a broker, breaks
// something, and keeps account of every message: what gombu torture does.
package torture

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"
)

// Config says what to torture, and how. Self, URL and Faults must be set; zero
// values of the rest are the defaults that are given.
type Config struct {
	// URL of the broker, or "redis-server:" or "rabbitmq-server:" for a private
	// one that is started for the run; after a "?" come options of redis-server.
	URL       string
	QueueType string // RabbitMQ: classic or quorum; empty: classic
	Faults    []string
	Times     int // each fault; 0: 1

	Messages, Producers, Consumers int           // 0: 10 000, 2, 3
	Prefetch, Workers              int           // of a consumer; 0: 50, 8
	Work                           time.Duration // a handler takes; 0: none
	Size                           int           // bytes of a body, at least
	Rate                           int           // messages a second of all producers; 0: as fast as they can
	Resend                         bool          // producers repeat what is uncertain
	WithPython                     bool          // one consumer more, of Python's Kombu
	OnlyPython                     bool          // all consumers are Python's Kombu
	Python                         string        // its interpreter; empty: /usr/bin/python3

	Seed     uint64        // of the moments and victims
	For      time.Duration // what lasts, lasts so long; 0: 5 s
	Grace    time.Duration // of consumers; 0: 5 s
	Patience time.Duration // without any handling, until the run is given up; 0: 60 s

	Broker Broker // of a URL that is no private one

	Self    string    // the program to run again
	Log     io.Writer // what happens, a line each; nil: nowhere
	Verbose bool      // and what the children log
}

// lasting is how long faults last that do, unless the user says otherwise.
const lasting = 5 * time.Second

// Broker says how to reach a broker's process, for the faults that need it.
type Broker struct {
	Pid        string // its number, or a file that holds it
	Start      string // a shell command that starts it again
	Ctl        string // rabbitmqctl, with its arguments and environment, for the shell
	Management string // base URL of RabbitMQ's management API, with user and password
}

// ErrUsage: the Config cannot be.
var ErrUsage = errors.New("bad usage")

func misuse(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrUsage, fmt.Errorf(format, args...))
}

// The kinds of broker.
const (
	memory   = "memory"
	rabbitmq = "rabbitmq"
	redis    = "redis"
)

// Kinds are the kinds of broker, in the order of tables.
var Kinds = []string{memory, rabbitmq, redis}

// kindOf is the kind of a URL's broker, and whether it is a private one.
func kindOf(url string) (kind string, private bool, err error) {
	scheme, _, _ := strings.Cut(url, ":")
	switch scheme {
	case "memory":
		return memory, false, nil
	case "amqp", "amqps", "pyamqp":
		return rabbitmq, false, nil
	case "redis", "rediss":
		return redis, false, nil
	case "rabbitmq-server":
		return rabbitmq, true, nil
	case "redis-server":
		return redis, true, nil
	}
	return "", false, misuse("cannot torture %q: want redis-server: or rabbitmq-server: for a private broker, or memory://, amqp:// or redis://", scheme+":")
}

func (c *Config) withDefaults() (Config, error) {
	f := *c
	f.QueueType = cmp.Or(f.QueueType, "classic")
	f.Times = cmp.Or(f.Times, 1)
	f.Messages = cmp.Or(f.Messages, 10_000)
	f.Producers = cmp.Or(f.Producers, 2)
	f.Consumers = cmp.Or(f.Consumers, 3)
	f.Prefetch = cmp.Or(f.Prefetch, 50)
	f.Workers = cmp.Or(f.Workers, 8)
	f.For = cmp.Or(f.For, lasting)
	f.Grace = cmp.Or(f.Grace, 5*time.Second)
	f.Patience = cmp.Or(f.Patience, time.Minute)
	f.Python = cmp.Or(f.Python, "/usr/bin/python3")
	if f.Log == nil {
		f.Log = io.Discard
	}
	kind, _, err := kindOf(f.URL)
	switch {
	case err != nil:
		return f, err
	case f.QueueType != "classic" && f.QueueType != "quorum":
		return f, misuse("queue type %q: want classic or quorum", f.QueueType)
	case f.QueueType == "quorum" && kind != rabbitmq:
		return f, misuse("quorum queues are RabbitMQ's")
	case f.Messages < f.Producers*10:
		return f, misuse("%d messages are too few for %d producers: want ten of each", f.Messages, f.Producers)
	case f.Producers < 1 || f.Consumers < 1 || f.Workers < 1 || f.Times < 1 || f.Prefetch < 1 || f.Prefetch > 65535 || f.Rate < 0:
		return f, misuse("producers, consumers, workers, times: want at least 1; prefetch: 1 to 65535; rate: at least 0")
	case (f.WithPython || f.OnlyPython) && kind == memory:
		return f, misuse("Python cannot reach the memory of this process")
	}
	if f.WithPython || f.OnlyPython {
		if _, err := os.Stat(f.Python); err != nil {
			return f, misuse("no Python: %w", err)
		}
	}
	for _, name := range f.Faults {
		if err := usable(name, kind, &f); err != nil {
			return f, err
		}
	}
	return f, nil
}

// quietLog is the library's log in this process.
func (c *Config) quietLog() *slog.Logger {
	if !c.Verbose {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(c.Log, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// usable says why a fault cannot be had here.
func usable(name, kind string, c *Config) error {
	i := slices.IndexFunc(faults, func(f fault) bool { return f.name == name })
	if i < 0 {
		return misuse("no fault %q: see gombu torture --fault list", name)
	}
	f := &faults[i]
	if why := f.not(kind); why != "" {
		return misuse("fault %s: n/a on %s: %s", name, kind, why)
	}
	_, private, _ := kindOf(c.URL)
	if private {
		return nil
	}
	for _, n := range []struct {
		need        need
		given, flag string
	}{
		{needPid, c.Broker.Pid, "--broker-pid"}, {needStart, c.Broker.Start, "--broker-start"},
		{needCtl, c.Broker.Ctl, "--rabbitmqctl"}, {needManagement, c.Broker.Management, "--management"},
	} {
		if f.needs&n.need != 0 && n.given == "" {
			return misuse("fault %s does to the broker what cannot be done by its URL: give %s, or let a private one be started with --url %s-server:", name, n.flag, kind)
		}
	}
	return nil
}

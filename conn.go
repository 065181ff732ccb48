package gombu

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/gombu/gombu/codec"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
)

// Config configures a Conn. The zero value, and a nil *Config, are the defaults.
// It is copied by Open and New.
type Config struct {
	// Dial holds what a transport that dials understands: connect timeout,
	// heartbeat, login method, TLS, client properties, password function. Open
	// hands it to the transport, where the URL's own options win; New ignores it.
	Dial driver.DialConfig
	// Retry is how the supervisor waits between connects, first and later ones.
	Retry RetryPolicy
	// Shuffle tries the alternates of a URL in random order instead of in turn.
	Shuffle bool
	// Grace is how long Close and a stopping Run wait for handlers. 0: 10 s.
	Grace time.Duration
	// Strict turns the warning that a transport does not keep something that
	// was declared or asked for into ErrUnsupported.
	Strict bool
	// MaxBody bounds bodies in bytes, published and decompressed. 0: 128 MiB.
	MaxBody int
	// MaxPending bounds the messages that were published and not yet answered
	// by the broker; Publish waits for room. 0: 4096.
	MaxPending int
	// Codecs are the serializers and compressions. nil: codec.New().
	Codecs *codec.Registry
	// Log receives warnings. nil: slog.Default().
	Log *slog.Logger
	// OnEvent is told of the connection's events, one at a time on a goroutine
	// of its own; of those that it is too slow for, the oldest are dropped. It
	// may call any method of the Conn. nil: none.
	OnEvent func(Event)
}

// A Conn is a supervised connection to one broker. It is safe for use by any
// number of goroutines, and one is enough for a program: it opens a documented
// number of sockets (see the transport), reconnects for ever, and puts back
// what it declared. It is what Kombu's Connection, pools and ensure are.
type Conn struct {
	cfg     Config
	to      []driver.Connector
	feature driver.Features
	log     *slog.Logger
	codecs  *codec.Registry

	consume *link // declares, consumes, settles
	publish *link // == consume unless the transport splits roles
	topo    topology
	hooks   hooks
	warned  sync.Map // text of each warning that was given

	ctx  context.Context // ends when the last step of Shutdown begins
	stop context.CancelCauseFunc
	wg   sync.WaitGroup // supervisors, lanes, hooks

	mu       sync.Mutex
	lanes    map[driver.SenderConfig]*lane // by what is asked of their senders
	flushed  bool                          // the lanes are closed, and so are new ones
	runs     map[*run]struct{}
	closing  bool
	shutdown chan struct{} // closed when Shutdown is complete
}

// Open makes a Conn to a URL: transport, user, host and virtual host as in
// Kombu, alternates separated by ";". It parses and checks, and dials nothing;
// the first call that needs the broker does. Errors are ErrInvalid and name
// what is wrong, never a password (wire: golden/urls.json).
func Open(url string, cfg *Config) (*Conn, error) {
	var d driver.DialConfig
	if cfg != nil {
		d = cfg.Dial
	}
	to, err := dsn.Open(url, d)
	if err != nil {
		return nil, err
	}
	for _, other := range to[1:] {
		if !reflect.DeepEqual(other.Features(), to[0].Features()) {
			return nil, &Error{Op: "open", Entity: other.String(), Kind: ErrInvalid, Err: errors.New("alternates must be of one transport")}
		}
	}
	return newConn(to, cfg), nil
}

// New makes a Conn to a connector, such as one of a transport's New. It dials
// nothing and starts no goroutine before its first use.
func New(to driver.Connector, cfg *Config) *Conn {
	return newConn([]driver.Connector{to}, cfg)
}

func newConn(to []driver.Connector, cfg *Config) *Conn {
	c := &Conn{to: to, feature: to[0].Features(), runs: map[*run]struct{}{}, lanes: map[driver.SenderConfig]*lane{}, shutdown: make(chan struct{})}
	if cfg != nil {
		c.cfg = *cfg
	}
	c.cfg.Grace = cmp.Or(c.cfg.Grace, 10*time.Second)
	c.cfg.MaxBody = cmp.Or(c.cfg.MaxBody, driver.MaxBodyDefault)
	if c.cfg.MaxPending <= 0 {
		c.cfg.MaxPending = 4096
	}
	if c.log = c.cfg.Log; c.log == nil {
		c.log = slog.Default()
	}
	if c.codecs = c.cfg.Codecs; c.codecs == nil {
		c.codecs = codec.New()
	}
	if c.cfg.Shuffle {
		rand.Shuffle(len(c.to), func(i, j int) { c.to[i], c.to[j] = c.to[j], c.to[i] })
	}
	// The one context of gombu that is not a caller's: a Conn outlives the call
	// that made it.
	c.ctx, c.stop = context.WithCancelCause(context.Background())
	c.hooks.c = c
	c.topo.init()
	c.consume = newLink(c, driver.Both)
	c.publish = c.consume
	if c.feature.SplitRoles {
		c.consume.role = driver.Consume
		c.publish = newLink(c, driver.Publish)
	}
	return c
}

// String is the URL, or the URLs, with secrets masked.
func (c *Conn) String() string {
	names := make([]string, len(c.to))
	for i, to := range c.to {
		names[i] = to.String()
	}
	return strings.Join(names, ";")
}

// Ready waits until there is a session with the broker. On ctx's end the error
// is its cause, ErrUnavailable and the last failure to connect; wrong
// credentials (ErrDenied) and a missing virtual host (ErrNotFound) end it at
// once as long as there never was a session.
func (c *Conn) Ready(ctx context.Context) error {
	_, err := c.consume.get(ctx, "ready")
	return err
}

// Shutdown stops in order: no new deliveries; handlers finish, and when ctx is
// nearly over their contexts end; what was not started is given back; settles
// and pending publishes are flushed; sockets are closed by ctx's end. It
// returns nil, or what could not be completed: ErrAbandoned for handlers that
// ignored their context, ErrUncertain for publishes without an answer. Further
// calls wait for the first one. A handler must not wait for it: it would wait
// for itself.
func (c *Conn) Shutdown(ctx context.Context) error {
	c.mu.Lock()
	first := !c.closing
	c.closing = true
	runs := make([]*run, 0, len(c.runs))
	for r := range c.runs {
		runs = append(runs, r)
	}
	c.mu.Unlock()
	if !first {
		select {
		case <-c.shutdown:
			return nil
		case <-ctx.Done():
			return ended(ctx, "shutdown", "", ErrClosed)
		}
	}
	defer close(c.shutdown)
	var errs []error
	for _, r := range runs {
		r.shutdown(ctx)
	}
	for _, r := range runs {
		errs = append(errs, r.wait(ctx))
	}
	for _, l := range c.allLanes(false) {
		errs = append(errs, l.flush(ctx, nil))
	}
	c.stop(ErrClosed)
	for _, l := range c.allLanes(true) {
		l.close()
	}
	errs = append(errs, c.consume.close(ctx))
	if c.publish != c.consume {
		errs = append(errs, c.publish.close(ctx))
	}
	c.hooks.close()
	done := make(chan struct{})
	c.hooks.detached.Go(func() { c.wg.Wait(); close(done) })
	select {
	case <-done:
	case <-ctx.Done():
		errs = append(errs, ended(ctx, "shutdown", "", ErrAbandoned))
	}
	return errors.Join(errs...)
}

// Close is Shutdown within Config.Grace.
func (c *Conn) Close() error {
	ctx, cancel := context.WithTimeoutCause(context.Background(), c.cfg.Grace, fmt.Errorf("grace of %v is over", c.cfg.Grace))
	defer cancel()
	return c.Shutdown(ctx)
}

// register enters a run, so that Shutdown finds it.
func (c *Conn) register(r *run) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closing {
		return &Error{Op: "run", Kind: ErrClosed}
	}
	c.runs[r] = struct{}{}
	return nil
}

func (c *Conn) unregister(r *run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.runs, r)
}

// warn says once what an operator should know; with Config.Strict it is an error.
func (c *Conn) unsupported(op, entity, what string) error {
	err := &Error{Op: op, Transport: c.scheme(), Entity: entity, Kind: ErrUnsupported, Err: errors.New(what)}
	if c.cfg.Strict {
		return err
	}
	if _, said := c.warned.LoadOrStore(what, true); !said {
		c.log.Warn("gombu: not kept by this transport", "transport", c.scheme(), "entity", entity, "what", what)
		c.hooks.send(Event{Kind: driver.Warning, Entity: entity, Detail: what})
	}
	return nil
}

func (c *Conn) scheme() string {
	s, _, _ := strings.Cut(c.to[0].String(), ":")
	return s
}

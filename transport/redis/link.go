package redis

import (
	"context"
	"crypto/tls"
	"errors"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/lean"
)

// A link is one connection under rueidis. It is dialed once: rueidis would
// reconnect in silence, but tracked keys and subscriptions end with the
// connection that made them, and what it owed an answer must be known.
type link struct {
	net.Conn
	socket net.Conn // under TLS, if any: closing that one never waits for the peer
	client rueidis.Client
	asked  atomic.Bool  // a ping is under way, see store.ping
	moved  atomic.Int64 // bytes read and written: whether the server is alive
	addr   string       // where it leads
	epoch  int64        // of the sentinels' view that named it

	byTurns bool // whoever sends a command reads the answer: one goroutine at a time

	mu     sync.Mutex
	broken error
	lost   func(error) // told once, when the connection breaks
}

func (l *link) Read(p []byte) (int, error) {
	n, err := l.Conn.Read(p)
	l.moved.Add(int64(n))
	if err != nil {
		l.fail(err)
	}
	return n, err
}

func (l *link) Write(p []byte) (int, error) {
	n, err := l.Conn.Write(p)
	l.moved.Add(int64(n))
	if err != nil {
		l.fail(err)
	}
	return n, err
}

func (l *link) fail(err error) {
	l.mu.Lock()
	first := l.broken == nil
	if first {
		l.broken = err
	}
	lost := l.lost
	l.mu.Unlock()
	if first && lost != nil {
		lost(err)
	}
}

// watch sets who is told of the end; at once when it has come already.
func (l *link) watch(lost func(error)) {
	l.mu.Lock()
	l.lost = lost
	err := l.broken
	l.mu.Unlock()
	if err != nil {
		lost(err)
	}
}

// hangUp closes the socket, at once.
func (l *link) hangUp() { _ = l.socket.Close() }

// shut hangs up first, so that rueidis does not wait for a server that is
// silent, and then waits for rueidis.
func (l *link) shut() {
	l.hangUp()
	l.client.Close()
}

var errOneLink = errors.New("the session's connection is lost")

// dial opens a connection to the server, to the master that the sentinels name
// or to the node that has the queue's slot, and logs in, all under ctx. onKeys is told of tracked keys that changed
// (nil: of all of them), from rueidis's reader.
func dial(ctx context.Context, c *Config, onKeys func([]rueidis.RedisMessage)) (*link, error) {
	switch {
	case c.cluster != nil:
		return c.cluster.dialSlot(ctx, c, onKeys)
	case len(c.Sentinels) > 0:
		return dialMaster(ctx, c, onKeys)
	}
	return dialOne(ctx, c, onKeys)
}

func dialOne(ctx context.Context, c *Config, onKeys func([]rueidis.RedisMessage)) (*link, error) {
	password := c.Pass
	if c.Password != nil {
		var err error
		if password, err = c.Password(ctx); err != nil {
			return nil, connectError(ctx, c, err)
		}
	}
	l := &link{addr: c.where(), byTurns: c.byTurns}
	var err error
	if l.Conn, l.socket, err = dialSocket(ctx, c); err != nil {
		return nil, connectError(ctx, c, err)
	}
	stop := context.AfterFunc(ctx, l.hangUp)
	defer stop()

	var used atomic.Bool
	option := rueidis.ClientOption{
		InitAddress: []string{c.Addr},
		DialCtxFn: func(context.Context, string, *net.Dialer, *tls.Config) (net.Conn, error) {
			if used.Swap(true) {
				return nil, errOneLink
			}
			return l, nil
		},
		Username: c.User, Password: password, ClientName: c.ClientName, SelectDB: c.DB,
		ClientSetInfo:     rueidis.DisableClientSetInfo,
		ForceSingleClient: true, PipelineMultiplex: -1, // one connection
		AlwaysPipelining: true, // read at all times: a lost link is noticed at once
		DisableRetry:     true, DisableCache: true, OnInvalidations: onKeys,
		Dialer:              net.Dialer{KeepAlive: -1, Timeout: c.ConnectTimeout}, // no pings of its own: see beat
		RingScaleEachConn:   ringScale,
		BlockingPipeline:    math.MaxInt, // rueidis would dial again for a long pipeline
		ReadBufferEachConn:  64 << 10,
		WriteBufferEachConn: 64 << 10,
	}
	if c.byTurns {
		option.AlwaysPipelining, option.RingScaleEachConn = false, 1
		option.ReadBufferEachConn = 4 << 10 // numbers
		option.ConnWriteTimeout = -1        // see store.ping
	}
	l.client, err = rueidis.NewClient(option)
	if err != nil {
		l.hangUp()
		if l.client != nil {
			l.client.Close()
		}
		return nil, connectError(ctx, c, err)
	}
	return l, nil
}

// ringScale makes rueidis's queue hold 2^10 commands; a full one would block
// without regard for a context, so that a session lets fewer in (see inFlight).
const (
	ringScale = 10
	inFlight  = 512
)

func dialSocket(ctx context.Context, c *Config) (conn, socket net.Conn, err error) {
	network, addr := "tcp", c.Addr
	if c.Socket != "" {
		network, addr = "unix", c.Socket
	}
	open := c.Dial
	if open == nil {
		open = lean.Dial
	}
	socket, err = open(ctx, network, addr)
	if err != nil || !c.Secure {
		return socket, socket, err
	}
	config := &tls.Config{}
	if c.TLS != nil {
		config = c.TLS.Clone()
	}
	if config.ServerName == "" {
		if config.ServerName, _, err = net.SplitHostPort(addr); err != nil {
			config.ServerName = addr
		}
	}
	secure := tls.Client(socket, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		_ = socket.Close()
		return nil, nil, err
	}
	return secure, socket, nil
}

// connectError says why there is no session: ErrDenied and ErrNotFound (no such
// database) need a change of configuration, ErrUnavailable only time.
func connectError(ctx context.Context, c *Config, err error) error {
	kind := driver.ErrUnavailable
	if re, ok := rueidis.IsRedisErr(err); ok {
		kind = redisKind(re)
		if errorCode(re) == "ERR" && isAbout(re, "db index") {
			kind = driver.ErrNotFound
		}
	} else if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	return &driver.Error{Op: "connect", Transport: Scheme, Entity: c.where(), Kind: kind, Err: err}
}

// silentFor is how long l may be owed an answer without a byte moving; 0: for ever.
func silentFor(c *Config) time.Duration { return max(c.Heartbeat, 0) }

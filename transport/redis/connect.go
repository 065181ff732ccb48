package redis

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
)

var (
	errFenced = errors.New("this session is fenced: another process took its claims over, because it was silent for longer than its lease, or the server lost its keys")
	errOwner  = errors.New("an owner of this id exists or existed: ids may not be used twice")
	errSilent = errors.New("the server owes an answer and is silent")
)

// connect opens a session and starts its goroutines.
func connect(ctx context.Context, c *Config, env driver.Env) (*store, error) {
	s, err := greeted(ctx, c, env)
	if err == nil {
		s.loops.Go(s.beat)
		if s.claims {
			s.loops.Go(s.sweeper)
		}
		if len(c.Sentinels) > 0 {
			s.loops.Go(s.follow)
		}
	}
	return s, err
}

// greeted opens a connection, logs in, checks the server and registers an owner
// that consumes as alive.
func greeted(ctx context.Context, c *Config, env driver.Env) (*store, error) {
	ctx, cancel := context.WithTimeout(ctx, c.ConnectTimeout)
	defer cancel()
	if env.Owner == "" {
		env.Owner = rand.Text()
	}
	s := &store{
		cfg: c, keys: newKeys(c), env: env, claims: env.Role != driver.Publish, relinks: env.Role == driver.Consume,
		longest: longest, born: time.Now(), beaten: make(chan struct{}), broken: make(chan struct{}, 1), hasten: make(chan struct{}, 1),
		done: make(chan struct{}), stop: make(chan struct{}), gone: make(chan struct{}), slots: make(chan struct{}, inFlight), jobs: make(chan func()), ticked: make(chan tickReport, 1), taking: make(chan struct{}, 1),
		own: map[string]*ownList{}, wants: map[string][]*ownList{}, warned: map[string]bool{}, outlets: map[*outlet]struct{}{},
	}
	s.track.init()
	s.ctx, s.cancel = context.WithCancelCause(context.WithoutCancel(ctx))
	var err error
	if s.link, err = dial(ctx, c, s.track.changed); err != nil {
		s.cancel(err)
		return nil, err
	}
	s.build = s.link.client.B()
	s.fix()
	s.fanout.init(s)
	first := s.link
	first.watch(func(err error) { s.lostLink(first, err) })
	stop := context.AfterFunc(ctx, func() { s.end(connectError(ctx, c, context.Cause(ctx))) })
	err = s.greet()
	if err == nil && s.claims {
		err = s.register()
	}
	if err != nil {
		stop()
		err = connectError(ctx, c, err)
		s.end(err)
		s.link.shut()
		return nil, err
	}
	if !stop() { // the context ended in between: the session is over before it began
		err := connectError(ctx, c, context.Cause(ctx))
		s.end(err) // the other goroutine may be about to
		s.link.shut()
		return nil, err
	}
	return s, nil
}

// greet checks what kind of server this is and asks it for tracking.
func (s *store) greet() error {
	answers := s.link.client.DoMulti(s.ctx,
		s.command("HELLO"), s.command("INFO", "server"), s.command("INFO", "memory"),
		s.command("CLIENT", "TRACKING", "ON", "OPTIN"))
	hello, err := answers[0].AsMap()
	if err != nil {
		return err
	}
	server, err := answers[1].ToString()
	if err != nil {
		return err
	}
	if err := s.checkServer(hello, server); err != nil {
		return err
	}
	if s.cfg.Secure && s.cfg.TLS != nil && s.cfg.TLS.InsecureSkipVerify && s.cfg.TLS.VerifyConnection == nil {
		s.env.Log.Warn("redis: the server's certificate is not verified", "server", s.cfg.name())
	}
	// Without leave to use INFO memory or tracking the session works, uninformed and by polling.
	memory, _ := answers[2].ToString()
	if policy := infoField(memory, "maxmemory_policy"); policy != "" && policy != "noeviction" {
		s.warnOnce("maxmemory-policy", "the server evicts keys (maxmemory-policy "+policy+"): messages, claims and bindings may vanish; set noeviction")
	}
	tracked := answers[3].Error()
	s.track.forget()
	if s.track.on.Store(tracked == nil); tracked != nil {
		s.env.Log.Info("redis: no client tracking, claims poll", "error", tracked)
	}
	return nil
}

func (s *store) checkServer(hello map[string]rueidis.RedisMessage, server string) error {
	field := func(key string) string {
		m := hello[key]
		v, _ := m.ToString()
		return v
	}
	proto, id := hello["proto"], hello["id"]
	version := infoField(server, "redis_version")
	if n, _ := proto.AsInt64(); n < 3 || !atLeast(version, 6, 2) {
		return &driver.Error{Op: "connect", Transport: Scheme, Kind: driver.ErrUnsupported,
			Err: fmt.Errorf("redis %s: want 6.2 or later, with RESP3", version)}
	}
	wanted, instead := "standalone", "redis+cluster:// is for a cluster, sentinel:// for sentinels"
	if s.keys.cluster {
		wanted, instead = "cluster", "redis:// is for a single server"
	}
	if mode := field("mode"); mode != "" && mode != wanted {
		return &driver.Error{Op: "connect", Transport: Scheme, Kind: driver.ErrUnsupported,
			Err: fmt.Errorf("the server runs in %s mode: %s", mode, instead)}
	}
	if role := field("role"); role != "" && role != "master" {
		return &driver.Error{Op: "connect", Transport: Scheme, Kind: driver.ErrUnavailable,
			Err: fmt.Errorf("the server is a %s", role)}
	}
	n, err := id.AsInt64()
	s.mu.Lock()
	s.run = infoField(server, "run_id") + "/" + strconv.FormatInt(n, 10)
	s.errand = errands{} // of another server, maybe
	s.mu.Unlock()
	return err
}

// register makes the alive key, which is the fence.
func (s *store) register() error {
	sent := time.Now()
	keys := []string{s.keys.alive(s.env.Owner), s.keys.owners(), s.keys.ledger(s.env.Owner)}
	n, err := s.script(registerScript, keys, []string{s.env.Owner, s.run, millis(aliveTTL(s.cfg))}).AsInt64()
	switch {
	case err != nil:
		return err
	case n == 0:
		return &driver.Error{Op: "connect", Transport: Scheme, Entity: s.env.Owner, Kind: driver.ErrConflict, Err: errOwner}
	}
	s.renewed(sent)
	return nil
}

// aliveTTL is far above the lease, because it runs by the server's clock: after
// the server was stopped for a while, nobody shall look dead (see sweeper).
func aliveTTL(c *Config) time.Duration { return max(time.Hour, 10*c.Lease) }

func millis(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 1), 10) }

func infoField(info, name string) string {
	_, rest, ok := strings.Cut("\r\n"+info, "\r\n"+name+":")
	if !ok {
		return ""
	}
	value, _, _ := strings.Cut(rest, "\r\n")
	return value
}

func atLeast(version string, major, minor int) bool {
	a, rest, _ := strings.Cut(version, ".")
	b, _, _ := strings.Cut(rest, ".")
	x, err1 := strconv.Atoi(a)
	y, err2 := strconv.Atoi(b)
	return err1 == nil && err2 == nil && (x > major || x == major && y >= minor)
}

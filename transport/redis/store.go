package redis

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// A store is one session. Its goroutines: rueidis's reader and writer, one per
// command in flight, beat (liveness, mirror, connecting again), sweeper (taking
// over), one per fan-out subscription and two for its connection's ping; Close
// waits for all of them.
type store struct {
	cfg   *Config
	keys  keys
	env   driver.Env
	build rueidis.Builder // of commands, whatever connection they go over
	fixed fixed
	link  *link  // another one after relink, which holds all slots then; elsewhere read under mu
	run   string // the server's run id and our client id there, what the alive key says; changes with link
	gen   int    // connections so far, beat's own

	longest int  // settled positions of an own list, beside twice what is open
	claims  bool // it consumes: an owner with a heartbeat
	relinks bool // it outlives its connection

	ctx    context.Context // ends with the session
	cancel context.CancelCauseFunc
	done   chan struct{}
	slots  chan struct{} // commands in flight
	jobs   chan func()   // without a buffer: taken by a goroutine that is idle
	idle   atomic.Int32  // such goroutines, maxIdle at most
	taking chan struct{} // capacity 1: see beginTaking
	wg     sync.WaitGroup
	stop   chan struct{}  // closed by Close: beat and sweeper end
	gone   chan struct{}  // closed when Close is done
	loops  sync.WaitGroup // those two

	track    tracker
	acker    acker
	fanout   fanout
	ticked   chan tickReport // from beat to sweeper, newest only
	broken   chan struct{}   // capacity 1: beat is to relink
	hasten   chan struct{}   // capacity 1: beat is not to wait
	unlisted atomic.Bool     // this owner was put back into owners by a claim
	astray   atomic.Bool     // there may be claims in own lists that are not open here

	born time.Time
	good atomic.Int64 // since born, when the last good heartbeat was sent

	mu      sync.Mutex
	err     error
	down    chan struct{}         // the connection is lost; closed when there is one again; nil while it stands
	why     error                 // it is
	beaten  chan struct{}         // closed and replaced at each good heartbeat
	closing bool                  // nothing new is started
	closed  bool                  // Close was called
	own     map[string]*ownList   // by source list
	wants   map[string][]*ownList // by queue, in the order of its steps
	errand  errands
	warned  map[string]bool
	found   map[string][]string // by owner, lists that a search has found
	outlets map[*outlet]struct{}
}

// entities are what the sessions of one connector have learnt: the one that
// publishes must know what the one that declares was told.
type entities struct {
	mu     sync.Mutex
	queues map[string]declared
	bound  map[string]struct{}            // exchanges whose bindings were seen, at most maxKnown
	mine   map[string]map[string]struct{} // members that were bound here, by exchange
}

// declared is what Create was told of a queue.
type declared struct {
	expires time.Duration // x-expires; 0: never
}

var (
	_ virtual.Store       = (*store)(nil)
	_ virtual.Router      = (*store)(nil)
	_ virtual.Broadcaster = (*store)(nil)
	_ virtual.Lister      = (*store)(nil)
	_ driver.Counter      = (*store)(nil)
	_ driver.Holder       = (*store)(nil)
)

// Info says what Redis lists can do.
func (s *store) Info() virtual.Info { return info }

var info = virtual.Info{
	Bytes:  true,
	Atomic: true,
	Queue:  driver.QueueFeatures{Requeue: true, Priority: true, Ordered: true, Durable: true, Counts: driver.CountStarts},
}

// Done is closed when the session is over.
func (s *store) Done() <-chan struct{} { return s.done }

// Err says why it is over; nil before.
func (s *store) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// end makes the session over, once. From any goroutine.
func (s *store) end(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	s.closing = true
	l := s.link
	s.mu.Unlock()
	if first {
		close(s.done)
		s.cancel(err)
		l.hangUp()
		s.fanout.hangUp()
		for _, o := range s.openOutlets() {
			o.link.hangUp()
		}
	}
}

// fenced ends the session because another process has taken its claims over.
func (s *store) fenced() error {
	s.end(&driver.Error{Op: "session", Transport: Scheme, Entity: s.env.Owner, Kind: driver.ErrLeaseLost, Err: errFenced})
	return s.Err()
}

// warnOnce tells the operator of something that would otherwise be told for
// every message.
func (s *store) warnOnce(entity, detail string) {
	s.mu.Lock()
	again := s.warned[entity] || len(s.warned) >= maxWarnings
	s.warned[entity] = true
	s.mu.Unlock()
	if !again {
		s.env.Notify(driver.Event{Kind: driver.Warning, Entity: entity, Detail: detail})
	}
}

const maxWarnings = 1000 // of a session

// spawn starts f on a goroutine that Close waits for; false when it is too late.
func (s *store) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Go(f)
	return true
}

// maxIdle is how many goroutines wait for the next command: one that is new has
// to grow its stack first, which takes longer than the command's way there.
const maxIdle = 2

// work is spawn on a goroutine that may be there already.
func (s *store) work(f func()) bool {
	select {
	case s.jobs <- f:
		return true
	default:
	}
	return s.spawn(func() {
		f()
		for s.idle.Add(1) <= maxIdle {
			select {
			case f = <-s.jobs:
				s.idle.Add(-1)
				f()
				f = nil
			case <-s.done:
				return
			}
		}
		s.idle.Add(-1)
	})
}

// call runs f, which talks to the server, on a goroutine of the session and
// waits for it under ctx; on the caller's own when ctx never ends. The goroutine is what makes a call end with its
// context: rueidis waits for room in its queue, and for a stalled socket,
// without one. When the caller has gone, late gets what f still brought.
//
// A session that outlives its connection waits until there is one, and repeats
// what may be repeated: what changes nothing (kind is ErrUnavailable), and what
// comes to the same when it is done twice.
func call[T any](ctx context.Context, s *store, op string, kind error, f func() (T, error), late func(T)) (T, error) {
	for sent := false; ; sent = true {
		v, err := callOnce(ctx, s, op, kind, f, late)
		switch {
		case errors.Is(err, errLinkLost) && (kind == driver.ErrUnavailable || idempotent[op]):
		case sent && errors.Is(err, driver.ErrNotSent):
			return v, &driver.Error{Op: op, Transport: Scheme, Kind: kind, Err: err.(*driver.Error).Err}
		default:
			return v, err
		}
	}
}

var idempotent = map[string]bool{"settle": true, "begin": true, "bind": true, "unbind": true}

// enter takes a slot while the connection stands.
func (s *store) enter(ctx context.Context, op string) error {
	for {
		if ctx.Err() != nil {
			return ended(ctx, op, driver.ErrNotSent)
		}
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			return ended(ctx, op, driver.ErrNotSent)
		case <-s.done:
			return s.notSent(op)
		}
		again := s.awaiting()
		if again == nil {
			return nil
		}
		<-s.slots
		select {
		case <-again:
		case <-ctx.Done():
		case <-s.done:
		}
	}
}

func callOnce[T any](ctx context.Context, s *store, op string, kind error, f func() (T, error), late func(T)) (T, error) {
	var zero T
	if err := s.enter(ctx, op); err != nil {
		return zero, err
	}
	run := func() (T, error) {
		v, err := f()
		if _, answered := rueidis.IsRedisErr(err); err != nil && !answered && s.awaiting() != nil {
			err = errors.Join(errLinkLost, err)
		}
		return v, err
	}
	if ctx.Done() == nil { // nobody leaves before the answer
		defer func() { <-s.slots }()
		v, err := run()
		return v, s.failed(op, "", kind, err)
	}
	type answer struct {
		v   T
		err error
	}
	answers, gone := make(chan answer), make(chan struct{})
	started := s.work(func() {
		v, err := run()
		select {
		case answers <- answer{v, err}:
		case <-gone:
			if late != nil && err == nil {
				late(v)
			}
		}
		<-s.slots // last: Close counts on it
	})
	if !started {
		<-s.slots
		return zero, s.notSent(op)
	}
	select {
	case a := <-answers:
		return a.v, s.failed(op, "", kind, a.err)
	case <-ctx.Done():
		close(gone)
		return zero, ended(ctx, op, kind)
	}
}

func (s *store) notSent(op string) error {
	err := s.Err()
	if err == nil {
		err = driver.ErrClosed
	}
	return &driver.Error{Op: op, Transport: Scheme, Kind: driver.ErrNotSent, Err: err}
}

// command builds one command; keys have their prefix already.
func (s *store) command(args ...string) rueidis.Completed {
	return s.build.Arbitrary(args...).Build()
}

// fixed are commands that are sent again and again. fence and known are those of
// take.
type fixed struct {
	multi, exec, caching, fence, known rueidis.Completed
}

func (s *store) fix() {
	s.fixed = fixed{
		multi: s.command("MULTI").Pin(), exec: s.command("EXEC").Pin(), caching: s.command("CLIENT", "CACHING", "YES").Pin(),
		fence: s.command("GET", s.keys.alive(s.env.Owner)).Pin(),
		known: s.command("ZADD", s.keys.owners(), "NX", "0", s.env.Owner).Pin(),
	}
}

// multi runs commands in one transaction and returns what each answered. Under
// the session's context; for use inside call.
func (s *store) multi(cmds ...rueidis.Completed) ([]rueidis.RedisMessage, error) {
	answers, _, err := s.multiAnd(cmds, nil)
	return answers, err
}

// multiAnd is multi with more commands behind the transaction, in the same
// round trip, and their answers.
func (s *store) multiAnd(cmds, more []rueidis.Completed) ([]rueidis.RedisMessage, []rueidis.RedisResult, error) {
	all := make([]rueidis.Completed, 0, len(cmds)+2+len(more))
	all = append(append(append(all, s.fixed.multi), cmds...), s.fixed.exec)
	results := s.link.client.DoMulti(s.ctx, append(all, more...)...)
	end := len(cmds) + 2
	answers, err := execAnswer(results[:end])
	return answers, results[end:], err
}

// execAnswer finds what EXEC answered; when the transaction was refused, the
// reason stands in an answer before it.
func execAnswer(answers []rueidis.RedisResult) ([]rueidis.RedisMessage, error) {
	out, err := answers[len(answers)-1].ToArray()
	if err == nil {
		return out, nil
	}
	for _, a := range answers {
		if e := a.Error(); e != nil {
			return nil, e
		}
	}
	return nil, err
}

// redisError lets nil answers pass: they are answers.
func redisError(err error) error {
	if rueidis.IsRedisNil(err) {
		return nil
	}
	return err
}

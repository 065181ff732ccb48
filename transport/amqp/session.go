package amqp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// A session is one TCP connection. Its goroutines: the flusher, one that
// watches the connection, one that watches each channel, one pump per
// consumer, and one for each call that waits for the broker. All of them end
// when the socket is closed, and Close waits for them.
type session struct {
	connector *connector
	env       driver.Env
	link      *link
	conn      *amqp091.Connection
	apart     bool // opened for one risky step, see applyApart

	wg      sync.WaitGroup
	done    chan struct{} // closed after err is set
	closed  chan struct{} // closed when Close has waited for all
	blocked atomic.Bool

	turn    chan struct{} // holds a token while scratch is in use
	scratch *channel      // for Apply, Inspect, Purge; owned by whom turn is
	hung    chan struct{} // holds a token for each former scratch channel that waits for its answer

	mu       sync.Mutex
	err      error
	closing  bool
	channels int
	kinds    map[string]string // x-queue-type of queues declared here
}

func newSession(c *connector, env driver.Env, l *link) *session {
	s := &session{
		connector: c, env: env, link: l,
		done: make(chan struct{}), closed: make(chan struct{}),
		turn:  make(chan struct{}, 1),
		hung:  make(chan struct{}, maxHung),
		kinds: map[string]string{},
	}
	s.wg.Go(l.flush)
	return s
}

// watch follows the connection's own news until it is over.
func (s *session) watch() {
	closes := s.conn.NotifyClose(make(chan *amqp091.Error, 1))
	blocks := s.conn.NotifyBlocked(make(chan amqp091.Blocking, 8))
	s.wg.Go(func() {
		for {
			select {
			case b, ok := <-blocks:
				if !ok {
					blocks = nil // closing: the reason follows
					continue
				}
				s.setBlocked(b)
			case e := <-closes:
				s.finish(s.reason(e))
				return
			}
		}
	})
}

func (s *session) setBlocked(b amqp091.Blocking) {
	s.blocked.Store(b.Active)
	s.link.setBlocked(b.Active)
	kind := driver.Unblocked
	if b.Active {
		kind = driver.Blocked
	}
	s.env.Notify(driver.Event{Kind: kind, Detail: b.Reason})
}

// reason is why the connection is over; e is nil after a close in order.
func (s *session) reason(e *amqp091.Error) error {
	s.mu.Lock()
	closing := s.closing
	s.mu.Unlock()
	switch {
	case closing || e == nil:
		return failure("", "", driver.ErrClosed, nil)
	case e.Server:
		return brokerError("", "", e)
	}
	if cut := s.link.failed(); cut != nil && !errors.Is(cut, net.ErrClosed) {
		return failure("", "", driver.ErrUnavailable, fmt.Errorf("the link was lost: %w", cut))
	}
	return failure("", "", driver.ErrUnavailable, e)
}

// finish ends the session; the first reason stands.
func (s *session) finish(err error) {
	s.mu.Lock()
	first := s.err == nil
	if first {
		s.err = err
	}
	s.mu.Unlock()
	if first {
		s.link.end(err)
		close(s.done)
	}
}

func (s *session) Done() <-chan struct{} { return s.done }

func (s *session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close says goodbye to the broker, which by then has taken all that was
// written, and closes the socket; by ctx's end the socket alone.
func (s *session) Close(ctx context.Context) error {
	s.mu.Lock()
	again := s.closing
	s.closing = true
	s.mu.Unlock()
	if again {
		select {
		case <-s.closed:
			return nil
		case <-ctx.Done():
			return failure("close", "", driver.ErrUnavailable, cause(ctx))
		}
	}
	var err error
	goodbye := make(chan struct{})
	s.wg.Go(func() {
		defer close(goodbye)
		_ = s.conn.Close() // a dead link is as closed as we want it
	})
	select {
	case <-goodbye:
	case <-ctx.Done():
		err = failure("close", "", driver.ErrUnavailable, cause(ctx))
	}
	s.link.end(net.ErrClosed)
	s.wg.Wait()
	close(s.closed)
	return err
}

// spawn runs f on a goroutine that Close waits for; false once it closes.
func (s *session) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return false
	}
	s.wg.Go(f)
	return true
}

// errClosed is the error of a call on a session that is over or closing.
func (s *session) errClosed(op, entity string) error {
	if err := s.Err(); err != nil {
		return at(op, entity, err)
	}
	return failure(op, entity, driver.ErrClosed, nil)
}

// ctxError is the error of a call that ended by its context.
func (s *session) ctxError(ctx context.Context, op, entity string, kind error) error {
	if s.blocked.Load() {
		kind = errors.Join(kind, driver.ErrBlocked)
	}
	return failure(op, entity, kind, cause(ctx))
}

// rpcError is the error of a call that the broker, or the end of the session,
// answered with err.
func (s *session) rpcError(ctx context.Context, op, entity string, err error) error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*amqp091.Error](err); ok && !e.Server && s.conn.IsClosed() {
		select {
		case <-s.done: // is about to have the reason
			return s.errClosed(op, entity)
		case <-ctx.Done():
		}
	}
	return brokerError(op, entity, err)
}

// call waits for f, a conversation with the broker, until ctx ends. An
// abandoned f goes on until the broker answers or the session ends.
func (s *session) call(ctx context.Context, op, entity string, f func() error) error {
	result := make(chan error, 1)
	if !s.spawn(func() { result <- f() }) {
		return s.errClosed(op, entity)
	}
	select {
	case err := <-result:
		return s.rpcError(ctx, op, entity, err)
	case <-ctx.Done():
		return s.ctxError(ctx, op, entity, driver.ErrUnavailable)
	}
}

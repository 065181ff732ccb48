package amqp

import (
	"context"
	"fmt"
	"sync/atomic"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// A channel is an AMQP channel and why it ended. Each user has its own: an
// error about one entity closes the channel that it happened on, with all
// that goes on there.
type channel struct {
	*amqp091.Channel
	s       *session
	closes  chan *amqp091.Error
	watched bool          // setup has found a goroutine that will watch
	over    chan struct{} // closed after err is set
	err     error
}

// ended is true from the first moment; over follows when the reason is known.
func (c *channel) ended() bool { return c.s.conn.IsClosed() || c.IsClosed() }

// open opens a channel and runs setup on it. When ctx ends first, whatever is
// still opened is closed again.
func (s *session) open(ctx context.Context, op, entity string, setup func(*channel) error) (*channel, error) {
	if err := s.takeChannel(op, entity); err != nil {
		return nil, err
	}
	var c *channel
	var settled atomic.Bool // by the first of: opened, given up
	opened := make(chan error, 1)
	ok := s.spawn(func() {
		ch, err := s.conn.Channel()
		if err != nil {
			s.dropChannel()
		} else {
			c = s.follow(ch)
			if err = setup(c); err != nil {
				_ = ch.Close() // what counts is why setup failed
			}
			if !c.watched {
				s.wg.Go(c.watch) // inside a spawned call: Close already waits
			}
		}
		if settled.CompareAndSwap(false, true) {
			opened <- err
		} else if err == nil {
			_ = ch.Close() // nobody wants it any more
		}
	})
	if !ok {
		s.dropChannel()
		return nil, s.errClosed(op, entity)
	}
	select {
	case err := <-opened:
		return c, s.rpcError(ctx, op, entity, err)
	case <-ctx.Done():
		if settled.CompareAndSwap(false, true) {
			return nil, s.ctxError(ctx, op, entity, driver.ErrUnavailable)
		}
		return c, s.rpcError(ctx, op, entity, <-opened)
	}
}

// takeChannel keeps a tenth of the channels back, so that the limit is met
// here with a message and not at the broker with the loss of the connection.
func (s *session) takeChannel(op, entity string) error {
	limit := int(s.conn.Config.ChannelMax) * 9 / 10
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.channels >= limit {
		return failure(op, entity, driver.ErrUnavailable, fmt.Errorf(
			"%d channels are open, 90%% of the %d that the broker allows on a connection: use fewer consumers and producer lanes, or raise channel_max on both sides",
			s.channels, s.conn.Config.ChannelMax))
	}
	s.channels++
	return nil
}

func (s *session) dropChannel() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.channels--
}

// follow has somebody, who is to call watch, told how ch ends.
func (s *session) follow(ch *amqp091.Channel) *channel {
	c := &channel{Channel: ch, s: s, over: make(chan struct{})}
	c.closes = ch.NotifyClose(make(chan *amqp091.Error, 1))
	return c
}

// watch waits for the end of c and tells the others.
func (c *channel) watch() {
	e := <-c.closes
	switch {
	case c.s.conn.IsClosed():
		<-c.s.done
		c.err = c.s.Err()
	case e == nil:
		c.err = failure("", "", driver.ErrClosed, nil)
	default:
		c.err = brokerError("", "", e)
	}
	c.s.dropChannel()
	close(c.over)
}

// maxHung bounds the scratch channels left behind with a question that the
// broker has not answered.
const maxHung = 8

// onScratch runs f on the scratch channel, which is opened again after an
// error closed it, or after ctx ended before the broker had answered: a queue
// that has no leader answers for minutes to nobody, and the others are not to
// wait for that.
func (s *session) onScratch(ctx context.Context, op, entity string, f func(*amqp091.Channel) error) error {
	select {
	case s.turn <- struct{}{}:
	case <-s.done:
		return s.errClosed(op, entity)
	case <-ctx.Done():
		return s.ctxError(ctx, op, entity, driver.ErrUnavailable)
	}
	ch := s.scratch
	var settled atomic.Bool // by the first of: answered, given up
	err := s.call(ctx, op, entity, func() (err error) {
		if ch == nil || ch.IsClosed() {
			ch, err = s.open(context.WithoutCancel(ctx), op, entity, func(*channel) error { return nil })
		}
		if err == nil {
			err = f(ch.Channel)
		}
		if settled.CompareAndSwap(false, true) {
			s.scratch = ch
			<-s.turn
			return err
		}
		if ch != nil {
			_ = ch.Close() // it has had its answer, too late
		}
		<-s.hung
		return err
	})
	if ctx.Err() == nil {
		return err
	}
	select {
	case s.hung <- struct{}{}:
	default:
		return err // no other conversation until the broker has answered one
	}
	if settled.CompareAndSwap(false, true) {
		// Two conversations on one channel would read each other's answers.
		s.scratch = nil
		<-s.turn
	} else {
		<-s.hung
	}
	return err
}

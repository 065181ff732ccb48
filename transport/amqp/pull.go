package amqp

import (
	"context"
	"math"

	"github.com/gombu/gombu/driver"
)

// OpenPuller implements driver.Puller: a receiver that has a channel and no
// consumer, and asks by basic.get (AMQP 0-9-1, section 1.8.3.10). A queue that is
// missing is ErrNotFound at once.
func (s *session) OpenPuller(ctx context.Context, queue string) (driver.Receiver, error) {
	r := s.newReceiver(driver.ReceiverConfig{Queue: queue})
	r.pulls, r.limit = true, math.MaxInt
	ch, err := s.open(ctx, "pull", queue, func(c *channel) error {
		_, err := c.QueueDeclarePassive(queue, true, false, false, false, nil)
		return err
	})
	if err != nil {
		return nil, err
	}
	r.ch = ch
	return r, nil
}

// pull asks the broker for one message, unless one is here that came too late
// for the call which asked for it.
func (r *receiver) pull(ctx context.Context, dst []driver.Incoming) (int, error) {
	if ctx.Err() != nil {
		return 0, cause(ctx)
	}
	if err := r.failed(); err != nil {
		return 0, err
	}
	if n := r.takePulled(dst); n > 0 {
		return n, nil
	}
	err := r.changing(ctx, "pull", func() error {
		d, ok, err := r.ch.Get(r.cfg.Queue, false)
		if ok {
			r.arrive(&d)
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	return r.takePulled(dst), nil
}

func (r *receiver) takePulled(dst []driver.Incoming) int {
	if r.ch.ended() {
		return 0 // the broker has it again
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.handOut(dst)
}

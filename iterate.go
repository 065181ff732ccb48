package gombu

import (
	"context"
	"errors"
	"iter"
	"sync"
)

// Deliveries ranges over what cfg's queues deliver, one at a time, until ctx
// ends or the loop is left; then what was not taken is given back. Each
// delivery must be settled (or detached) before the next turn: one that was not
// is requeued, and the next turn says so with an error and a nil delivery. An
// error that ends Run is the last one yielded. cfg.Workers is ignored.
func (c *Conn) Deliveries(ctx context.Context, cfg ConsumerConfig) iter.Seq2[*Delivery, error] {
	return func(yield func(*Delivery, error) bool) {
		cfg.Workers = 1
		ctx, stop := context.WithCancel(ctx)
		var (
			wg    sync.WaitGroup
			out   = make(chan *Delivery)
			taken = make(chan error)
			over  = make(chan error, 1)
		)
		k := c.Consumer(cfg)
		k.idle = make(chan struct{}, 1)
		wg.Go(func() {
			over <- k.Run(ctx, func(_ context.Context, d *Delivery) error {
				<-k.idle
				select {
				case out <- d:
					return <-taken
				case <-ctx.Done():
					return errUnstarted
				}
			})
		})
		defer wg.Wait()
		defer stop()
		for {
			k.idle <- struct{}{}
			select {
			case d := <-out:
				more, err := c.turn(d, yield, taken)
				if !more || err != nil && !yield(nil, err) {
					return
				}
			case err := <-over:
				if err != nil {
					yield(nil, err)
				}
				return
			}
		}
	}
}

// turn runs the loop's body for d and releases the handler that waits for it,
// also when the body panics.
func (c *Conn) turn(d *Delivery, yield func(*Delivery, error) bool, taken chan<- error) (more bool, err error) {
	defer func() {
		err = c.unsettled(d)
		taken <- err
	}()
	return yield(d, nil), nil
}

// unsettled checks that the loop's body settled its delivery.
func (c *Conn) unsettled(d *Delivery) error {
	if d.Settled() || d.state.Load() == stDetached || d.rec.src.run.cfg.NoAck || d.rec.over.Load() {
		return nil
	}
	err := &Error{Op: "deliveries", Entity: d.Queue, Kind: ErrInvalid,
		Err: errors.New("the loop moved on without settling the delivery; it was requeued")}
	return errors.Join(err, d.Requeue(d.rec.src.run.life))
}

package amqp

import (
	"context"
	"slices"

	"github.com/gombu/gombu/driver"
)

const settleSize = 21 // bytes of basic.ack, nack and reject in their frame, at most

// A settlement is one method to be written.
type settlement struct {
	tag      uint64
	outcome  driver.Outcome
	multiple bool
	items    []int // of the caller's batch
}

// Settle implements driver.Receiver. A tag that is not open never reaches the
// broker, which would close the channel over it.
func (r *receiver) Settle(ctx context.Context, batch []driver.Settlement) error {
	if len(batch) == 0 || r.cfg.NoAck {
		return nil // a delivery without acknowledgement is settled as it is
	}
	done, err := r.beginSettle(ctx, len(batch))
	if err != nil {
		return err
	}
	defer done()
	r.write(batch, r.plan(batch))
	tell(r.arrived) // there is room below the prefetch
	return nil
}

// beginSettle waits for its turn to write n settlements and for room for them.
// One at a time: a multiple ack is right only if what it covers besides its
// own was written before.
func (r *receiver) beginSettle(ctx context.Context, n int) (done func(), err error) {
	select {
	case r.settles <- struct{}{}:
	case <-ctx.Done():
		return nil, r.s.ctxError(ctx, "settle", r.cfg.Queue, driver.ErrUnavailable)
	}
	err = r.s.link.reserve(ctx, n*settleSize)
	if err != nil && ctx.Err() != nil {
		<-r.settles
		return nil, r.s.ctxError(ctx, "settle", r.cfg.Queue, driver.ErrUnavailable)
	}
	reserved := err == nil // else the link is over, and so is each claim
	return func() {
		if reserved {
			r.s.link.release(n * settleSize)
		}
		<-r.settles
	}, nil
}

// plan takes the tags of batch off the list of open ones, marks the items that
// are not on it, and returns what to write: acks in one piece as far as
// everything older is settled.
func (r *receiver) plan(batch []driver.Settlement) []settlement {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []settlement
	var acks []settlement
	for i := range batch {
		item := &batch[i]
		if item.Outcome == driver.Delay || item.Outcome > driver.Reject {
			item.Err = failure("settle", r.cfg.Queue, driver.ErrUnsupported, nil)
			continue
		}
		at, ours := slices.BinarySearch(r.open, item.Tag.ID)
		if !ours || item.Tag.Ref != r.name || r.ch.ended() {
			item.Err = failure("settle", r.cfg.Queue, driver.ErrLeaseLost, nil)
			continue
		}
		r.open = slices.Delete(r.open, at, at+1)
		one := settlement{tag: item.Tag.ID, outcome: item.Outcome, items: []int{i}}
		if one.outcome == driver.Ack {
			acks = append(acks, one)
		} else {
			out = append(out, one) // before the acks, which may cover their tags
		}
	}
	oldest := r.next
	if len(r.open) > 0 {
		oldest = r.open[0]
	}
	return append(out, merge(acks, oldest)...)
}

// merge makes one multiple ack of those below oldest, the first delivery that
// stays unsettled.
func merge(acks []settlement, oldest uint64) []settlement {
	var out []settlement
	var all settlement
	for _, a := range acks {
		if a.tag >= oldest {
			out = append(out, a)
			continue
		}
		all.tag = max(all.tag, a.tag)
		all.items = append(all.items, a.items...)
	}
	if len(all.items) > 0 {
		all.multiple = len(all.items) > 1
		out = append(out, all)
	}
	return out
}

// write writes the plan; it only copies, beginSettle made room.
func (r *receiver) write(batch []driver.Settlement, plan []settlement) {
	for _, m := range plan {
		var err error
		switch m.outcome {
		case driver.Ack:
			err = r.ch.Ack(m.tag, m.multiple)
		case driver.Reject:
			err = r.ch.Reject(m.tag, false)
		default: // Requeue and Release: AMQP knows no difference
			err = r.ch.Nack(m.tag, false, true)
		}
		if err == nil {
			continue
		}
		for _, i := range m.items {
			batch[i].Err = failure("settle", r.cfg.Queue, driver.ErrLeaseLost, err)
		}
	}
}

// takeAcked hands out deliveries and acknowledges them in the same breath.
// AMQP's own no-ack is not used: the broker would send without a limit, and
// amqp091 would keep it all in memory.
func (r *receiver) takeAcked(ctx context.Context, dst []driver.Incoming) (int, error) {
	done, err := r.beginSettle(ctx, 1)
	if err != nil {
		return 0, err
	}
	defer done()
	r.mu.Lock()
	n := r.handOut(dst)
	r.open = r.open[:0]
	r.mu.Unlock()
	if n > 0 {
		// Should this fail, the channel is over and the broker has them again.
		_ = r.ch.Ack(dst[n-1].Tag.ID, true)
	}
	return n, nil
}

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
}

// covers says whether writing m was to settle item.
func (m *settlement) covers(item *driver.Settlement) bool {
	if item.Err != nil {
		return false
	}
	return item.Tag.ID == m.tag || m.multiple && item.Outcome == driver.Ack && item.Tag.ID < m.tag
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
	r.write(batch, r.plan(batch))
	done()
	r.rouse() // there is room below the prefetch
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
// everything older is settled. Its caller has the turn to settle.
func (r *receiver) plan(batch []driver.Settlement) []settlement {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out, r.acks = r.out[:0], r.acks[:0]
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
		if item.Outcome == driver.Ack {
			r.acks = append(r.acks, item.Tag.ID)
		} else {
			// Before the acks, which may cover their tags.
			r.out = append(r.out, settlement{tag: item.Tag.ID, outcome: item.Outcome})
		}
	}
	oldest := r.next
	if len(r.open) > 0 {
		oldest = r.open[0]
	}
	r.out = merge(r.out, r.acks, oldest)
	return r.out
}

// merge appends to out one multiple ack of those below oldest, the first
// delivery that stays unsettled, and each of the others.
func merge(out []settlement, acks []uint64, oldest uint64) []settlement {
	all := settlement{outcome: driver.Ack}
	n := 0
	for _, tag := range acks {
		if tag >= oldest {
			out = append(out, settlement{tag: tag, outcome: driver.Ack})
			continue
		}
		all.tag = max(all.tag, tag)
		n++
	}
	if n > 0 {
		all.multiple = n > 1
		out = append(out, all)
	}
	return out
}

// write writes the plan; it only copies, beginSettle made room.
func (r *receiver) write(batch []driver.Settlement, plan []settlement) {
	for i := range plan {
		var err error
		m := &plan[i]
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
		for i := range batch {
			if item := &batch[i]; m.covers(item) {
				item.Err = failure("settle", r.cfg.Queue, driver.ErrLeaseLost, err)
			}
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

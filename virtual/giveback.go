package virtual

import (
	"context"
	"time"
)

// giveBack returns claims in order; nothing to do once the session is over.
// Nobody knows of them any more: what the store did not take is offered to it
// again, until it takes it or the session ends.
func (c *conn) giveBack(ctx context.Context, back []Settlement) error {
	if len(back) == 0 || c.over() {
		return nil
	}
	err := c.store.Settle(ctx, back)
	left := untaken(back, err)
	if len(left) == 0 {
		return err
	}
	c.opened.Lock()
	defer c.opened.Unlock()
	if c.closing.Load() {
		return err // the store's Close gives them back
	}
	c.owed = append(c.owed, left...)
	if !c.owing {
		c.owing = true
		c.wg.Go(c.payBack)
	}
	return err
}

// untaken are the claims that are still ours after a Settle that returned err.
func untaken(back []Settlement, err error) []Settlement {
	var left []Settlement
	for _, st := range back {
		if st.Err == nil && err == nil || isLeaseLost(st.Err) {
			continue
		}
		st.Err = nil
		left = append(left, st)
	}
	return left
}

const (
	firstPayBack = 50 * time.Millisecond
	lastPayBack  = time.Second
)

// payBack runs while claims are owed.
func (c *conn) payBack() {
	for pause := firstPayBack; ; pause = min(2*pause, lastPayBack) {
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-c.done:
		case <-c.ctx.Done():
		}
		timer.Stop()
		c.opened.Lock()
		back := c.owed
		if c.owed = nil; len(back) == 0 || c.over() || c.ctx.Err() != nil {
			c.owing = false
			c.opened.Unlock()
			return
		}
		c.opened.Unlock()
		left := untaken(back, c.store.Settle(c.ctx, back))
		c.opened.Lock()
		c.owed = append(left, c.owed...)
		c.opened.Unlock()
	}
}

package redis

import (
	"context"

	"github.com/gombu/gombu/driver"
)

// Close gives back what is claimed, in order, removes every trace of this
// owner and waits for the session's goroutines. When ctx ends first the socket
// is closed; then, and when there is no connection, another process takes over
// after the lease at the latest.
// Closing twice waits for the first.
func (s *store) Close(ctx context.Context) error {
	s.mu.Lock()
	first := !s.closed
	s.closed = true
	s.mu.Unlock()
	if !first {
		select {
		case <-s.gone:
			return nil
		case <-ctx.Done():
			return ended(ctx, "close", driver.ErrUnavailable)
		}
	}
	defer close(s.gone)
	stop := context.AfterFunc(ctx, func() { s.end(ended(ctx, "close", driver.ErrUnavailable)) })
	defer stop()
	var err error
	over := s.Err() != nil
	switch {
	case s.stopWork():
		err = s.giveBack()
	case !over && ctx.Err() != nil:
		err = ended(ctx, "close", driver.ErrUnavailable)
	}
	s.end(&driver.Error{Op: "session", Transport: Scheme, Kind: driver.ErrClosed})
	s.loops.Wait()
	s.wg.Wait()
	s.fanout.shut()
	for _, o := range s.openOutlets() {
		_ = o.Close(ctx)
	}
	s.link.shut()
	return err
}

// stopWork lets no new command in and waits for those under way; false when
// nothing can be given back, or there is nothing.
func (s *store) stopWork() bool {
	s.mu.Lock()
	s.closing = true
	s.mu.Unlock()
	close(s.stop)
	s.loops.Wait()
	for range cap(s.slots) {
		select {
		case s.slots <- struct{}{}:
		case <-s.done:
			return false
		}
	}
	return s.Err() == nil && s.claims && s.awaiting() == nil
}

// giveBack fences this owner and takes its claims over itself.
func (s *store) giveBack() error {
	err := s.link.client.Do(s.ctx, s.command("DEL", s.keys.alive(s.env.Owner))).Error()
	if err == nil {
		_, err = s.reap(s.env.Owner, false)
	}
	return s.failed("close", "", driver.ErrUnavailable, err)
}

// stopping tells long work that Close waits.
func (s *store) stopping() bool {
	select {
	case <-s.stop:
		return true
	case <-s.done:
		return true
	default:
		return false
	}
}

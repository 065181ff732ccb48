package gombu

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// RetryPolicy says how to wait between attempts. The zero value is gombu's own
// policy: the first attempt at once, then a wait of up to 100 ms, doubling to
// 1 s, with full jitter, for ever.
type RetryPolicy struct {
	// Start is the wait before the second attempt. 0: 100 ms.
	Start time.Duration
	// Step is added to the wait at each attempt, up to Max. 0: the wait doubles
	// instead, up to Max.
	Step time.Duration
	// Max bounds the wait. 0: 1 s.
	Max time.Duration
	// NoJitter waits the whole time; otherwise a random part of it.
	NoJitter bool
	// MaxRetries is how often to try again. 0: for ever; -1: never.
	MaxRetries int
	// Timeout bounds all attempts together. 0: none but the context's.
	Timeout time.Duration
	// OnError is told each failure and the wait that follows it. It is called
	// on a goroutine of the Conn and must not block; nil: none.
	OnError func(err error, wait time.Duration)
}

// KombuRetry is Kombu's reconnect policy: 2 s, growing by 2 s, to 30 s.
var KombuRetry = RetryPolicy{Start: 2 * time.Second, Step: 2 * time.Second, Max: 30 * time.Second, NoJitter: true}

// wait is the pause after n failures (n >= 1).
func (p *RetryPolicy) wait(n int) time.Duration {
	start, limit := p.Start, p.Max
	if start <= 0 {
		start = 100 * time.Millisecond
	}
	if limit <= 0 {
		limit = time.Second
	}
	d := limit
	switch {
	case p.Step > 0:
		if time.Duration(n-1) <= limit/p.Step {
			d = min(start+time.Duration(n-1)*p.Step, limit)
		}
	case n <= 30 && start<<(n-1) > 0:
		d = min(start<<(n-1), limit)
	}
	if p.NoJitter {
		return d
	}
	return rand.N(d + 1)
}

// spent says whether n retries are more than allowed.
func (p *RetryPolicy) spent(n int) bool {
	return p.MaxRetries < 0 || p.MaxRetries > 0 && n > p.MaxRetries
}

// Retryable says whether the same call may succeed later and can be repeated
// without duplicating its effect.
func Retryable(err error) bool {
	switch {
	case err == nil:
		return false
	case errors.Is(err, ErrUncertain):
		return false // it may have happened: repeating may duplicate it
	case errors.Is(err, ErrClosed), errors.Is(err, ErrInvalid), errors.Is(err, ErrUnsupported),
		errors.Is(err, ErrTooLarge), errors.Is(err, ErrDenied), errors.Is(err, ErrConflict):
		return false // the call, its arguments or its rights must change first
	case errors.Is(err, ErrSettled), errors.Is(err, ErrLeaseLost), errors.Is(err, ErrUndecodable), errors.Is(err, ErrAbandoned):
		return false // about a delivery that is over
	case errors.Is(err, ErrNotSent), errors.Is(err, ErrUnavailable), errors.Is(err, ErrBlocked):
		return true // nothing happened, and the broker may come back
	case errors.Is(err, ErrRefused):
		return true // a full queue or a broker in trouble: it said that it does not have it
	case errors.Is(err, ErrUnroutable), errors.Is(err, ErrNotFound):
		return false // until somebody declares or binds
	}
	return false
}

// ended is what a call returns when ctx is done: the context's cause and the kinds.
func ended(ctx context.Context, op, entity string, kinds ...error) error {
	cause := context.Cause(ctx)
	if err := ctx.Err(); !errors.Is(cause, err) {
		cause = errors.Join(cause, err)
	}
	kind := kinds[0]
	if len(kinds) > 1 {
		kind = errors.Join(kinds...)
	}
	return &Error{Op: op, Entity: entity, Kind: kind, Err: cause}
}

// pause waits d or until ctx is done, and says which: nil is the whole time.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

package gombu

import (
	"fmt"
	"runtime/debug"
	"time"
)

// A verdict is what a handler's error says about its delivery.
type verdict struct {
	state uint32 // stAcked: drop
	after time.Duration
	err   error
}

func (v *verdict) Error() string {
	if v.err == nil {
		return "gombu: " + map[uint32]string{stAcked: "dropped", stRejected: "rejected", stRequeued: "to be retried"}[v.state]
	}
	return v.err.Error()
}

func (v *verdict) Unwrap() error { return v.err }

// Reject, returned by a Handler, gives the message to the broker's own
// dead-lettering; a queue without one drops it. err is logged and may be nil.
func Reject(err error) error { return &verdict{state: stRejected, err: err} }

// Drop, returned by a Handler, throws the message away. err is logged and may be nil.
func Drop(err error) error { return &verdict{state: stAcked, err: err} }

// Retry, returned by a Handler, requeues the message after a while, which the
// broker keeps where it can, and the consumer otherwise: the claim then counts
// against the prefetch meanwhile. err is logged and may be nil.
func Retry(after time.Duration, err error) error {
	return &verdict{state: stRequeued, after: max(after, 0), err: err}
}

// A panicError is a handler's panic.
type panicError struct {
	value any
	stack []byte
}

func newPanic(value any) error { return &panicError{value, debug.Stack()} }

func (e *panicError) Error() string { return fmt.Sprintf("handler panicked: %v", e.value) }
func (e *panicError) Unwrap() error {
	err, _ := e.value.(error)
	return err
}

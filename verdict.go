package gombu

import (
	"fmt"
	"hash/maphash"
	"runtime/debug"
	"sync"
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

// The back-off of a failing message.
const (
	holdFirst = time.Second
	holdMost  = time.Minute
	maxFailed = 4096
)

// failures counts how often each message failed in this process, for its
// back-off: most brokers do not say. It is bounded, and forgets all when full.
type failures struct {
	mu   sync.Mutex
	seed maphash.Seed
	n    map[uint64]int
}

func (f *failures) key(d *Delivery) uint64 {
	var h maphash.Hash
	h.SetSeed(f.seed)
	h.WriteString(d.Queue)
	if d.MessageID != "" {
		h.WriteString(d.MessageID)
	} else {
		h.WriteString(d.Exchange + "\x00" + d.Key)
		h.Write(d.Body)
	}
	return h.Sum64()
}

// fail counts one more failure of d and returns how long to hold it.
func (f *failures) fail(d *Delivery) time.Duration {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.n == nil || len(f.n) >= maxFailed {
		f.n, f.seed = map[uint64]int{}, maphash.MakeSeed()
	}
	k := f.key(d)
	f.n[k]++
	return min(holdFirst<<min(f.n[k]-1, 10), holdMost)
}

// forget drops the count of a message that was handled after all.
func (f *failures) forget(d *Delivery) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.n) > 0 {
		delete(f.n, f.key(d))
	}
}

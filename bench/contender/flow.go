package contender

import "sync/atomic"

// Backlog is how many messages an EndToEnd has published and not handled, at most.
const Backlog = 1000

// A Flow keeps publishers of an EndToEnd no further ahead of its consumers than
// Backlog, so that the queue neither grows nor runs dry. Who had to wait goes on
// when half of them are handled: consumers do not wake it for every message. Any
// goroutine may use it.
type Flow struct {
	sent, done, waiting atomic.Int64
	most                int64
	wake                chan struct{}
}

// NewFlow returns a Flow.
func NewFlow() *Flow { return NewFlowOf(Backlog) }

// NewFlowOf returns a Flow of another length than Backlog; for large messages.
func NewFlowOf(most int) *Flow { return &Flow{most: int64(most), wake: make(chan struct{}, 1)} }

// Take is called before each publish. It says false when m is over.
func (f *Flow) Take(m *Meter) bool {
	f.sent.Add(1)
	if f.ahead() <= f.most {
		return !m.Over()
	}
	f.waiting.Add(1)
	defer f.waiting.Add(-1)
	for f.ahead() > f.most/2 {
		select {
		case <-f.wake:
		case <-m.Finished():
			return false
		}
	}
	f.nudge() // the next one
	return !m.Over()
}

// Done is called after n messages were handled.
func (f *Flow) Done(n int) {
	f.done.Add(int64(n))
	if f.waiting.Load() > 0 && f.ahead() <= f.most/2 {
		f.nudge()
	}
}

// ahead is how many are published and not handled.
func (f *Flow) ahead() int64 { return f.sent.Load() - f.waiting.Load() - f.done.Load() }

func (f *Flow) nudge() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

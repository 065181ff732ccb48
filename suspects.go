package gombu

import (
	"sync"
	"time"
)

// A message whose attempts came to no end may be what ended its consumers.
// Whoever runs beside it, or is done and not yet settled, is charged with a
// start each time it does that again. So a suspect starts alone: nothing else
// that came back runs during its first second.
type suspects struct {
	mu      sync.Mutex
	running map[*Delivery]bool // of what came back
	alone   *Delivery          // nil: none
	until   time.Time          // when others may start beside it
}

const (
	aloneFor  = time.Second
	askedSoon = 10 * time.Millisecond
)

// suspect says whether d is to start alone: its last attempt did not end, and
// that is either known or one more would be the last.
func (d *Delivery) suspect() bool {
	limit := d.rec.src.run.attempts(d.Queue)
	return !d.ended && (d.try > 2 || limit == 1 || limit == 2)
}

// enter says whether d may start now. A suspect waits for the others no longer
// than they do for it.
func (s *suspects) enter(d *Delivery) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if d.asked.IsZero() {
		d.asked = now
	}
	if s.alone != nil && now.Before(s.until) {
		return false
	}
	if d.suspect() {
		if len(s.running) > 0 && now.Sub(d.asked) < aloneFor {
			return false
		}
		s.alone, s.until = d, now.Add(aloneFor)
	}
	if s.running == nil {
		s.running = map[*Delivery]bool{}
	}
	s.running[d] = true
	return true
}

// leave is the end of what entered; of what did not, nothing.
func (s *suspects) leave(d *Delivery) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.running, d)
	if s.alone == d {
		s.alone = nil
	}
}

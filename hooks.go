package gombu

import (
	"sync"
)

// maxEvents bounds the events that wait for a slow OnEvent.
const maxEvents = 256

// hooks calls OnEvent on a goroutine of its own, which lives while there are
// events, so that a hook may call anything, Close included.
type hooks struct {
	c *Conn

	mu      sync.Mutex
	queue   []Event
	running bool
	closed  bool

	// detached holds the waiter of a Shutdown whose context ended first; it
	// ends as soon as the goroutines that it waits for do.
	detached sync.WaitGroup
}

func (h *hooks) send(e Event) {
	if h.c.cfg.OnEvent == nil {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return
	}
	if len(h.queue) == maxEvents {
		h.queue = h.queue[1:]
	}
	h.queue = append(h.queue, e)
	if !h.running {
		h.running = true
		h.detached.Go(h.run)
	}
}

func (h *hooks) run() {
	for {
		h.mu.Lock()
		if len(h.queue) == 0 {
			h.running = false
			h.mu.Unlock()
			return
		}
		e := h.queue[0]
		h.queue = h.queue[1:]
		h.mu.Unlock()
		h.call(e)
	}
}

// call tells the user's hook, whose panic must not end the program.
func (h *hooks) call(e Event) {
	defer func() {
		if p := recover(); p != nil {
			h.c.log.Error("gombu: OnEvent panicked", "event", e.Kind, "panic", p)
		}
	}()
	h.c.cfg.OnEvent(e)
}

// close drops what comes later. It does not wait: a hook may be what closes.
func (h *hooks) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
}

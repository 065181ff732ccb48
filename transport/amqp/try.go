package amqp

import "github.com/gombu/gombu/driver"

// A tryReceiver makes a driver.TryReceiver of a receiver: its pump takes
// deliveries over, so whoever works on them need not wait for one.
type tryReceiver struct{ *receiver }

var (
	_ driver.TryReceiver = tryReceiver{}
	_ driver.TrySettler  = tryReceiver{}
)

// Notify implements driver.TryReceiver.
func (t tryReceiver) Notify(ready func(error)) {
	t.mu.Lock()
	t.notify = ready
	t.mu.Unlock()
	t.rouse() // it may have arrived, or ended, before
}

// TryReceive implements driver.TryReceiver.
func (t tryReceiver) TryReceive(dst []driver.Incoming) (int, error) {
	if err := t.failed(); err != nil {
		return 0, err
	}
	if t.ch.ended() {
		return 0, nil // the broker has them again, and why it ended follows
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.handOut(dst), nil
}

// TrySettle implements driver.TrySettler: there is mostly room in the buffer for
// what is to be written.
func (t tryReceiver) TrySettle(batch []driver.Settlement) bool {
	select {
	case t.settles <- struct{}{}:
	default:
		return false
	}
	n := len(batch) * settleSize
	room := t.s.link.tryReserve(n)
	if room {
		t.write(batch, t.plan(batch))
		t.s.link.release(n)
	}
	<-t.settles
	if room {
		t.rouse() // there is room below the prefetch
	}
	return room
}

// rouse tells who receives that there is something to hand out, or that nothing
// more will be; r.mu is not held.
func (r *receiver) rouse() {
	r.mu.Lock()
	notify, err, some := r.notify, r.failure(), r.deliverable(0)
	r.mu.Unlock()
	switch {
	case notify == nil:
		tell(r.arrived)
	case err != nil || some:
		notify(err)
	}
}

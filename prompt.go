package gombu

import "github.com/gombu/gombu/driver"

// prompt submits k, which its caller has just launched in s, if that needs no waiting.
func (l *lane) prompt(s *session, k *call) {
	took := false
	if names := l.standing(s); names != nil {
		l.one[0] = k.out
		names.address(&l.one[0])
		took = l.try.TrySubmit(l.one[:]) == 1
	}
	done, err := took && l.one[0].Done, l.one[0].Err
	l.one[0] = driver.Outgoing{}
	l.mu.Lock()
	if !took {
		delete(l.flight, k.out.Seq)
		k.state = waiting
		l.line.restore(k)
	}
	l.running = false
	l.start()
	orphans := l.closed && l.line.first != nil
	l.mu.Unlock()
	if done {
		l.answer(k, err)
	}
	if orphans {
		l.failAll(&Error{Op: "publish", Transport: l.c.scheme(), Kind: ErrClosed})
	}
}

// standing is session without waiting, as long as s is the one: it returns the
// session that knows the names, nil when there is something to wait for.
func (l *lane) standing(s *session) (names *session) {
	if s.over() || s.blocked.Load() || l.c.ctx.Err() != nil {
		return nil
	}
	if l.c.publish == l.c.consume || !l.c.topo.any() {
		return s
	}
	if names = l.c.consume.peek(); names == nil || names.over() {
		return nil
	}
	return names
}

package gombu

import "slices"

// prompt submits k, which its caller has just launched in s, if that needs no waiting.
func (l *lane) prompt(s *session, k *call) {
	l.batch = append(l.batch[:0], k)
	l.promptAll(s, l.batch)
}

// promptLine is prompt for the start of the line, which is the caller's.
func (l *lane) promptLine(s *session) { l.promptAll(s, l.take()) }

func (l *lane) promptAll(s *session, batch []*call) {
	took := 0
	if names := l.standing(s); names != nil {
		for i, k := range batch {
			l.out = append(l.out, k.out)
			names.address(&l.out[i])
		}
		took = l.try.TrySubmit(l.out)
	}
	var done []*call
	for i, k := range batch[:took] {
		if l.out[i].Done {
			k.err = l.out[i].Err
			done = append(done, k)
		}
	}
	l.mu.Lock()
	for _, k := range slices.Backward(batch[took:]) {
		delete(l.flight, k.out.Seq)
		k.state = waiting
		l.line.restore(k)
	}
	clear(batch)
	clear(l.out)
	l.out = l.out[:0]
	l.running = false
	l.start()
	orphans := l.closed && l.line.first != nil
	l.mu.Unlock()
	for _, k := range done {
		l.answer(k, k.err)
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

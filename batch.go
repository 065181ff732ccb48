package gombu

import (
	"context"
	"errors"
	"slices"
)

// A batch is handed over in pieces, so that the broker has something to do while
// the rest is encoded: of so many messages or, when they are large, bytes.
const (
	pieceMost  = 128
	pieceBytes = 64 << 10
)

// PublishBatch publishes ms in order and waits for all; they go to the broker
// in few pieces. errs, when not nil, must be as long as ms and gets the outcome of
// each; the result joins them.
func (p *Producer) PublishBatch(ctx context.Context, ms []*Message, errs []error) error {
	if errs == nil {
		errs = make([]error, len(ms))
	}
	if len(errs) != len(ms) {
		return &Error{Op: "publish", Kind: ErrInvalid, Err: errors.New("errs must be as long as ms")}
	}
	ctx, cancel := p.budget(ctx)
	defer cancel()
	clear(errs)
	calls := make([]*call, len(ms))
	for i := 0; i < len(ms); {
		if !p.c.feature.Inline {
			i += p.lane.enqueueSome(ctx, p, ms[i:], calls[i:], errs[i:])
			continue
		}
		if errs[i] = p.ready(ctx, ms[i]); errs[i] == nil {
			errs[i] = p.lane.inline(ctx, p, ms[i])
		}
		i++
	}
	for i, k := range slices.Backward(calls) { // the last is answered last: one sleep for all
		if k != nil {
			errs[i] = p.lane.await(ctx, k)
		}
	}
	return errors.Join(errs...)
}

// enqueueSome puts copies of the first n of ms in the line together: a piece, as
// far as there is room for it, one at least, for which it waits. Each has a call
// then, or an error.
func (l *lane) enqueueSome(ctx context.Context, p *Producer, ms []*Message, calls []*call, errs []error) (n int) {
	until, _ := ctx.Deadline()
	var some []*call
	defer func() { l.lineUp(some) }() // also when a value panics as it is encoded
	bytes := 0
	for ; n < len(ms) && len(some) < pieceMost && bytes < pieceBytes; n++ {
		if errs[n] = p.ready(ctx, ms[n]); errs[n] != nil {
			continue
		}
		if !l.tryEnter() {
			if len(some) > 0 { // who holds places does not wait for more
				return n
			}
			if errs[n] = l.enter(ctx); errs[n] != nil {
				continue
			}
		}
		if calls[n], errs[n] = l.call(p, ms[n]); errs[n] == nil {
			calls[n].out.Until = until
			p.begin()
			some = append(some, calls[n])
			bytes += len(calls[n].own)
		}
	}
	return n
}

// lineUp puts calls in the line; when nobody has that, it submits them.
func (l *lane) lineUp(some []*call) {
	if len(some) == 0 {
		return
	}
	l.mu.Lock()
	if l.closed {
		for _, k := range some {
			k.state = over
		}
		l.mu.Unlock()
		for _, k := range some {
			l.answer(k, &Error{Op: "publish", Transport: l.c.scheme(), Kind: ErrClosed})
		}
		return
	}
	for _, k := range some {
		l.line.push(k)
	}
	s := l.at
	if s == nil || l.try == nil || l.running {
		l.start()
		l.mu.Unlock()
		return
	}
	l.running = true
	l.mu.Unlock()
	l.promptLine(s)
}

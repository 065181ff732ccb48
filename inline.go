package gombu

import (
	"context"
	"errors"

	"github.com/gombu/gombu/driver"
)

// An inliner publishes one message at a time, to a transport that never blocks. A
// lane has as many as it has publishers at once: they wait for each other only
// where the broker itself lets one at a time.
type inliner struct {
	tx  driver.Sender
	at  *session // of tx
	one [1]driver.Outgoing
	own []byte // the memory of bodies encoded here; the broker copies them
}

// inline publishes on the caller's goroutine, for transports that never block.
func (l *lane) inline(ctx context.Context, p *Producer, m *Message) error {
	in, _ := l.inliners.Get().(*inliner)
	if in == nil {
		in = &inliner{}
	}
	out := &in.one[0]
	defer func() {
		*out = driver.Outgoing{}
		l.inliners.Put(in)
	}()
	out.Body = in.own[:0]
	mine, err := p.prepare(m, out)
	if err != nil {
		return err
	}
	if mine && cap(out.Body) <= 64<<10 {
		in.own = out.Body
	}
	key, reply := out.Key, out.Props.ReplyTo
	for {
		s, names, err := l.session(ctx)
		if err != nil {
			return err
		}
		if in.at != s {
			if in.tx, err = l.open(ctx, s); err != nil {
				return l.c.sessionError(ctx, "publish", err)
			}
			in.at = s
		}
		out.Key, out.Props.ReplyTo, out.Done, out.Err = key, reply, false, nil
		names.address(out)
		if _, err = in.tx.Submit(ctx, in.one[:]); err == nil {
			err = out.Err
		}
		select {
		case <-s.Done():
			if errors.Is(err, ErrNotSent) {
				continue
			}
		default:
		}
		return err
	}
}

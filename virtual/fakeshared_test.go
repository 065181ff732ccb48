package virtual_test

import (
	"context"
	"fmt"
	"slices"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
	"github.com/gombu/gombu/wire/kombu"
)

// sharing is the binding tables and the fan-out.
type sharing struct{ s *fakeSession }

const sep = "\x06\x16"

func member(typ string, b *driver.Binding) string {
	pattern := ""
	if typ == driver.TypeTopic {
		pattern = kombu.TopicPattern(b.Key)
	}
	return kombu.BindingMember(b.Key, pattern, b.Queue, sep)
}

func (x sharing) change(ctx context.Context, typ string, bs []driver.Binding, bound bool) error {
	if err := x.s.roundTrip(ctx); err != nil {
		return err
	}
	f := x.s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range bs {
		t := f.tables[bs[i].Exchange]
		if t == nil {
			t = &bindings{members: map[string]bool{}}
			f.tables[bs[i].Exchange] = t
		}
		t.version++
		if bound {
			t.members[member(typ, &bs[i])] = true
			continue
		}
		delete(t.members, member(driver.TypeDirect, &bs[i]))
		delete(t.members, member(driver.TypeTopic, &bs[i]))
	}
	return nil
}

func (x sharing) Bind(ctx context.Context, typ string, b []driver.Binding) error {
	return x.change(ctx, typ, b, true)
}

func (x sharing) Unbind(ctx context.Context, typ string, b []driver.Binding) error {
	return x.change(ctx, typ, b, false)
}

func (x sharing) Table(ctx context.Context, exchange, since string) (virtual.Table, bool, error) {
	if err := x.s.roundTrip(ctx); err != nil {
		return virtual.Table{}, false, err
	}
	f := x.s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	t := f.tables[exchange]
	if t == nil {
		return virtual.Table{Version: "none"}, since != "none", nil
	}
	out := virtual.Table{Version: fmt.Sprint(t.version)}
	if out.Version == since {
		return out, false, nil
	}
	f.reads++
	for m := range t.members {
		key, pattern, queue, ok := kombu.ParseBindingMember(m, sep)
		if !ok {
			return out, false, fmt.Errorf("bad member %q", m)
		}
		out.Topic = out.Topic || pattern != ""
		out.Bindings = append(out.Bindings, driver.Binding{Exchange: exchange, Queue: queue, Key: key})
	}
	return out, true, nil
}

func (x sharing) Broadcast(ctx context.Context, exchange, key string, items []virtual.Item) error {
	if err := x.s.roundTrip(ctx); err != nil {
		return err
	}
	f := x.s.f
	f.mu.Lock()
	defer f.mu.Unlock()
	for sub := range f.subs {
		if !slices.ContainsFunc(sub.bindings, func(b driver.Binding) bool { return b.Exchange == exchange && (b.Key == key || b.Key == "#") }) {
			continue
		}
		for i := range items {
			if len(sub.buffer) == cap(sub.buffer) {
				<-sub.buffer
				x.s.env.Notify(driver.Event{Kind: driver.Dropped, Entity: sub.queue, N: 1})
			}
			sub.buffer <- slices.Clone(items[i].Raw)
		}
	}
	return nil
}

func (x sharing) Subscribe(ctx context.Context, c driver.ReceiverConfig, b []driver.Binding) (virtual.Subscription, error) {
	if err := x.s.roundTrip(ctx); err != nil {
		return nil, err
	}
	sub := &subscription{s: x.s, queue: c.Queue, bindings: slices.Clone(b), buffer: make(chan []byte, 100), closed: make(chan struct{})}
	x.s.f.mu.Lock()
	defer x.s.f.mu.Unlock()
	x.s.f.subs[sub] = true
	return sub, nil
}

type subscription struct {
	s        *fakeSession
	queue    string
	bindings []driver.Binding
	buffer   chan []byte
	closed   chan struct{}
}

func (u *subscription) Receive(ctx context.Context, dst []virtual.Claim) (int, error) {
	over := u.closed
	if len(u.buffer) > 0 {
		over = nil // later
	}
	select {
	case raw := <-u.buffer:
		dst[0] = virtual.Claim{Queue: u.queue, Raw: raw}
		return 1, nil
	case <-over:
		return 0, &driver.Error{Op: "receive", Transport: "fake", Kind: driver.ErrClosed}
	case <-u.s.done:
		return 0, u.s.err
	case <-ctx.Done():
		return 0, context.Cause(ctx)
	}
}

func (u *subscription) Close(context.Context) error {
	u.s.f.mu.Lock()
	defer u.s.f.mu.Unlock()
	if u.s.f.subs[u] {
		close(u.closed)
	}
	delete(u.s.f.subs, u)
	return nil
}

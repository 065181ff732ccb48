package redis

import (
	"context"
	"encoding/json"
	"strings"
	"sync"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// fanout is a session's subscriptions: one connection, opened by the first,
// and a goroutine for each pattern that is subscribed to.
type fanout struct {
	s *store

	mu       sync.Mutex
	link     *link
	dialing  chan struct{} // closed when the one dial under way is over
	over     bool
	patterns map[string]*pattern
	wg       sync.WaitGroup
}

// A pattern is one PSUBSCRIBE. One that is ending stays in the map until the
// server has taken its PUNSUBSCRIBE, which would hit a newer one too.
type pattern struct {
	text   string
	subs   map[*subscription]struct{}
	ready  chan struct{} // closed when the server confirmed it
	ended  chan struct{} // closed when it is gone
	ending bool
	err    error // set before ended is closed
	cancel context.CancelFunc
}

func (f *fanout) init(s *store) {
	f.s, f.patterns = s, map[string]*pattern{}
}

// channel is where messages of an exchange go. Source: redis.md section 6.
func (s *store) channel(exchange, key string) string {
	name := s.keys.prefix + s.cfg.FanoutPrefix + exchange
	if key != "" && !s.cfg.NoFanoutPatterns {
		name += "/" + key
	}
	return name
}

// patternsOf are the patterns of one binding: Kombu's, with # as *. A binding
// without a key is a plain fan-out and hears every key, as in AMQP; Kombu's
// would hear only messages without one.
func (s *store) patternsOf(b *driver.Binding) []string {
	name := s.channel(b.Exchange, strings.ReplaceAll(b.Key, "#", "*"))
	if b.Key == "" && !s.cfg.NoFanoutPatterns {
		return []string{name, name + "/*"}
	}
	return []string{name}
}

// Broadcast publishes items to an exchange's channel. Whoever listens gets
// them; nobody listening is no error.
func (s *store) Broadcast(ctx context.Context, exchange, key string, items []virtual.Item) error {
	channel := s.channel(exchange, key)
	texts := make([]string, len(items))
	for i := range items {
		texts[i] = string(items[i].Raw)
	}
	errs, err := call(ctx, s, "publish", driver.ErrUncertain, func() ([]error, error) {
		cmds := make([]rueidis.Completed, len(texts))
		for i, text := range texts {
			cmds[i] = s.command("PUBLISH", channel, text)
		}
		errs := make([]error, len(texts))
		for i, r := range s.link.client.DoMulti(s.ctx, cmds...) {
			errs[i] = r.Error()
		}
		return errs, nil
	}, nil)
	for i := range items {
		if items[i].Err = err; err == nil {
			items[i].Err = s.failed("publish", exchange, driver.ErrUncertain, errs[i])
		}
	}
	if err != nil && s.Err() != nil {
		return s.Err()
	}
	return nil
}

// Subscribe returns when the server has confirmed every pattern. Several
// bindings that fit one message deliver it once.
func (s *store) Subscribe(ctx context.Context, c driver.ReceiverConfig, b []driver.Binding) (virtual.Subscription, error) {
	if err := s.fanout.connect(ctx); err != nil {
		return nil, err
	}
	sub := &subscription{s: s, queue: c.Queue, wake: make(chan struct{}, 1), size: s.cfg.FanoutBuffer}
	for i := range b {
		for _, p := range s.patternsOf(&b[i]) {
			if !sub.has(p) {
				sub.patterns = append(sub.patterns, p)
			}
		}
	}
	for _, p := range sub.patterns {
		if err := s.fanout.join(ctx, p, sub); err != nil {
			s.fanout.leave(sub)
			return nil, err
		}
	}
	return sub, nil
}

// connect opens the connection if nobody has. Its loss ends the session: what
// was published meanwhile is gone, and the core must know.
func (f *fanout) connect(ctx context.Context) error {
	for {
		f.mu.Lock()
		link, dialing, over := f.link, f.dialing, f.over
		first := link == nil && dialing == nil && !over
		if first {
			f.dialing = make(chan struct{})
		}
		f.mu.Unlock()
		switch {
		case over:
			return f.s.notSent("subscribe")
		case link != nil:
			return nil
		case first:
			return f.open(ctx)
		}
		select {
		case <-dialing:
		case <-ctx.Done():
			return ended(ctx, "subscribe", driver.ErrUnavailable)
		}
	}
}

func (f *fanout) open(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, f.s.cfg.ConnectTimeout)
	defer cancel()
	l, err := dial(ctx, f.s.cfg, nil)
	f.mu.Lock()
	late := f.over
	if err == nil && !late {
		f.link = l
	}
	close(f.dialing)
	f.dialing = nil
	f.mu.Unlock()
	switch {
	case err != nil:
		return err
	case late:
		l.shut()
		return f.s.notSent("subscribe")
	}
	l.watch(f.s.lost)
	return nil
}

// join adds sub to the receivers of a pattern and waits until the server has it.
func (f *fanout) join(ctx context.Context, text string, sub *subscription) error {
	for {
		f.mu.Lock()
		p := f.patterns[text]
		switch {
		case f.over:
			f.mu.Unlock()
			return f.s.notSent("subscribe")
		case p == nil:
			p = &pattern{text: text, subs: map[*subscription]struct{}{}, ready: make(chan struct{}), ended: make(chan struct{})}
			var pctx context.Context
			pctx, p.cancel = context.WithCancel(f.s.ctx)
			f.patterns[text] = p
			f.wg.Go(func() { f.receive(pctx, p) })
		}
		ready := p.ready
		if p.ending {
			ready = nil
		} else {
			p.subs[sub] = struct{}{}
		}
		f.mu.Unlock()
		select {
		case <-ready:
			return nil
		case <-p.ended:
			if p.err != nil {
				return f.s.failed("subscribe", text, driver.ErrUnavailable, p.err)
			}
		case <-ctx.Done():
			return ended(ctx, "subscribe", driver.ErrUnavailable)
		}
	}
}

// receive runs one pattern: PSUBSCRIBE, messages, PUNSUBSCRIBE.
func (f *fanout) receive(ctx context.Context, p *pattern) {
	defer p.cancel()
	var once sync.Once
	c := f.link.client
	confirmed := rueidis.WithOnSubscriptionHook(ctx, func(rueidis.PubSubSubscription) { once.Do(func() { close(p.ready) }) })
	err := c.Receive(confirmed, c.B().Psubscribe().Pattern(p.text).Build(), func(m rueidis.PubSubMessage) { f.dispatch(p, m) })
	if ctx.Err() != nil && f.s.ctx.Err() == nil {
		err = c.Do(f.s.ctx, c.B().Punsubscribe().Pattern(p.text).Build()).Error()
	}
	f.mu.Lock()
	delete(f.patterns, p.text)
	p.err = err
	f.mu.Unlock()
	close(p.ended)
}

func (f *fanout) dispatch(p *pattern, m rueidis.PubSubMessage) {
	f.mu.Lock()
	subs := make([]*subscription, 0, len(p.subs))
	for sub := range p.subs {
		subs = append(subs, sub)
	}
	f.mu.Unlock()
	for _, sub := range subs {
		if sub.first(p.text, m.Channel) {
			sub.push(m.Message)
		}
	}
}

// leave takes sub out of its patterns; one that nobody wants any more ends.
func (f *fanout) leave(sub *subscription) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, text := range sub.patterns {
		p := f.patterns[text]
		if p == nil {
			continue
		}
		delete(p.subs, sub)
		if len(p.subs) == 0 && !p.ending {
			p.ending = true
			p.cancel()
		}
	}
}

// hangUp closes the socket: the session is over.
func (f *fanout) hangUp() {
	f.mu.Lock()
	f.over = true
	l := f.link
	f.mu.Unlock()
	if l != nil {
		_ = l.Conn.Close()
	}
}

// shut waits for the goroutines, after hangUp.
func (f *fanout) shut() {
	f.wg.Wait()
	f.mu.Lock()
	l := f.link
	f.mu.Unlock()
	if l != nil {
		l.shut()
	}
}

// A subscription buffers messages for one receiver. Redis pushes whether or
// not anybody reads, so that the oldest is dropped when it is full.
type subscription struct {
	s        *store
	queue    string
	patterns []string
	size     int
	wake     chan struct{} // holds one

	mu     sync.Mutex
	ring   []string // of at most size texts, from head
	head   int
	closed bool
}

func (u *subscription) has(p string) bool {
	for _, q := range u.patterns {
		if q == p {
			return true
		}
	}
	return false
}

// first says whether p is the first of this subscription's patterns that the
// channel fits: the server sends the message once for each of them.
func (u *subscription) first(p, channel string) bool {
	for _, q := range u.patterns {
		if q == p {
			return true
		}
		if globMatch(q, channel) {
			return false
		}
	}
	return false
}

func (u *subscription) push(text string) {
	u.mu.Lock()
	dropped := 0
	switch {
	case u.closed:
	case len(u.ring) < u.size:
		u.ring = append(u.ring, text)
	default:
		u.ring[u.head] = text
		u.head = (u.head + 1) % u.size
		dropped = 1
	}
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
	if dropped > 0 {
		u.s.env.Notify(driver.Event{Kind: driver.Dropped, Entity: u.queue, Detail: "the receiver is too slow for its fan-out", N: dropped})
	}
}

// Receive returns what is buffered, waiting for at least one message. Text
// that is no JSON is reported and dropped, as Kombu does.
func (u *subscription) Receive(ctx context.Context, dst []virtual.Claim) (int, error) {
	for {
		n, over := u.pop(dst)
		switch {
		case n > 0 || len(dst) == 0:
			return n, nil
		case over:
			return 0, &driver.Error{Op: "receive", Transport: Scheme, Entity: u.queue, Kind: driver.ErrClosed}
		}
		select {
		case <-u.wake:
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-u.s.done:
			return 0, u.s.Err()
		}
	}
}

func (u *subscription) pop(dst []virtual.Claim) (n int, over bool) {
	u.mu.Lock()
	texts := make([]string, 0, len(dst))
	for len(u.ring) > 0 && len(texts) < len(dst) {
		if u.head > 0 { // straighten it: appending needs the free end
			u.ring = append(append(make([]string, 0, u.size), u.ring[u.head:]...), u.ring[:u.head]...)
			u.head = 0
		}
		k := min(len(u.ring), len(dst)-len(texts))
		texts = append(texts, u.ring[:k]...)
		u.ring = u.ring[:copy(u.ring, u.ring[k:])]
	}
	over = u.closed
	u.mu.Unlock()
	for _, text := range texts {
		if !json.Valid([]byte(text)) {
			u.s.env.Notify(driver.Event{Kind: driver.Warning, Entity: u.queue, Detail: "dropped a fan-out message that is no JSON"})
			continue
		}
		dst[n] = virtual.Claim{Queue: u.queue, Raw: []byte(text)}
		n++
	}
	if n == 0 && len(texts) > 0 { // only garbage: look again
		return u.pop(dst)
	}
	return n, over
}

// Close ends the subscription; Receive then returns ErrClosed.
func (u *subscription) Close(context.Context) error {
	u.s.fanout.leave(u)
	u.mu.Lock()
	u.closed = true
	u.mu.Unlock()
	select {
	case u.wake <- struct{}{}:
	default:
	}
	return nil
}

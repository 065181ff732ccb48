package redis

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// fanout is a session's subscriptions: one connection, opened by the first,
// and a goroutine for each subscription.
type fanout struct {
	s *store

	mu       sync.Mutex
	link     *link
	dead     *link         // the one before, to be waited for
	dialing  chan struct{} // closed when the one dial under way is over
	over     bool
	patterns map[string]*pattern
	wg       sync.WaitGroup
}

// A pattern is what one PSUBSCRIBE or several stand for. One that is ending
// stays in the map until the server has taken its PUNSUBSCRIBE, which would hit
// a newer subscription too.
type pattern struct {
	users  int
	ending chan struct{} // closed when it is gone; nil while it is used
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
	sub := newSubscription(s, c.Queue)
	for i := range b {
		for _, p := range s.patternsOf(&b[i]) {
			if !slices.Contains(sub.patterns, p) {
				sub.patterns = append(sub.patterns, p)
			}
		}
	}
	if len(sub.patterns) == 0 {
		return nil, &driver.Error{Op: "subscribe", Transport: Scheme, Entity: c.Queue, Kind: driver.ErrInvalid, Err: errors.New("nothing is bound")}
	}
	if err := s.fanout.join(ctx, sub); err != nil {
		return nil, err
	}
	select {
	case <-sub.ready:
		return sub, nil
	case <-sub.ended:
		return nil, s.failed("subscribe", c.Queue, driver.ErrUnavailable, sub.err)
	case <-ctx.Done():
		sub.cancel()
		return nil, ended(ctx, "subscribe", driver.ErrUnavailable)
	}
}

// connect opens the connection if nobody has. Its loss ends a session that ends
// with its connection; else every subscription is made again.
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
	f.mu.Lock()
	dead := f.dead
	f.dead = nil
	f.mu.Unlock()
	if dead != nil {
		dead.shut()
	}
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
	l.watch(func(err error) { f.lost(l, err) })
	return nil
}

func (f *fanout) lost(l *link, err error) {
	if !f.s.relinks {
		f.s.lost(err)
		return
	}
	f.mu.Lock()
	if f.link == l {
		f.link, f.dead = nil, l
	}
	f.mu.Unlock()
	l.hangUp()
}

// suspect hangs up when the session's other connection was given up because
// the server was silent, or is master no more: this one has no heartbeat.
func (f *fanout) suspect(err error) {
	f.mu.Lock()
	l := f.link
	f.mu.Unlock()
	if l != nil && (errors.Is(err, errSilent) || errors.Is(err, errSwitched)) {
		l.hangUp()
	}
}

// ping is that of links.
func (f *fanout) ping() {
	if l := f.current(); l != nil {
		f.s.ping(l, func() { l.client.Do(f.s.ctx, l.client.B().Ping().Build()) })
	}
}

// current is the connection that stands, or nil.
func (f *fanout) current() *link {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.link
}

// again waits until there is a connection, trying for ever; false when nobody
// needs it any more.
func (f *fanout) again(ctx context.Context) bool {
	for wait := relinkFirst; ; wait = min(2*wait, relinkLast) {
		if f.connect(ctx) == nil {
			return true
		}
		if !rest(ctx, wait/2+rand.N(wait/2)) {
			return false
		}
	}
}

// join starts a subscription, when none of its patterns is just ending.
func (f *fanout) join(ctx context.Context, sub *subscription) error {
	for {
		wait, over := f.enter(sub)
		if over {
			return f.s.notSent("subscribe")
		}
		if wait == nil {
			return nil
		}
		select {
		case <-wait:
		case <-ctx.Done():
			return ended(ctx, "subscribe", driver.ErrUnavailable)
		}
	}
}

func (f *fanout) enter(sub *subscription) (wait <-chan struct{}, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return nil, true
	}
	for _, text := range sub.patterns {
		if p := f.patterns[text]; p != nil && p.ending != nil {
			return p.ending, false
		}
	}
	for _, text := range sub.patterns {
		if f.patterns[text] == nil {
			f.patterns[text] = &pattern{}
		}
		f.patterns[text].users++
	}
	var ctx context.Context
	ctx, sub.cancel = context.WithCancel(f.s.ctx)
	f.wg.Go(func() { f.receive(ctx, sub) })
	return nil, false
}

// receive runs one subscription: PSUBSCRIBE, messages in the order in which
// the server sent them, PUNSUBSCRIBE of what nobody else wants.
func (f *fanout) receive(ctx context.Context, sub *subscription) {
	defer sub.cancel()
	for {
		sub.err = f.receiveOnce(ctx, sub)
		_, answered := rueidis.IsRedisErr(sub.err)
		if !f.s.relinks || sub.err == nil || answered || ctx.Err() != nil || !f.again(ctx) {
			break
		}
		f.s.env.Notify(driver.Event{Kind: driver.Dropped, Entity: sub.queue, Detail: "the fan-out's connection was lost: what was published meanwhile is gone", N: -1})
	}
	f.leave(sub)
	close(sub.ended)
}

func (f *fanout) receiveOnce(ctx context.Context, sub *subscription) error {
	l := f.current()
	if l == nil {
		return errLinkLost
	}
	c := l.client
	confirmed := rueidis.WithOnSubscriptionHook(ctx, sub.confirm)
	return c.Receive(confirmed, c.B().Psubscribe().Pattern(sub.patterns...).Build(), func(m rueidis.PubSubMessage) {
		if sub.first(m.Pattern, m.Channel) {
			sub.push(m.Message)
		}
	})
}

func (f *fanout) leave(sub *subscription) {
	var unused []string
	f.mu.Lock()
	for _, text := range sub.patterns {
		p := f.patterns[text]
		if p.users--; p.users == 0 {
			p.ending = make(chan struct{})
			unused = append(unused, text)
		}
	}
	f.mu.Unlock()
	if len(unused) == 0 {
		return
	}
	if l := f.current(); l != nil {
		c := l.client
		_ = c.Do(f.s.ctx, c.B().Punsubscribe().Pattern(unused...).Build()).Error() // it fails when the session is over
	}
	f.mu.Lock()
	for _, text := range unused {
		close(f.patterns[text].ending)
		delete(f.patterns, text)
	}
	f.mu.Unlock()
}

// hangUp closes the socket: the session is over.
func (f *fanout) hangUp() {
	f.mu.Lock()
	f.over = true
	l := f.link
	f.mu.Unlock()
	if l != nil {
		l.hangUp()
	}
}

// shut waits for the goroutines, after hangUp.
func (f *fanout) shut() {
	f.wg.Wait()
	f.mu.Lock()
	links := []*link{f.link, f.dead}
	f.mu.Unlock()
	for _, l := range links {
		if l != nil {
			l.shut()
		}
	}
}

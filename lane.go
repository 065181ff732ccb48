package gombu

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
)

// maxBatch bounds the messages that share one Submit.
const maxBatch = 256

// promptMost is how many unanswered messages a lane has at most whose publisher
// submits by itself: of a crowd, one goroutine does that better.
const promptMost = 128

// A lane is one publish channel of a Conn, shared by those of its Producers that
// need the same of it. Who finds it idle submits on its own goroutine. Else messages
// wait in line, and a goroutine submits them in batches. Of the outcomes the sender
// tells, or another goroutine per session asks for them.
type lane struct {
	c    *Conn
	kind driver.SenderConfig // what its sender must do; without a window
	room chan struct{}       // one token per unanswered message

	mu      sync.Mutex
	line    calls // not yet submitted
	running bool  // somebody submits: the line's goroutine, or a publisher
	alive   bool  // the line's goroutine has been started
	closed  bool
	gone    chan struct{} // closed when the collector of the last sender has ended; nil: there was none

	flight map[uint64]*call // submitted and unanswered; guarded by mu
	seq    uint64

	// Of whoever submits alone.
	tx    driver.Sender       // of at
	try   driver.TrySubmitter // the same; nil: it has to wait
	at    *session            // guarded by mu
	out   []driver.Outgoing
	batch []*call

	wake chan struct{} // one token: the line is its goroutine's
	free sync.Pool     // of *call; per lane, so that a channel never leaves its synctest bubble

	inliners sync.Pool // of *inliner
}

func newLane(c *Conn, kind driver.SenderConfig) *lane {
	l := &lane{c: c, kind: kind, room: make(chan struct{}, c.cfg.MaxPending), flight: map[uint64]*call{}, wake: make(chan struct{}, 1)}
	l.free.New = func() any { return &call{done: make(chan error, 1)} }
	return l
}

// enqueue puts a copy of m in the line; its caller waits until then, if that is known.
func (l *lane) enqueue(ctx context.Context, p *Producer, m *Message, until time.Time) (*call, error) {
	if !l.tryEnter() {
		if err := l.enter(ctx); err != nil {
			return nil, err
		}
	}
	k, err := l.call(p, m)
	if err != nil {
		return nil, err
	}
	k.out.Until = until
	p.begin()
	l.mu.Lock()
	if l.closed {
		k.state = over
		l.mu.Unlock()
		p.end()
		<-l.room
		return nil, &Error{Op: "publish", Transport: l.c.scheme(), Kind: ErrClosed}
	}
	if s := l.at; s != nil && l.try != nil && !l.running && len(l.flight) < promptMost {
		l.running = true
		l.launch(k)
		l.mu.Unlock()
		l.prompt(s, k)
		return k, nil
	}
	l.line.push(k)
	l.start()
	l.mu.Unlock()
	return k, nil
}

// tryEnter takes a place among MaxPending, if there is one.
func (l *lane) tryEnter() bool {
	select {
	case l.room <- struct{}{}:
		return true
	default:
		return false
	}
}

// enter waits for a place.
func (l *lane) enter(ctx context.Context) error {
	select {
	case l.room <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ended(ctx, "publish", "", l.why(ErrNotSent)...)
	case <-l.c.ctx.Done():
		return &Error{Op: "publish", Transport: l.c.scheme(), Kind: ErrClosed}
	}
}

// start gives the line to its goroutine unless somebody has it; the caller holds mu.
func (l *lane) start() {
	if !l.running && !l.closed && l.line.first != nil {
		l.running = true
		l.hand()
	}
}

// hand gives the line, which is the caller's, to its goroutine; the caller holds mu.
func (l *lane) hand() {
	if l.alive {
		l.wake <- struct{}{} // one at most: there is one line
		return
	}
	l.alive = true
	l.c.wg.Go(l.run)
}

// launch moves k into flight; the caller holds mu.
func (l *lane) launch(k *call) {
	l.seq++
	k.out.Seq, k.state = l.seq, sent
	l.flight[l.seq] = k
}

// await returns k's outcome; when ctx ends first, k is withdrawn if it can be.
func (l *lane) await(ctx context.Context, k *call) error {
	select {
	case err := <-k.done:
		l.recycle(k)
		return err
	default:
	}
	select {
	case err := <-k.done:
		l.recycle(k)
		return err
	case <-ctx.Done():
	}
	l.mu.Lock()
	state := k.state
	switch state {
	case waiting:
		l.line.remove(k)
		k.state = over
	case sent:
		k.state = left
	}
	entity, known := target(&k.out), k.unsent()
	l.mu.Unlock()
	switch state {
	case waiting:
		k.p.end()
		<-l.room
		return l.awaited().withLast(ended(ctx, "publish", entity, l.why(known)...))
	case sent:
		return ended(ctx, "publish", entity, l.why(ErrUncertain)...)
	}
	return <-k.done // answered at the same moment
}

// why adds to kind what keeps messages from being sent.
func (l *lane) why(kind error) []error {
	s := l.awaited().peek()
	switch {
	case s == nil:
		return []error{kind, ErrUnavailable}
	case s.blocked.Load():
		return []error{kind, ErrBlocked}
	}
	return []error{kind}
}

func (l *lane) recycle(k *call) {
	k.trim()
	k.p, k.out = nil, driver.Outgoing{}
	l.free.Put(k)
}

// run submits what is in the line. It stays for the next line: a new goroutine
// would have to grow its stack each time.
func (l *lane) run() {
	ctx := l.c.ctx
	for l.more(ctx) {
		s, names, err := l.sendable(ctx)
		if err != nil {
			l.failAll(err)
			continue
		}
		l.mu.Lock()
		gone, same := l.gone, l.at == s
		l.mu.Unlock()
		if !same {
			if gone != nil {
				<-gone // the old session's messages come back to the head of the line first
			}
			if err := l.switchTo(ctx, s); final(err) {
				l.failAll(err)
			} else if err != nil {
				l.c.log.Debug("gombu: opening a publish channel", "err", err)
				_ = pause(s.ctx, s.link.c.cfg.Retry.wait(1))
			}
			continue
		}
		l.submit(s, names)
	}
}

// more waits for a line; false when the Conn is closed.
func (l *lane) more(ctx context.Context) bool {
	l.mu.Lock()
	l.running = l.line.first != nil
	more := l.running
	l.mu.Unlock()
	if more {
		return true
	}
	select {
	case <-l.wake:
		return true
	case <-ctx.Done():
	}
	l.mu.Lock()
	l.alive = false
	select {
	case <-l.wake:
		l.running = false
	default:
	}
	l.mu.Unlock()
	l.failAll(&Error{Op: "publish", Transport: l.c.scheme(), Kind: ErrClosed})
	return false
}

// sendable is session, once its broker takes messages.
func (l *lane) sendable(ctx context.Context) (s, names *session, err error) {
	for {
		s, names, err := l.session(ctx)
		if err != nil || !s.blocked.Load() {
			return s, names, err
		}
		s.link.mu.Lock()
		changed := s.link.changed
		s.link.mu.Unlock()
		if !s.blocked.Load() {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, nil, &Error{Op: "publish", Transport: l.c.scheme(), Kind: ErrClosed}
		}
	}
}

func (l *lane) switchTo(ctx context.Context, s *session) error {
	tx, err := l.open(ctx, s)
	if err != nil {
		return err
	}
	o := &collector{l: l, s: s, gone: make(chan struct{})}
	l.mu.Lock()
	l.tx, l.at, l.gone = tx, s, o.gone
	l.try, _ = tx.(driver.TrySubmitter)
	l.mu.Unlock()
	if t, ok := tx.(driver.Teller); ok {
		t.Tell(o.take)
	} else {
		l.c.wg.Go(func() { o.run(tx) })
	}
	return nil
}

// submit gives one batch to the driver. It waits for room in the driver's
// memory for as long as the session lives; callers leave by their own contexts.
func (l *lane) submit(s, names *session) {
	batch := l.take()
	for i, k := range batch {
		l.out = append(l.out, k.out)
		names.address(&l.out[i])
	}
	n, err := l.tx.Submit(s.ctx, l.out)
	for i, k := range batch[:n] {
		if l.out[i].Done {
			l.answer(k, l.out[i].Err)
		}
	}
	clear(l.out)
	l.out = l.out[:0]
	defer clear(batch)
	if n < len(batch) {
		l.putBack(batch[n:], err)
		if s.ctx.Err() == nil { // the sender is over, the session is not
			l.drop(s)
		}
	}
}

// drop forgets the sender, so that the next batch opens another.
func (l *lane) drop(s *session) {
	l.mu.Lock()
	tx := l.tx
	if l.at == s {
		l.at = nil
	}
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(s.ctx, cmp.Or(l.c.cfg.Dial.ConnectTimeout, 5*time.Second))
	defer cancel()
	if err := tx.Close(ctx); err != nil {
		l.c.log.Debug("gombu: closing a publish channel", "err", err)
	}
}

// take moves a batch from the line into flight.
func (l *lane) take() []*call {
	l.mu.Lock()
	defer l.mu.Unlock()
	limit := maxBatch
	if m := l.c.feature.MaxBatch; m > 0 {
		limit = min(limit, m)
	}
	l.batch = l.batch[:0]
	for k := l.line.first; k != nil && len(l.batch) < limit; k = l.line.first {
		l.line.remove(k)
		l.launch(k)
		l.batch = append(l.batch, k)
	}
	return l.batch
}

// close ends what is in the line; nothing enters it any more.
func (l *lane) close() {
	l.mu.Lock()
	l.closed = true
	running := l.running
	l.mu.Unlock()
	if !running {
		l.failAll(&Error{Op: "publish", Transport: l.c.scheme(), Kind: ErrClosed})
	}
}

// flush waits until nothing of p, or of the whole lane, is unanswered.
func (l *lane) flush(ctx context.Context, p *Producer) error {
	if p == nil {
		for range cap(l.room) { // holding every token is being empty
			select {
			case l.room <- struct{}{}:
				continue
			default:
			}
			select {
			case l.room <- struct{}{}:
			case <-ctx.Done():
				return ended(ctx, "flush", "", l.why(ErrUncertain)...)
			}
		}
		return nil
	}
	p.mu.Lock()
	if p.pending > 0 && p.idle == nil {
		p.idle = make(chan struct{})
	}
	idle := p.idle
	p.mu.Unlock()
	if idle == nil {
		return nil
	}
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ended(ctx, "flush", "", l.why(ErrUncertain)...)
	}
}

// session is where a message goes now, and the session that knows the names of
// PerSession queues. What was declared is put back by the consuming session, so
// a publisher waits for that one too.
func (l *lane) session(ctx context.Context) (s, names *session, err error) {
	c := l.c
	if c.publish != c.consume && c.topo.any() {
		if names, err = c.consume.get(ctx, "publish"); err != nil {
			return nil, nil, err
		}
	}
	if s, err = c.publish.get(ctx, "publish"); err != nil {
		return nil, nil, err
	}
	return s, cmp.Or(names, s), nil
}

// awaited is the link whose session a message waits for, when it does.
func (l *lane) awaited() *link {
	if c := l.c; c.publish != c.consume && c.topo.any() && c.consume.peek() == nil {
		return c.consume
	}
	return l.c.publish
}

func (t *topology) any() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.entries) > 0
}

// open opens the lane's sender on s.
func (l *lane) open(ctx context.Context, s *session) (driver.Sender, error) {
	kind := l.kind
	kind.Window = l.c.cfg.MaxPending
	return s.OpenSender(ctx, kind)
}

// lane returns the lane of this kind, made by the first who needs it.
func (c *Conn) lane(kind driver.SenderConfig) *lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	l := c.lanes[kind]
	if l == nil {
		l = newLane(c, kind)
		l.closed = c.flushed
		c.lanes[kind] = l
	}
	return l
}

// allLanes returns the lanes there are; last, when no more may open.
func (c *Conn) allLanes(last bool) []*lane {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.flushed = c.flushed || last
	return slices.Collect(maps.Values(c.lanes))
}

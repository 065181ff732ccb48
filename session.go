package gombu

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/driver"
)

// A session is one driver.Conn: immutable, numbered, never revived.
type session struct {
	driver.Conn
	link    *link
	epoch   uint64
	blocked atomic.Bool
	ctx     context.Context // ends with the session; its cause is ErrLeaseLost
	end     context.CancelCauseFunc
	holder  driver.Holder // nil: claims are lost with the session only
	names   sync.Map      // handle of a PerSession queue -> its name in this session
	cached  sync.Map      // what was declared in this session, by its text
	deleted atomic.Uint64 // how often it was emptied, because something was deleted
}

// A link is a supervised session of one role: one goroutine, from the first
// use, keeps one session alive.
type link struct {
	c    *Conn
	role driver.Role

	live    atomic.Pointer[session] // cur, for who publishes; changed under mu
	mu      sync.Mutex
	cur     *session
	changed chan struct{} // closed and replaced at every change of what get looks at
	last    error         // why the last attempt or session failed
	fatal   error         // the first connect failed for good; the next use tries anew
	running bool
	closed  bool // no supervisor starts any more
	ever    bool // there was a session
	epoch   uint64
	next    int // index of the connector to try
}

func newLink(c *Conn, role driver.Role) *link {
	return &link{c: c, role: role, changed: make(chan struct{})}
}

// over says whether the session has ended.
func (s *session) over() bool {
	select {
	case <-s.Done():
		return true
	default:
		return false
	}
}

// hold returns when the session's claims are known to be ours, or that they are not.
func (s *session) hold(ctx context.Context) error {
	if s.holder == nil {
		return nil
	}
	return s.holder.Hold(ctx)
}

// ending says whether the session that has failed a call is over, or will be
// in a moment: the call may know first.
func (s *session) ending(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	select {
	case <-s.Done():
		return true
	case <-ctx.Done():
		return s.over()
	}
}

// announce wakes everybody who waits in get; the caller holds mu.
func (l *link) announce() {
	close(l.changed)
	l.changed = make(chan struct{})
}

// peek returns the session that stands, or nil.
func (l *link) peek() *session {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.cur
}

// get returns a session, waiting for one under ctx. One that is over, and that
// the supervisor has not let go of yet, is none: who asks in a loop would get
// it again and again, and spend its retries on it.
func (l *link) get(ctx context.Context, op string) (*session, error) {
	if s := l.live.Load(); s != nil && !s.over() {
		return s, nil
	}
	asked := false
	for {
		l.mu.Lock()
		s, changed, fatal, closed := l.cur, l.changed, l.fatal, l.closed
		if s == nil && !l.running && !closed && (!asked || fatal == nil) {
			l.running, l.fatal, fatal = true, nil, nil
			l.c.wg.Go(l.supervise)
		}
		l.mu.Unlock()
		asked = true
		switch {
		case s != nil && !s.over():
			return s, nil
		case closed || l.c.ctx.Err() != nil:
			return nil, &Error{Op: op, Transport: l.c.scheme(), Kind: ErrClosed}
		case fatal != nil:
			return nil, fatal
		}
		select {
		case <-changed:
		case <-l.c.ctx.Done():
		case <-ctx.Done():
			return nil, l.withLast(ended(ctx, op, "", ErrUnavailable, ErrNotSent))
		}
	}
}

// withLast adds the last failure to connect, when there is no session.
func (l *link) withLast(err error) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := err.(*Error); l.cur == nil && l.last != nil {
		e.Err = errors.Join(e.Err, l.last)
	}
	return err
}

// steady is how long a session, or a subscription, stands that is no failed
// attempt: what ends sooner twice in a row is followed by a wait.
const steady = time.Second

// supervise connects, waits for the session's end, and connects again.
func (l *link) supervise() {
	ctx := l.c.ctx
	for short := 0; ctx.Err() == nil; {
		if short > 1 && pause(ctx, l.c.cfg.Retry.wait(short-1)) != nil {
			break
		}
		s, err := l.connect(ctx)
		if err != nil {
			l.fail(err)
			return
		}
		if !l.install(s) {
			l.discard(s)
			break
		}
		l.c.log.Debug("gombu: connected", "role", l.role, "epoch", s.epoch)
		l.c.hooks.send(Event{Kind: driver.Connected, Detail: l.c.to[l.next].String()})
		began := time.Now()
		l.watch(ctx, s)
		if short++; time.Since(began) >= steady {
			short = 0
		}
		if !l.drop(s) {
			return // close has the session
		}
		l.c.log.Warn("gombu: session lost", "transport", l.c.scheme(), "err", s.Err())
		l.c.hooks.send(Event{Kind: driver.Lost, Detail: text(s.Err())})
		l.discard(s)
	}
	l.fail(&Error{Op: "connect", Transport: l.c.scheme(), Kind: ErrClosed})
}

// discard closes a session that nobody uses any more: what there was to lose
// is lost, this frees its sockets and goroutines.
func (l *link) discard(s *session) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(l.c.ctx), time.Second)
	defer cancel()
	if err := s.Close(ctx); err != nil {
		l.c.log.Debug("gombu: closing a lost session", "transport", l.c.scheme(), "err", err)
	}
}

// watch returns when s is over; meanwhile it repairs what could not be declared.
func (l *link) watch(ctx context.Context, s *session) {
	for n := 1; ; n++ {
		var repair <-chan time.Time
		if l.c.topo.broken() && l.role != driver.Publish {
			repair = time.After(min(time.Second<<min(n, 5), 30*time.Second))
		}
		select {
		case <-s.Done():
			return
		case <-ctx.Done():
			return
		case <-l.c.topo.nudge:
			n = 0
		case <-repair:
			l.c.topo.repair(ctx, s)
		}
	}
}

// install makes s the session; false when the Conn was closed meanwhile.
func (l *link) install(s *session) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.c.ctx.Err() != nil {
		return false
	}
	l.cur, l.ever, l.last = s, true, nil
	l.live.Store(s)
	l.announce()
	return true
}

// drop lets go of s; false when the Conn is closing, which then closes s.
func (l *link) drop(s *session) bool {
	s.end(&Error{Op: "session", Transport: l.c.scheme(), Kind: ErrLeaseLost, Err: s.Err()})
	l.mu.Lock()
	defer l.mu.Unlock()
	live := l.c.ctx.Err() == nil
	if live {
		l.cur = nil
		l.live.Store(nil)
	}
	l.last = s.Err()
	l.announce()
	return live
}

func (l *link) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running, l.fatal = false, err
	l.announce()
}

// connect tries the connectors in turn until one answers. It gives up when the
// policy is spent, or when the first connect was refused for good by all.
func (l *link) connect(ctx context.Context) (*session, error) {
	policy := &l.c.cfg.Retry
	if policy.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, policy.Timeout)
		defer cancel()
	}
	refused := 0
	for tries, rounds := 1, 0; ; tries++ {
		s, err := l.dial(ctx)
		if err == nil {
			return s, nil
		}
		if l.c.ctx.Err() != nil {
			return nil, &Error{Op: "connect", Transport: l.c.scheme(), Kind: ErrClosed}
		}
		l.mu.Lock()
		l.last = err
		ever := l.ever
		l.next = (l.next + 1) % len(l.c.to)
		l.mu.Unlock()
		if final(err) {
			refused++
		}
		var wait time.Duration
		if tries%len(l.c.to) == 0 {
			rounds++
			if refused == len(l.c.to) && !ever {
				return nil, err
			}
			refused = 0
			wait = policy.wait(rounds)
		}
		if policy.spent(tries) || ctx.Err() != nil {
			return nil, giveUp(err)
		}
		tell(policy.OnError, err, wait)
		if wait > 0 && pause(ctx, wait) != nil {
			if l.c.ctx.Err() != nil {
				return nil, &Error{Op: "connect", Transport: l.c.scheme(), Kind: ErrClosed}
			}
			return nil, giveUp(err)
		}
	}
}

// tell calls a user's error callback, whose panic must not stop the supervisor.
func tell(f func(error, time.Duration), err error, wait time.Duration) {
	if f == nil {
		return
	}
	defer func() { _ = recover() }()
	f(err, wait)
}

func giveUp(err error) error {
	return &Error{Op: "connect", Kind: errors.Join(ErrUnavailable, ErrNotSent), Err: err}
}

// final says whether connecting again as before cannot help.
func final(err error) bool {
	return errors.Is(err, ErrDenied) || errors.Is(err, ErrNotFound) || errors.Is(err, ErrInvalid) || errors.Is(err, ErrUnsupported)
}

// replayTimeout bounds putting the topology back, since everybody waits for it;
// what it cuts off is repaired while the session is in use, and each entity then
// has as long.
const replayTimeout = 5 * time.Second

// dial opens one session and puts back what was declared.
func (l *link) dial(ctx context.Context) (*session, error) {
	l.mu.Lock()
	l.epoch++
	s := &session{link: l, epoch: l.epoch}
	to := l.c.to[l.next]
	l.mu.Unlock()
	env := driver.Env{Role: l.role, Epoch: s.epoch, Owner: rand.Text(), Log: l.c.log, Notify: func(e driver.Event) { l.notify(s, e) }}
	dc, err := to.Connect(ctx, env) // bounded by the transport's connect timeout
	if err != nil {
		return nil, err
	}
	s.Conn = dc
	s.holder, _ = dc.(driver.Holder)
	s.ctx, s.end = context.WithCancelCause(context.WithoutCancel(l.c.ctx))
	if l.role != driver.Publish {
		rctx, cancel := context.WithTimeout(ctx, replayTimeout)
		defer cancel()
		l.c.topo.replay(rctx, s)
	}
	return s, nil
}

func (l *link) notify(s *session, e driver.Event) {
	switch e.Kind {
	case driver.Blocked, driver.Unblocked:
		s.blocked.Store(e.Kind == driver.Blocked)
		l.mu.Lock()
		l.announce()
		l.mu.Unlock()
		l.c.log.Warn("gombu: "+e.Kind.String()+" by the broker", "transport", l.c.scheme(), "detail", e.Detail)
	case driver.Warning, driver.Dropped, driver.Gone:
		l.c.log.Warn("gombu: "+e.Kind.String(), "transport", l.c.scheme(), "entity", e.Entity, "n", e.N, "detail", e.Detail)
	}
	l.c.hooks.send(e)
}

// close ends the session by ctx's end; the supervisor has been told to stop.
func (l *link) close(ctx context.Context) error {
	l.mu.Lock()
	s := l.cur
	l.cur, l.closed = nil, true
	l.live.Store(nil)
	l.announce()
	l.mu.Unlock()
	if s == nil {
		return nil
	}
	err := s.Close(ctx)
	s.end(&Error{Op: "session", Transport: l.c.scheme(), Kind: ErrLeaseLost, Err: ErrClosed})
	return err
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

package virtual

import (
	"context"
	"sync"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/wire/kombu"
)

var (
	_ driver.TrySubmitter = (*pusher)(nil)
	_ driver.Teller       = (*pusher)(nil)
)

// pusher is the Sender of a store that talks over a socket. Submit encodes into
// its memory; one goroutine routes and pushes what has gathered, while the next
// batch gathers. So a caller never waits for the network, and a busy session
// pays one round trip for many messages.
type pusher struct {
	c      *conn
	cfg    driver.SenderConfig
	outlet Outlet                        // nil: the store's own Push
	told   func([]driver.Receipt, error) // nil: Outcomes is asked
	ctx    context.Context
	cancel context.CancelFunc
	ended  chan struct{} // the goroutine has returned

	mu       sync.Mutex
	filling  parcel
	open     int // submitted, and no receipt taken for it yet
	receipts []driver.Receipt
	over     error
	last     bool // over, and the goroutine has told of it whom it knew

	room, work, news chan struct{} // capacity 1: wake Submit, the goroutine, Outcomes
}

// parcel is a batch on its way; its arena holds the envelopes.
type parcel struct {
	msgs  []driver.Outgoing
	envs  []envelope // raw is cut from the arena only when it grows no more
	ends  []int
	arena []byte
}

// maxParcel is how many bytes one Push may hold a server with; maxArena is how
// much memory an idle sender keeps.
const (
	maxParcel = 1 << 20
	maxArena  = 2 << 20
)

func newPusher(c *conn, cfg driver.SenderConfig) *pusher {
	s := &pusher{
		c: c, cfg: cfg, ended: make(chan struct{}),
		room: make(chan struct{}, 1), work: make(chan struct{}, 1), news: make(chan struct{}, 1),
	}
	s.cfg.Window = max(1, cfg.Window)
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	return s
}

func (s *pusher) start() error {
	c := s.c
	c.opened.Lock()
	defer c.opened.Unlock()
	if c.closing.Load() {
		return c.gone("open sender")
	}
	c.senders[s] = struct{}{}
	c.wg.Go(func() {
		defer close(s.ended)
		s.run()
	})
	return nil
}

func (s *pusher) closeOutlet(ctx context.Context) error {
	if s.outlet == nil {
		return nil
	}
	return s.outlet.Close(ctx)
}

// Tell implements driver.Teller.
func (s *pusher) Tell(told func([]driver.Receipt, error)) {
	s.mu.Lock()
	s.told = told // read by the goroutine behind a submit, or behind its end
	last, over := s.last, s.over
	s.mu.Unlock()
	if last {
		told(nil, over)
	}
}

// signal wakes the one who waits on ch.
func signal(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

func (s *pusher) Submit(ctx context.Context, batch []driver.Outgoing) (int, error) {
	for n := 0; n < len(batch); {
		if ctx.Err() != nil {
			return n, context.Cause(ctx)
		}
		took, err := s.take(batch[n:])
		if n += took; err != nil {
			return n, err
		}
		if n == len(batch) {
			break
		}
		select {
		case <-s.room:
		case <-s.ended:
		case <-ctx.Done():
		}
	}
	return len(batch), nil
}

// TrySubmit implements driver.TrySubmitter.
func (s *pusher) TrySubmit(batch []driver.Outgoing) int {
	n, _ := s.take(batch)
	return n
}

// take copies as many messages as there is room for.
func (s *pusher) take(batch []driver.Outgoing) (int, error) {
	s.mu.Lock()
	defer func() {
		work := len(s.filling.msgs) > 0
		s.mu.Unlock()
		if work {
			signal(s.work)
		}
	}()
	for i := range batch {
		if s.over != nil {
			return i, s.over
		}
		if s.open >= s.cfg.Window || len(s.filling.arena) >= maxParcel {
			return i, nil
		}
		m := &batch[i]
		if m.Err = s.filling.add(s.c, m); m.Err != nil {
			m.Done = true
			continue
		}
		m.Done = false
		s.open++
	}
	return len(batch), nil
}

// add copies m: its envelope where the store wants bytes, else itself.
func (p *parcel) add(c *conn, m *driver.Outgoing) error {
	if limit := c.Config.Features.MaxBody; limit > 0 && len(m.Body) > limit {
		return c.fail("publish", m.Key, driver.ErrTooLarge, "a body of %d bytes; the limit is %d", len(m.Body), limit)
	}
	mine, e := *m, envelope{}
	mine.Err, mine.Done = nil, false
	if c.info.Bytes {
		var err error
		e.id = c.NewID()
		if p.arena, err = kombu.AppendEnvelope(p.arena, m, e.id); err != nil {
			return err
		}
		mine.Body = nil
	} else {
		mine.Body = append([]byte(nil), m.Body...)
	}
	mine.Props.Headers, mine.Props.Extra = CloneHeaders(m.Props.Headers), CloneHeaders(m.Props.Extra)
	p.msgs, p.envs, p.ends = append(p.msgs, mine), append(p.envs, e), append(p.ends, len(p.arena))
	return nil
}

// seal cuts the envelopes out of the arena; none is a message that is stored
// as it is.
func (p *parcel) seal(bytes bool) []envelope {
	if !bytes {
		return nil
	}
	start := 0
	for i, end := range p.ends {
		p.envs[i].raw = p.arena[start:end:end]
		start = end
	}
	return p.envs
}

func (p *parcel) reset() {
	clear(p.msgs)
	clear(p.envs)
	p.msgs, p.envs, p.ends = p.msgs[:0], p.envs[:0], p.ends[:0]
	if p.arena = p.arena[:0]; cap(p.arena) > maxArena {
		p.arena = nil
	}
}

func (s *pusher) run() {
	var (
		going parcel
		post  = post{c: s.c, push: s.c.store.Push}
	)
	if s.outlet != nil {
		post.push = s.outlet.Push
	}
	post.search.tables = map[string]*table{}
	for s.next(&going) {
		clear(post.search.tables) // each batch sees the bindings of its own time
		// Close waits for the answer, and the session's end for nothing.
		post.run(context.WithoutCancel(s.ctx), going.msgs, going.seal(s.c.info.Bytes))
		s.answer(&going)
	}
	s.mu.Lock()
	if s.over = s.c.Err(); s.over == nil {
		s.over = s.c.fail("publish", "", driver.ErrClosed, "the sender was closed")
	}
	going, s.filling = s.filling, parcel{}
	over := s.over
	s.mu.Unlock()
	for i := range going.msgs {
		going.msgs[i].Err = &driver.Error{Op: "publish", Transport: s.c.Transport, Kind: driver.ErrNotSent, Err: over}
	}
	s.answer(&going)
	s.mu.Lock()
	s.last = true
	told := s.told
	s.mu.Unlock()
	if told != nil {
		told(nil, over)
	}
}

// next waits for a batch and swaps it with the empty one that it is given;
// false at the end.
func (s *pusher) next(p *parcel) bool {
	p.reset()
	for {
		if s.ctx.Err() != nil || s.c.over() {
			return false
		}
		s.mu.Lock()
		s.filling, *p = *p, s.filling
		s.mu.Unlock()
		if len(p.msgs) > 0 {
			signal(s.room) // the arena is free again
			return true
		}
		select {
		case <-s.work:
		case <-s.c.done:
		case <-s.ctx.Done():
		}
	}
}

// answer says what became of a batch.
func (s *pusher) answer(p *parcel) {
	s.mu.Lock()
	for i := range p.msgs {
		s.receipts = append(s.receipts, driver.Receipt{Seq: p.msgs[i].Seq, Err: p.msgs[i].Err})
	}
	if s.told == nil {
		s.mu.Unlock()
		signal(s.news)
		return
	}
	s.open -= len(s.receipts)
	s.mu.Unlock()
	signal(s.room)
	s.told(s.receipts, nil) // nobody else touches them, or it, now
	clear(s.receipts)
	s.receipts = s.receipts[:0]
}

func (s *pusher) Outcomes(ctx context.Context, dst []driver.Receipt) (int, error) {
	for {
		s.mu.Lock()
		n := copy(dst, s.receipts)
		s.receipts = append(s.receipts[:0], s.receipts[n:]...)
		s.open -= n
		more, last := len(s.receipts) > 0, s.over != nil && s.open == 0
		over := s.over
		s.mu.Unlock()
		switch {
		case n > 0:
			signal(s.room)
			if more || last {
				signal(s.news)
			}
			return n, nil
		case last:
			return 0, over
		}
		select {
		case <-s.news:
		case <-s.ended: // all is answered now
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
}

// Close waits, under ctx, for the push that is under way; what was not yet
// pushed is ErrNotSent.
func (s *pusher) Close(ctx context.Context) error {
	s.cancel()
	select {
	case <-s.ended:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	s.c.opened.Lock()
	delete(s.c.senders, s)
	s.c.opened.Unlock()
	return s.closeOutlet(ctx)
}

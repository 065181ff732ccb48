package redis

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// An ownList is this owner's claims out of one list of Kombu's: moved there by
// LMOVE, so that at no moment a message is nowhere, and at positions counted
// from the oldest ever moved, which name the claims.
type ownList struct {
	queue, list string
	ref         string  // <owner>:<list>, Tag.Ref
	key, source string  // with the prefix
	taking      *taking // who takes alone has it; nil: nothing was taken yet

	// Guarded by store.mu.
	open     map[uint64]held // by position
	top      uint64          // the newest that is accounted for
	mirrored uint64          // up to here claims are in Kombu's unacked too
	chunk    int             // how many to ask for: grows while the list fills it
	size     int             // of the largest text of the last chunk
}

// held is an open claim.
type held struct {
	at     time.Time
	size   int
	text   string // until it is judged
	judged bool
	good   bool // it may be mirrored
}

// Chunks of a claim: the first is small, because one call may not hold the
// server up whatever the size of the messages, and because a message that comes
// alone shall not wait for many moves that find nothing.
const (
	firstChunk  = 2
	chunkGrowth = 4
	lastChunk   = 512
	maxRounds   = 32
)

func (s *store) ownList(list string) *ownList {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.own[list]
	if l == nil {
		l = &ownList{
			queue: s.keys.queueOf(list), list: list, ref: s.env.Owner + ":" + list,
			key: s.keys.own(s.env.Owner, list), source: s.keys.full(list),
			open: map[uint64]held{}, chunk: firstChunk,
		}
		s.own[list] = l
	}
	return l
}

// taking is what each take from a list sends: begin, a move for each message, base and length.
type taking struct{ begin, move, base, length rueidis.Completed }

func (s *store) takingOf(l *ownList) *taking {
	if l.taking == nil {
		ledger, base := s.keys.ledger(s.env.Owner), "b:"+l.list
		l.taking = &taking{
			begin:  s.command("HSETNX", ledger, base, "0").Pin(),
			move:   s.command("LMOVE", l.source, l.key, "RIGHT", "LEFT").Pin(),
			base:   s.command("HGET", ledger, base).Pin(),
			length: s.command("LLEN", l.key).Pin(),
		}
	}
	return l.taking
}

// Claim takes what there is: step by step, and within a step queue by queue in
// the order of r.Wants (redis.md section 3.1). Waiting takes nothing, so that a
// Python peer that waits is always served before. A want that names no queue is
// told and left out; when there is no other, the error is ErrInvalid.
func (s *store) Claim(ctx context.Context, r virtual.ClaimRequest, dst []virtual.Claim) (int, error) {
	sources, err := s.sources(r.Wants, len(dst))
	if len(sources) == 0 {
		return 0, err
	}
	lists := listKeys(sources)
	if r.Again && s.track.believed(lists) {
		return 0, s.Err()
	}
	for deadline, inVain := time.Now().Add(r.Wait), false; ; inVain = true {
		if r.Wait > 0 {
			if err := s.await(ctx, lists, deadline, inVain); err != nil {
				return 0, err
			}
		}
		claims, err := call(ctx, s, "claim", driver.ErrUnavailable, func() ([]virtual.Claim, error) {
			if err := s.beginTaking(); err != nil {
				return nil, err
			}
			got, err := s.gather(s.doubtful(sources, inVain), len(dst), r)
			if err != nil {
				s.endTaking()
			}
			return got, err
		}, func(late []virtual.Claim) {
			s.release(late, r.NoAck)
			s.endTaking()
		})
		if err == nil {
			s.endTaking()
		}
		switch {
		case err != nil && ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case err != nil:
			return 0, err
		case len(claims) > 0 || !time.Now().Before(deadline):
			return copy(dst, claims), nil
		}
	}
}

// beginTaking makes the caller the only one who takes from the head of lists or
// gives back to it: what a claim brings too late lies there again before anybody
// takes what comes behind it, or puts before it what is older. Inside call.
func (s *store) beginTaking() error {
	select {
	case s.taking <- struct{}{}:
		return nil
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
}

func (s *store) endTaking() { <-s.taking }

// doubtful are the sources of which it is not known that they are empty; all of
// them, when that is known of all, or has been in vain.
func (s *store) doubtful(sources []source, inVain bool) []source {
	out := slices.Clone(sources)
	if !inVain && s.track.on.Load() {
		s.track.mu.Lock()
		out = slices.DeleteFunc(out, func(src source) bool { return s.track.empty[src.ownList.source] })
		s.track.mu.Unlock()
	}
	if len(out) == 0 {
		out = slices.Clone(sources)
	}
	return out
}

// A source is one list to claim from.
type source struct {
	*ownList
	want *int // how many more of this queue
	have int  // how many are there: unknown until looked at, many while every chunk is full
}

const (
	unknown = -1
	many    = int(^uint(0) >> 1)
)

// sources are the lists of wants; an error is about one that is no queue.
func (s *store) sources(wants []virtual.Want, limit int) ([]source, error) {
	left := make([]int, len(wants))
	perQueue := make([][]string, len(wants))
	var wrong error
	for i, w := range wants {
		if err := s.keys.checkQueue("claim", w.Queue); err != nil {
			wrong = err
			s.warnOnce(w.Queue, "nothing is consumed, this is no queue: "+err.Error())
			continue
		}
		left[i], perQueue[i] = min(w.Max, limit), s.keys.lists(w.Queue)
	}
	var out []source
	for step := range s.keys.steps {
		for i := range wants {
			if left[i] > 0 {
				out = append(out, source{s.ownList(perQueue[i][step]), &left[i], unknown})
			}
		}
	}
	return out, wrong
}

// gather claims in rounds: the first takes from the first list and looks at
// the rest, the next takes what was seen. Inside call.
// With a request that waits, the first round also asks whether anything is left.
func (s *store) gather(sources []source, limit int, r virtual.ClaimRequest) ([]virtual.Claim, error) {
	wants := map[*int]*int{} // a copy: a repeated Claim starts anew
	for i := range sources {
		if wants[sources[i].want] == nil {
			wants[sources[i].want] = new(*sources[i].want)
		}
		sources[i].want = wants[sources[i].want]
	}
	sources[0].have = many
	var out []virtual.Claim
	bytes := 0
	var lists []string
	if r.Wait > 0 {
		lists = listKeys(sources)
	}
	for range maxRounds {
		takes, looks := s.plan(sources, limit-len(out), r.MaxBytes, bytes)
		if len(takes) == 0 {
			break
		}
		got, err := s.take(takes, looks, r.NoAck, lists)
		lists = nil
		for i := range got {
			bytes += len(got[i].Raw)
		}
		out = append(out, got...)
		if err != nil {
			s.release(out, r.NoAck)
			return nil, err
		}
		if r.MaxBytes > 0 && bytes >= r.MaxBytes {
			break
		}
	}
	if s.cfg.Mirror == MirrorAlways && len(out) > 0 && !r.NoAck {
		_, _ = s.tick(0) // what fails now is done by the next heartbeat
	}
	return out, nil
}

// A take is how many to move from one list.
type take struct {
	*source
	n int
}

// plan asks of each list in turn as many as there are and are wanted; behind a
// list that has more than its chunk nothing is taken in the same round.
func (s *store) plan(sources []source, room, maxBytes, bytes int) (takes []take, looks []*source) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cut := false
	for i := range sources {
		src := &sources[i]
		if src.have == unknown {
			looks = append(looks, src)
			continue
		}
		n := min(src.have, room, *src.want)
		if n <= 0 || cut {
			continue
		}
		bound := src.chunk
		if maxBytes > 0 && src.size > 0 {
			bound = min(bound, (maxBytes-bytes)/src.size)
			if bytes == 0 && len(takes) == 0 {
				bound = max(bound, 1) // one at least
			}
		}
		if n > bound {
			n, cut = bound, true
		}
		if n > 0 {
			takes = append(takes, take{src, n})
			room -= n
		}
	}
	return takes, looks
}

// take moves messages into own lists in one transaction with a look at the
// fence and, for each list, at its end: so the server says which positions the
// messages have. It makes the owner known again before it moves, so that even
// the claims of a fenced one, paused until now, are found and given back.
// Lists, if any, are asked for behind the transaction.
func (s *store) take(takes []take, looks []*source, noAck bool, lists []string) ([]virtual.Claim, error) {
	n := 2 + len(looks)
	for _, t := range takes {
		n += t.n + 3
	}
	cmds := append(make([]rueidis.Completed, 0, n), s.fixed.fence, s.fixed.known)
	for _, t := range takes {
		if noAck {
			cmds = append(cmds, s.command("RPOP", t.ownList.source, strconv.Itoa(t.n)))
			continue
		}
		c := s.takingOf(t.ownList)
		cmds = append(cmds, c.begin)
		for range t.n {
			cmds = append(cmds, c.move)
		}
		cmds = append(cmds, c.base, c.length)
	}
	for _, l := range looks {
		cmds = append(cmds, s.command("LLEN", l.ownList.source))
	}
	known := len(cmds)
	for _, t := range takes {
		cmds = append(cmds, s.renewals(t.queue)...)
	}
	var question []rueidis.Completed
	if len(lists) > 0 {
		question = s.question(lists)
	}
	answers, more, err := s.multiAnd(cmds, question)
	if err != nil {
		return nil, err
	}
	if n := len(more); n > 0 {
		left, err := more[n-1].AsInt64()
		s.heard(lists, left, err)
	}
	if rueidis.IsRedisNil(answers[0].Error()) && !noAck {
		return nil, s.fenced()
	}
	if added, _ := answers[1].AsInt64(); added > 0 {
		s.unlisted.Store(true)
	}
	p := &parser{answers: answers[2:known]}
	var out []virtual.Claim
	for i := range takes {
		if noAck {
			out = append(out, s.popped(&takes[i], p)...)
		} else {
			claims, whole := s.moved(&takes[i], p)
			if !whole && p.err == nil {
				return nil, s.rolledBack()
			}
			out = append(out, claims...)
		}
	}
	for _, l := range looks {
		l.have = int(p.number())
	}
	if p.wrong != nil {
		s.warnOnce("claim", "a queue's key is no list: "+p.wrong.Error())
	}
	return out, p.err
}

// moved reads what one take brought and opens the claims; false when the own
// list, or its place in the ledger, is not what it was: the positions would name
// other claims.
func (s *store) moved(t *take, p *parser) ([]virtual.Claim, bool) {
	p.next() // HSETNX
	texts := make([]string, 0, t.n)
	for range t.n {
		if text, ok := p.text(); ok {
			texts = append(texts, text)
		}
	}
	top := uint64(p.number() + p.number()) // settled and trimmed, and still there
	t.taken(texts, t.n)
	out := make([]virtual.Claim, len(texts))
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	t.learn(texts, t.n)
	first := top - uint64(len(texts))
	if first < t.top {
		return nil, false
	}
	if first > t.top { // between them lie some whose answer we never got
		s.astray.Store(true)
	}
	t.top = max(t.top, top)
	for i, text := range texts {
		pos := top - uint64(len(texts)-1-i)
		t.open[pos] = held{at: now, size: len(text), text: text}
		out[i] = claimOf(t.queue, text)
		out[i].Tag = driver.Tag{ID: pos, Ref: t.ref}
	}
	return out, true
}

// popped reads what RPOP brought.
func (s *store) popped(t *take, p *parser) []virtual.Claim {
	texts := p.texts()
	t.taken(texts, t.n)
	s.mu.Lock()
	t.learn(texts, t.n)
	s.mu.Unlock()
	out := make([]virtual.Claim, len(texts))
	for i, text := range texts {
		out[i] = claimOf(t.queue, text)
		out[i].Tag = driver.Tag{Ref: t.list}
	}
	return out
}

// taken keeps count within one gather.
func (src *source) taken(texts []string, asked int) {
	*src.want -= len(texts)
	switch {
	case len(texts) < asked:
		src.have = 0
	case src.have != many:
		src.have -= len(texts)
	}
}

// learn sizes the next chunk. Under store.mu.
func (l *ownList) learn(texts []string, asked int) {
	if len(texts) == asked && asked == l.chunk {
		l.chunk = min(chunkGrowth*l.chunk, lastChunk)
	} else if len(texts) < asked && len(texts) <= l.chunk/4 {
		l.chunk = max(l.chunk/2, firstChunk)
	}
	if len(texts) > 0 {
		l.size = 0
		for _, t := range texts {
			l.size = max(l.size, len(t))
		}
	}
}

func claimOf(queue, text string) virtual.Claim {
	c := virtual.Claim{Queue: queue, Raw: []byte(text)}
	if n := tries(text); n > 0 {
		c.Attempt, c.Redelivered = n+1, true
	}
	return c
}

// parser walks the answers of a transaction; the first error stays. A key that
// is no list counts as an empty one: it must not stop the other queues.
type parser struct {
	answers []rueidis.RedisMessage
	wrong   error
	err     error
}

var errShort = errors.New("the server answered fewer commands than it was sent")

func (p *parser) next() *rueidis.RedisMessage {
	if len(p.answers) == 0 {
		p.fail(errShort)
		return &rueidis.RedisMessage{}
	}
	m := &p.answers[0]
	p.answers = p.answers[1:]
	p.fail(m.Error())
	return m
}

func (p *parser) fail(err error) {
	re, isRedis := rueidis.IsRedisErr(err)
	switch {
	case err == nil || rueidis.IsRedisNil(err):
	case isRedis && errorCode(re) == "WRONGTYPE":
		p.wrong = err
	case p.err == nil:
		p.err = err
	}
}

func (p *parser) number() int64 {
	n, err := p.next().AsInt64()
	p.fail(err)
	return n
}

func (p *parser) text() (string, bool) {
	m := p.next()
	text, err := m.ToString()
	return text, err == nil
}

func (p *parser) texts() []string {
	texts, err := p.next().AsStrSlice()
	p.fail(err)
	return texts
}

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

// wanted are the lists of each want. One that names no queue has none, which is
// told; some says whether there is any, and else wrong why not.
func (s *store) wanted(wants []virtual.Want) (lists [][]*ownList, some bool, wrong error) {
	lists = make([][]*ownList, len(wants))
	s.mu.Lock()
	for i := range wants {
		lists[i] = s.wants[wants[i].Queue]
	}
	s.mu.Unlock()
	for i := range wants {
		if lists[i] != nil {
			some = true
			continue
		}
		queue := wants[i].Queue
		if err := s.keys.checkQueue("claim", queue); err != nil {
			wrong = err
			s.warnOnce(queue, "nothing is consumed, this is no queue: "+err.Error())
			continue
		}
		some = true
		for _, list := range s.keys.lists(queue) {
			lists[i] = append(lists[i], s.ownList(list))
		}
		s.mu.Lock()
		s.wants[queue] = lists[i]
		s.mu.Unlock()
	}
	return lists, some, wrong
}

// Claim takes what there is: step by step, and within a step queue by queue in
// the order of r.Wants (redis.md section 3.1). Waiting takes nothing, so that a
// Python peer that waits is always served before. A want that names no queue is
// told and left out; when there is no other, the error is ErrInvalid.
func (s *store) Claim(ctx context.Context, r virtual.ClaimRequest, dst []virtual.Claim) (int, error) {
	lists, some, wrong := s.wanted(r.Wants)
	if !some || len(dst) == 0 {
		return 0, wrong
	}
	// Who comes again, or waits, is told by the server what changes: what it has
	// not told of need not be looked at.
	told := r.Again || r.Wait > 0
	for deadline, inVain := time.Now().Add(r.Wait), false; ; {
		if r.Wait > 0 {
			if err := s.await(ctx, lists, deadline, inVain); err != nil {
				return 0, err
			}
		}
		sources := s.sources(r.Wants, lists, len(dst), told)
		if len(sources) == 0 {
			if time.Now().Before(deadline) {
				continue
			}
			return 0, s.Err()
		}
		claims, err := call(ctx, s, "claim", driver.ErrUnavailable, func() ([]virtual.Claim, error) {
			if err := s.beginTaking(); err != nil {
				return nil, err
			}
			got, err := s.gather(slices.Clone(sources), len(dst), r, told)
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
		inVain = true
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

// A source is one list to claim from.
type source struct {
	*ownList
	want *int // how many more of this queue
	have int  // how many are there: unknown until looked at, many while every chunk is full
	told bool // the server was asked to tell of it
}

const (
	unknown = -1
	many    = int(^uint(0) >> 1)
)

// sources are the lists of wants to look at, step by step.
func (s *store) sources(wants []virtual.Want, lists [][]*ownList, limit int, told bool) (out []source) {
	left := make([]int, len(wants))
	for i := range wants {
		left[i] = min(wants[i].Max, limit)
	}
	all := !told || !s.track.on.Load()
	s.track.mu.Lock()
	defer s.track.mu.Unlock()
	for step := range s.keys.steps {
		for i, of := range lists {
			if left[i] > 0 && of != nil && (all || of[step].belief.state != emptyList) {
				out = append(out, source{of[step], &left[i], unknown, false})
			}
		}
	}
	return out
}

// gather claims in rounds: the first takes from the first list and looks at
// the rest, the next takes what was seen. Inside call.
// Told: it also asks, of lists that it expects to leave empty, whether they are.
func (s *store) gather(sources []source, limit int, r virtual.ClaimRequest, told bool) ([]virtual.Claim, error) {
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
	for range maxRounds {
		takes, looks := s.plan(sources, limit-len(out), r.MaxBytes, bytes)
		if len(takes) == 0 {
			break
		}
		var ask []*ownList
		if told && s.track.on.Load() {
			ask = drained(sources, takes, r.Wait > 0)
		}
		got, err := s.take(takes, looks, r.NoAck, ask)
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
		if r, err := s.tick(0); err == nil && r.stray != 0 { // what fails now is done by the next heartbeat
			s.unlisted.Store(true)
		}
	}
	return out, nil
}

// drained are the lists that are expected to be empty after takes, each once:
// those that are taken whole, and those that were. Who was asleep is mostly woken
// by a lonely message: then it is all of them.
func drained(sources []source, takes []take, all bool) (lists []*ownList) {
	for i := range takes {
		if t := &takes[i]; t.have != many && t.n >= t.have {
			t.told, lists = true, append(lists, t.ownList)
		}
	}
	for i := range sources {
		if src := &sources[i]; !src.told && (all || src.have == 0) {
			src.told, lists = true, append(lists, src.ownList)
		}
	}
	return lists
}

// A take is how many to move from one list.
type take struct {
	*source
	n int
}

// moves are the commands of takes, behind those that look at the fence and make
// the owner known.
func (s *store) moves(takes []take, noAck bool) []rueidis.Completed {
	n := 4
	for i := range takes {
		n += takes[i].n + 3
	}
	cmds := append(make([]rueidis.Completed, 0, n), s.fixed.fence, s.fixed.known)
	for _, t := range takes {
		if noAck {
			cmds = append(cmds, s.command("RPOP", t.ownList.source, strconv.Itoa(t.n)))
			continue
		}
		s.enlist(t.ownList)
		cmds = append(cmds, t.begin)
		for range t.n {
			cmds = append(cmds, t.move)
		}
		cmds = append(cmds, t.length)
	}
	return cmds
}

// places asks how many of each own list were settled and trimmed.
func (s *store) places(takes []take) rueidis.Completed {
	if len(takes) == 1 {
		return takes[0].place
	}
	args := append(make([]string, 0, 2+len(takes)), "HMGET", s.keys.ledger(s.env.Owner))
	for _, t := range takes {
		args = append(args, t.base)
	}
	return s.command(args...)
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
func (s *store) take(takes []take, looks []*source, noAck bool, lists []*ownList) ([]virtual.Claim, error) {
	cmds := s.moves(takes, noAck)
	for _, l := range looks {
		if l.used() { // enlist runs nowhere else meanwhile
			cmds = append(cmds, l.look)
		} else {
			cmds = append(cmds, s.command("LLEN", l.ownList.source))
		}
	}
	if !noAck {
		cmds = append(cmds, s.places(takes))
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
	if len(more) > 0 {
		_, _ = s.heard(lists, more) // what was not answered is not believed
	}
	if rueidis.IsRedisNil(answers[0].Error()) && !noAck {
		return nil, s.fenced()
	}
	if added, _ := answers[1].AsInt64(); added > 0 {
		s.unlisted.Store(true)
	}
	p := &parser{answers: answers[2:known]}
	before := &parser{} // how many of each own list were settled and trimmed
	if !noAck {
		before.answers, err = answers[known-1].ToArray()
		p.fail(err)
	}
	var out []virtual.Claim
	for i := range takes {
		if noAck {
			out = append(out, s.popped(&takes[i], p)...)
		} else {
			claims, whole := s.moved(&takes[i], p, before.number())
			p.fail(before.err)
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
func (s *store) moved(t *take, p *parser, base int64) ([]virtual.Claim, bool) {
	p.next() // HSETNX
	texts := make([]string, 0, t.n)
	for range t.n {
		if text, ok := p.text(); ok {
			texts = append(texts, text)
		}
	}
	top := uint64(base + p.number()) // settled and trimmed, and still there
	t.taken(texts, t.n)
	out := make([]virtual.Claim, len(texts))
	now := time.Now()
	if len(texts) > 0 {
		s.hurry()
	}
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

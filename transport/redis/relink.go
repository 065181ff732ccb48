package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// A session that consumes outlives its connection: its handlers run on, its
// claims stay its own, and calls wait until it is connected again. What ends it
// is the fence: another process took over. See decision 025.

var (
	errLinkLost   = errors.New("the connection was lost before the answer came")
	errRolledBack = errors.New("the server has lost claims of this session: it was restarted or replaced by one with older data, or its keys were deleted")
)

// Waits between attempts to connect again: the first comes at once.
const (
	relinkFirst = 50 * time.Millisecond
	relinkLast  = time.Second
)

// lost says that the connection that stands is of no use any more: it broke,
// or its server is silent, or no master.
func (s *store) lost(err error) {
	s.mu.Lock()
	l := s.link
	s.mu.Unlock()
	s.lostLink(l, err)
}

// lostLink ends the session because this connection of its broke or, where it
// outlives its connections, has beat make a new one.
func (s *store) lostLink(l *link, err error) {
	s.mu.Lock()
	again := s.relinks && !s.closing
	news := again && s.down == nil && s.link == l
	if news {
		s.down, s.why = make(chan struct{}), err
	}
	s.mu.Unlock()
	switch {
	case news:
		l.hangUp()
		s.fanout.suspect(err)
		s.broken <- struct{}{} // holds one; down makes it the only one
	case !again:
		s.end(&driver.Error{Op: "session", Transport: Scheme, Entity: s.cfg.where(), Kind: driver.ErrUnavailable, Err: err})
	}
}

// standing is the connection that stands; nil while there is none.
func (s *store) standing() *link {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.down != nil {
		return nil
	}
	return s.link
}

// awaiting is what a call has to wait for before it is sent: nil while the
// connection stands.
func (s *store) awaiting() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.down
}

// relink replaces the lost connection, trying for ever; false when the session
// ends. It holds all slots meanwhile, so that no command is under way, and what
// runs inside call uses one connection from beginning to end.
func (s *store) relink() bool {
	began := time.Now()
	s.mu.Lock()
	why := s.why
	s.mu.Unlock()
	s.env.Notify(driver.Event{Kind: driver.Warning, Entity: s.cfg.where(),
		Detail: "the connection is lost, claims are kept, connecting again: " + why.Error()})
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	s.loops.Go(func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	for held := range cap(s.slots) {
		select {
		case s.slots <- struct{}{}:
		case <-ctx.Done():
			s.freeSlots(held)
			return false
		}
	}
	defer s.freeSlots(cap(s.slots))
	s.link.shut()
	told := ""
	for wait := relinkFirst; ; wait = min(2*wait, relinkLast) {
		err := s.tryLink(ctx)
		if err == nil {
			break
		}
		if ctx.Err() != nil {
			return false
		}
		if text := err.Error(); text != told {
			told = text
			s.env.Log.Info("redis: connecting again", "error", err)
		}
		if !rest(ctx, wait/2+rand.N(wait/2)) {
			return false
		}
	}
	s.mu.Lock()
	close(s.down)
	s.down = nil
	s.mu.Unlock()
	s.track.changed(nil) // what was tracked is not any more
	s.env.Notify(driver.Event{Kind: driver.Warning, Entity: s.cfg.where(),
		Detail: fmt.Sprintf("connected again after %v, with all claims", time.Since(began).Round(time.Millisecond))})
	return true
}

func (s *store) freeSlots(n int) {
	for range n {
		<-s.slots
	}
}

// rest waits; false when ctx ended first.
func rest(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// tryLink makes one attempt, within the time that a connect has.
func (s *store) tryLink(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnectTimeout)
	defer cancel()
	l, err := dial(ctx, s.cfg, s.track.changed)
	if err != nil {
		return err
	}
	s.mu.Lock()
	before := s.run
	s.link = l
	s.mu.Unlock()
	if s.Err() != nil {
		l.hangUp() // end has hung up the one before
	}
	stop := context.AfterFunc(ctx, l.hangUp)
	defer stop()
	err = s.greet()
	if err == nil {
		err = s.resume(before)
	}
	if err == nil && !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		s.mu.Lock()
		s.run = before // its connection may still be to be killed
		s.mu.Unlock()
		l.shut()
		return connectError(ctx, s.cfg, err)
	}
	s.gen++
	l.watch(func(err error) { s.lostLink(l, err) })
	return nil
}

// resume is what a new connection begins with: nothing that was sent on the old
// one may be done any more, the owner's liveness names the new one, and the
// claims that only the server knows of go back.
func (s *store) resume(before string) error {
	run, id, _ := strings.Cut(before, "/")
	if ours, _, _ := strings.Cut(s.run, "/"); run == ours {
		_ = s.link.client.Do(s.ctx, s.command("CLIENT", "KILL", "ID", id)).Error() // mostly it has gone by itself
	}
	sent := time.Now()
	n, err := s.script(resumeScript, []string{s.keys.alive(s.env.Owner), s.keys.owners()}, []string{s.env.Owner, s.run, millis(aliveTTL(s.cfg))}).AsInt64()
	switch {
	case err != nil:
		return err
	case n == 0:
		return s.fenced()
	}
	select {
	case s.taking <- struct{}{}:
	case <-s.ctx.Done():
		return context.Cause(s.ctx)
	}
	defer s.endTaking()
	if err := s.returnStrays(); err != nil {
		return err
	}
	s.renewed(sent)
	return nil
}

// returnStrays gives back what lies in own lists and nobody here knows of: the
// answer to its claim was lost, or it could not be given back. The caller holds
// taking.
func (s *store) returnStrays() error {
	s.mu.Lock()
	lists := make([]*ownList, 0, len(s.own))
	for _, l := range s.own {
		if l.used() {
			lists = append(lists, l)
		}
	}
	s.mu.Unlock()
	for _, l := range lists {
		top, strays, err := s.strays(l)
		if err != nil {
			return err
		}
		s.mu.Lock()
		back := top < l.top
		s.mu.Unlock()
		if back {
			return s.rolledBack()
		}
		for batch := range slices.Chunk(strays, settleBatch) {
			if err := s.putBack(l, batch); err != nil {
				return err
			}
		}
		s.mu.Lock()
		l.top = top
		s.mu.Unlock()
	}
	return nil
}

// rolledBack ends the session: positions beyond what the server knows of would
// name other claims one day.
func (s *store) rolledBack() error {
	s.end(&driver.Error{Op: "session", Transport: Scheme, Entity: s.env.Owner, Kind: driver.ErrLeaseLost, Err: errRolledBack})
	return s.Err()
}

// strayLook is how many positions are looked at in one script.
const strayLook = 128

// strays finds the claims of one list that are not open here, newest first, and
// the newest position there is.
func (s *store) strays(l *ownList) (top uint64, out []uint64, err error) {
	keys := []string{s.keys.ledger(s.env.Owner), l.key}
	for from := int64(0); ; from += strayLook {
		answer, err := s.script(straysScript, keys, []string{l.list, tombstone(s.env.Owner), strconv.FormatInt(from, 10), strconv.Itoa(strayLook)}).AsIntSlice()
		if err != nil || len(answer) < 2 {
			return 0, nil, cmp.Or(err, errShort)
		}
		top = uint64(answer[0] + answer[1])
		s.mu.Lock()
		for _, pos := range answer[2:] {
			if _, open := l.open[uint64(pos)]; !open {
				out = append(out, uint64(pos))
			}
		}
		s.mu.Unlock()
		if from+strayLook >= answer[1] {
			break
		}
	}
	slices.SortFunc(out, func(a, b uint64) int { return cmp.Compare(b, a) })
	return top, slices.Compact(out), nil
}

// putBack returns positions of one own list to the head of its list, the newest
// of them first.
func (s *store) putBack(l *ownList, positions []uint64) error {
	g := make([]*virtual.Settlement, len(positions))
	for i, pos := range positions {
		g[i] = &virtual.Settlement{Settlement: driver.Settlement{Tag: driver.Tag{ID: pos, Ref: l.ref}, Outcome: driver.Release}}
	}
	keys, args, _ := s.settleArgs(l, g)
	answer := s.script(settleScript, keys, args)
	if n, err := answer.AsInt64(); err == nil && n == -1 {
		return s.fenced()
	}
	return answer.Error()
}

// renewed notes a good heartbeat, by the time at which it was sent.
func (s *store) renewed(sent time.Time) {
	s.good.Store(int64(sent.Sub(s.born)))
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.beaten)
	s.beaten = make(chan struct{})
}

// Hold returns nil at once while the claims of this session are its own for
// certain: a heartbeat was good less than a lease ago. Afterwards, when this
// process was stopped or the server could not be reached, it waits for the next
// one, which finds out. Its error is why the session is over, or ctx's cause.
func (s *store) Hold(ctx context.Context) error {
	for {
		s.mu.Lock()
		beaten := s.beaten
		s.mu.Unlock()
		if time.Since(s.born)-time.Duration(s.good.Load()) < s.cfg.Lease {
			return s.Err()
		}
		select {
		case <-beaten:
		case <-s.done:
			return s.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

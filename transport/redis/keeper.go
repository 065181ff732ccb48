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

// A keeper pushes and waits for replicas, over a connection of its own: WAIT
// speaks of what was written on the same one, and nothing else passes while it
// blocks.
type keeper struct {
	*outlet
	c driver.SenderConfig
}

const (
	keepFor    = 5 * time.Second       // at most: who comes later waits too
	keepMargin = 50 * time.Millisecond // of a caller's time, for the answer's way back
	nudgeEvery = 5 * time.Millisecond
)

// keep opens the connection. ErrUnsupported: Fsync, and the server has no
// WAITAOF (before 7.2) or no append-only file.
func (s *store) keep(ctx context.Context, c driver.SenderConfig) (virtual.Outlet, error) {
	ctx, cancel := context.WithTimeout(ctx, s.cfg.ConnectTimeout)
	defer cancel()
	o, err := s.openOutlet(ctx, s.cfg)
	if err != nil {
		return nil, err
	}
	k := &keeper{o, c}
	if c.Fsync { // nothing was written: it answers at once, or says that it cannot
		if err := o.link.client.Do(ctx, s.command("WAITAOF", "1", "0", "1")).Error(); err != nil {
			_ = k.Close(ctx)
			if re, ok := rueidis.IsRedisErr(err); ok && (redisKind(re) == driver.ErrUnsupported || isAbout(re, "appendonly")) {
				return nil, &driver.Error{Op: "publish", Transport: Scheme, Entity: "Fsync", Kind: driver.ErrUnsupported,
					Err: errors.Join(errors.New("want WAITAOF, of Redis 7.2 with appendonly"), err)}
			}
			return nil, connectError(ctx, s.cfg, err)
		}
	}
	return k, nil
}

// Push is that of the store, and then waits: nil means that so many replicas
// have it, see SenderConfig.
func (k *keeper) Push(ctx context.Context, items []virtual.Item) error {
	s := k.s
	loads := s.load(items, copied)
	if len(loads) == 0 {
		return nil
	}
	w := &waiting{loads: loads, ends: make([]time.Time, len(items))}
	for i := range items {
		if m := items[i].Msg; m != nil && !m.Until.IsZero() {
			w.ends[i] = m.Until.Add(-keepMargin)
		}
	}
	errs, err := call(ctx, s, "publish", driver.ErrUncertain, func() ([]error, error) { return k.push(w), nil }, nil)
	for _, l := range loads {
		for _, n := range l.items {
			if items[n].Err = err; err == nil {
				items[n].Err = errs[n]
			}
		}
	}
	if err != nil && s.Err() != nil {
		return s.Err()
	}
	return nil
}

// waiting is one push on its way. It holds nothing of the caller's, who may be
// gone.
type waiting struct {
	loads []load
	ends  []time.Time // of items: when each must be answered; zero: at limit
	limit time.Time
	open  []int // items that were pushed and wait
	errs  []error
}

// push sends loads and a first WAIT together, and waits again for those whose
// callers have more time. Inside call.
func (k *keeper) push(w *waiting) []error {
	s := k.s
	w.limit, w.errs = time.Now().Add(keepFor), make([]error, len(w.ends))
	for i, end := range w.ends {
		if end.IsZero() || end.After(w.limit) {
			w.ends[i] = w.limit
		}
	}
	for _, l := range w.loads {
		w.open = append(w.open, l.items...)
	}
	cmds := s.pushes(w.loads)
	n := len(cmds)
	wait, until := k.wait(w)
	answers := k.do(until, append(cmds, wait)...)
	for i, err := range pushed(w.loads, answers[:n]) {
		for _, at := range w.loads[i].items {
			w.errs[at] = s.failed("publish", w.loads[i].queue, driver.ErrUncertain, err)
		}
	}
	w.open = slices.DeleteFunc(w.open, func(at int) bool { return w.errs[at] != nil })
	for answer := answers[n]; ; answer = k.do(until, wait)[0] {
		if k.decide(w, answer, until); len(w.open) == 0 {
			return w.errs
		}
		wait, until = k.wait(w)
	}
}

// do runs commands. One that has not answered long after a wait was to end is
// given up.
func (k *keeper) do(until time.Time, cmds ...rueidis.Completed) []rueidis.RedisResult {
	done := make(chan struct{})
	defer close(done)
	k.s.spawn(func() { k.nudge(until, done) })
	if patience := silentFor(k.s.cfg); patience > 0 {
		timer := time.AfterFunc(time.Until(until)+patience, func() { k.s.lost(errSilent) })
		defer timer.Stop()
	}
	return k.link.client.DoMulti(k.s.ctx, cmds...)
}

// nudge makes the server look at its waits: an idle Redis ends them when its
// clock ticks, up to 100 ms late, or when anything else arrives.
func (k *keeper) nudge(until time.Time, done <-chan struct{}) {
	for timer := time.NewTimer(time.Until(until)); ; timer.Reset(nudgeEvery) {
		select {
		case <-timer.C:
		case <-done:
			timer.Stop()
			return
		}
		if k.s.link.client.Do(k.s.ctx, k.s.command("PING")).Error() != nil {
			return
		}
	}
}

// wait is the command for the first of the open items whose caller gives up,
// and when that is.
func (k *keeper) wait(w *waiting) (rueidis.Completed, time.Time) {
	until := w.limit
	for _, n := range w.open {
		if w.ends[n].Before(until) {
			until = w.ends[n]
		}
	}
	ms := millis(time.Until(until)) // at least 1, for 0 is for ever
	if k.c.Fsync {
		return k.s.command("WAITAOF", "1", strconv.Itoa(k.c.Replicas), ms), until
	}
	return k.s.command("WAIT", strconv.Itoa(k.c.Replicas), ms), until
}

// decide gives the open items what a wait that ended then has shown.
func (k *keeper) decide(w *waiting, answer rueidis.RedisResult, until time.Time) {
	e, err := k.read(answer)
	w.open = slices.DeleteFunc(w.open, func(n int) bool {
		switch {
		case err != nil: // the message is there; what was refused or lost is the wait
			w.errs[n] = &driver.Error{Op: "publish", Transport: Scheme, Kind: driver.ErrUncertain, Err: err}
		case e == nil:
		case w.ends[n].After(until):
			return false
		default:
			w.errs[n] = &driver.Error{Op: "publish", Transport: Scheme, Kind: driver.ErrUncertain, Err: e}
		}
		return true
	})
}

// read is nil when enough have it.
func (k *keeper) read(answer rueidis.RedisResult) (*driver.ReplicaError, error) {
	e := &driver.ReplicaError{Want: k.c.Replicas, Fsync: k.c.Fsync, Disk: true}
	var err error
	if k.c.Fsync {
		var n []int64
		if n, err = answer.AsIntSlice(); err == nil && len(n) != 2 {
			err = errShort
		}
		if err == nil {
			e.Disk, e.Replicas = n[0] > 0, int(n[1])
		}
	} else {
		var n int64
		n, err = answer.AsInt64()
		e.Replicas = int(n)
	}
	if err != nil || e.Disk && e.Replicas >= e.Want {
		return nil, err
	}
	return e, nil
}

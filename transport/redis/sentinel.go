package redis

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
)

// A sentinel is one of those that know the master. The connection to it is
// kept between questions; one goroutine asks at a time.
type sentinel struct {
	c    *Config
	name string
	link *link
}

// A view is what one sentinel says of the master.
type view struct {
	addr  string
	epoch int64 // of the configuration: a failover raises it
	down  bool  // the sentinel does not reach it
}

const (
	// Who has heard one waits so long for the others: the first may have been
	// cut off, and tell of the master of before.
	othersIn    = 300 * time.Millisecond
	askEvery    = 500 * time.Millisecond
	askFor      = time.Second
	masterPause = 100 * time.Millisecond
)

func (c *Config) sentinels() []*sentinel {
	all := make([]*sentinel, len(c.Sentinels))
	for i, addr := range c.Sentinels {
		at := *c
		at.Addr, at.Socket, at.DB, at.Sentinels = addr, "", 0, nil
		at.User, at.Pass, at.Password, at.Secure = c.SentinelUser, c.SentinelPass, nil, c.SentinelSecure
		all[i] = &sentinel{c: &at, name: c.MasterName}
	}
	return all
}

// ask returns what this sentinel says; ErrNotFound when it does not know the
// master's name.
func (t *sentinel) ask(ctx context.Context, others int) (view, error) {
	if t.link == nil {
		l, err := dialOne(ctx, t.c, nil)
		if err != nil {
			return view{}, err
		}
		t.link = l
	}
	b := t.link.client.B()
	answers := t.link.client.DoMulti(ctx,
		b.Arbitrary("SENTINEL", "GET-MASTER-ADDR-BY-NAME", t.name).Build(),
		b.Arbitrary("SENTINEL", "MASTER", t.name).Build())
	v, err := viewOf(answers, others)
	if err != nil {
		kind := driver.ErrUnavailable
		if rueidis.IsRedisNil(err) {
			kind, err = driver.ErrNotFound, fmt.Errorf("the sentinel knows no master %q", t.name)
		} else if _, answered := rueidis.IsRedisErr(err); !answered {
			t.shut()
		}
		return v, &driver.Error{Op: "connect", Transport: Scheme, Entity: t.c.Addr, Kind: kind, Err: err}
	}
	return v, nil
}

var errFewSentinels = errors.New("the sentinel knows fewer others than min_other_sentinels")

func viewOf(answers []rueidis.RedisResult, others int) (v view, err error) {
	addr, err := answers[0].AsStrSlice()
	if err != nil {
		return v, err
	}
	state, err := answers[1].AsStrMap()
	if err != nil {
		return v, err
	}
	number := func(key string) int64 {
		n, e := strconv.ParseInt(state[key], 10, 64)
		if e != nil && err == nil {
			err = fmt.Errorf("SENTINEL MASTER: %s is %q", key, state[key])
		}
		return n
	}
	v.epoch = number("config-epoch")
	if number("num-other-sentinels") < int64(others) && err == nil {
		err = errFewSentinels
	}
	if len(addr) != 2 {
		return v, cmp.Or(err, errShort)
	}
	v.addr = net.JoinHostPort(addr[0], addr[1])
	v.down = strings.Contains(state["flags"], "_down")
	return v, err
}

func (t *sentinel) shut() {
	if t.link != nil {
		t.link.shut()
		t.link = nil
	}
}

func shutAll(all []*sentinel) {
	for _, t := range all {
		t.shut()
	}
}

// askAll asks every sentinel at once and returns what those say that answer in
// time, newest first. The error is why nobody answered.
func askAll(ctx context.Context, c *Config, all []*sentinel) ([]view, error) {
	views, why := gather(ctx, all, func(ctx context.Context, t *sentinel) (view, error) { return t.ask(ctx, c.MinOtherSentinels) })
	slices.SortStableFunc(views, func(a, b view) int {
		switch {
		case a.epoch != b.epoch:
			return cmp.Compare(b.epoch, a.epoch)
		case a.down != b.down && b.down:
			return -1
		case a.down != b.down:
			return 1
		}
		return 0
	})
	if len(views) > 0 {
		return views, nil
	}
	kind := driver.ErrUnavailable
	switch {
	case errors.Is(why, driver.ErrDenied):
		kind = driver.ErrDenied
	case errors.Is(why, driver.ErrNotFound) && !errors.Is(why, driver.ErrUnavailable):
		kind = driver.ErrNotFound
	}
	return nil, &driver.Error{Op: "connect", Transport: Scheme, Entity: c.MasterName, Kind: kind, Err: why}
}

// master is where the newest view has the master, when it is not down there.
func master(ctx context.Context, c *Config, all []*sentinel) (view, error) {
	views, err := askAll(ctx, c, all)
	if err != nil {
		return view{}, err
	}
	if views[0].down {
		return views[0], &driver.Error{Op: "connect", Transport: Scheme, Entity: c.MasterName, Kind: driver.ErrUnavailable,
			Err: fmt.Errorf("the master %s is down, and the sentinels have no other yet", views[0].addr)}
	}
	return views[0], nil
}

// dialMaster asks the sentinels for the master and opens a connection to it,
// again and again while ctx lasts: during a failover there is none for a while.
// What cannot become better by waiting is returned at once.
func dialMaster(ctx context.Context, c *Config, onKeys func([]rueidis.RedisMessage)) (*link, error) {
	all := c.sentinels()
	defer shutAll(all)
	for {
		v, err := master(ctx, c, all)
		if err == nil {
			var l *link
			if l, err = dialNamed(ctx, c, all, v, onKeys); err == nil {
				return l, nil
			}
		}
		if errors.Is(err, driver.ErrDenied) || errors.Is(err, driver.ErrNotFound) {
			return nil, err
		}
		timer := time.NewTimer(masterPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// dialNamed opens a connection to the master that was named, which must say so
// itself. It gives up as soon as the sentinels name another: a master that was
// lost may swallow what is sent to it.
func dialNamed(ctx context.Context, c *Config, all []*sentinel, v view, onKeys func([]rueidis.RedisMessage)) (*link, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() {
		ticker := time.NewTicker(askEvery)
		defer ticker.Stop()
		for {
			select {
			case <-ticker.C:
			case <-ctx.Done():
				return
			}
			if now, err := master(ctx, c, all); err == nil && now.addr != v.addr {
				cancel(fmt.Errorf("the master is now %s", now.addr))
			}
		}
	})
	at := *c
	at.Addr, at.Socket, at.Sentinels = v.addr, "", nil
	l, err := dialOne(ctx, &at, onKeys)
	if err != nil {
		return nil, err
	}
	l.epoch = v.epoch
	role, err := l.client.Do(ctx, l.client.B().Arbitrary("ROLE").Build()).ToArray()
	if err == nil && len(role) > 0 {
		if what, _ := role[0].ToString(); what != "master" {
			err = fmt.Errorf("the server is a %s", what)
		}
	}
	if err != nil {
		l.shut()
		return nil, connectError(ctx, &at, err)
	}
	return l, nil
}

var errSwitched = errors.New("the sentinels have a new master")

// follow ends the connection once the sentinels name another master, and that
// one says so itself: the old one may stand and answer for long, alone.
func (s *store) follow() {
	ctx, cancel := context.WithCancel(s.ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-s.stop:
			cancel()
		case <-ctx.Done():
		}
	})
	all := s.cfg.sentinels()
	defer shutAll(all)
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		views, err := askAll(ctx, s.cfg, all)
		l := s.standing()
		if err != nil || views[0].down || l == nil || !l.supersededBy(views) {
			continue
		}
		if l, err := dialNamed(ctx, s.cfg, all, views[0], nil); err == nil {
			l.shut()
			s.lost(fmt.Errorf("%w: %s", errSwitched, views[0].addr))
		}
	}
}

// supersededBy says whether the newest of these views is of another master
// than the one at this link: chosen later, or nobody knows of ours.
func (l *link) supersededBy(views []view) bool {
	if views[0].addr == l.addr {
		return false
	}
	return views[0].epoch > l.epoch || !slices.ContainsFunc(views, func(v view) bool { return v.addr == l.addr })
}

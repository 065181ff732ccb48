package redis

import (
	"context"
	"net"
	"runtime"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// A muteConn reads in vain while it is mute: nothing arrives but its end.
type muteConn struct {
	net.Conn
	mute *atomic.Bool
}

func (c muteConn) Read(p []byte) (int, error) {
	for {
		if n, err := c.Conn.Read(p); err != nil || !c.mute.Load() {
			return n, err
		}
	}
}

// outlet opens one, which can be made mute, and its session.
func (t *tester) outlet(change ...func(*Config)) (*store, *outlet, *atomic.Bool) {
	t.Helper()
	mute := &atomic.Bool{}
	var dials atomic.Int32
	s, _ := t.openRole(driver.Publish, append(change, func(c *Config) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if dials.Add(1) == 2 {
				conn = muteConn{conn, mute}
			}
			return conn, err
		}
	})...)
	o, err := s.OpenOutlet(soon(t), driver.SenderConfig{Window: 1})
	if err != nil {
		t.Fatal(err)
	}
	return s, o.(*outlet), mute
}

// readers counts the connections that rueidis reads at all times.
func readers() int {
	buf := make([]byte, 1<<20)
	return strings.Count(string(buf[:runtime.Stack(buf, true)]), "_backgroundRead(")
}

// push is what a sender's goroutine does: nobody leaves before the answer.
func (o *outlet) push(body string) error {
	items := []virtual.Item{{Queue: "q", Raw: []byte(body)}}
	_ = o.Push(context.Background(), items)
	return items[0].Err
}

// A sender's pushes go over its own connection, on its own goroutine: rueidis starts
// none of its own. Nor does what else the session does, or the ping.
func TestOutlet(tt *testing.T) {
	t := newTester(tt)
	s, o, _ := t.outlet()
	before := readers()
	for _, body := range []string{"a", "b", "c"} {
		if err := o.push(body); err != nil {
			t.Fatal(err)
		}
		o.ping()
		if _, err := s.Stat(soon(t), "q"); err != nil {
			t.Fatal(err)
		}
	}
	eventually(t, "the pings' answers", func() bool { return !o.link.asked.Load() })
	want(t, "rueidis's readers", readers(), before)
	want(t, "waiting", t.number("LLEN", "q"), 3)
	want(t, "connections", len(s.openOutlets()), 1)
	if err := o.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	want(t, "connections", len(s.openOutlets()), 0)
	if err := s.Err(); err != nil {
		t.Error("the session ended with its outlet: ", err)
	}
}

// A session that outlives its connection has none: it pushes over that one.
func TestNoOutletBesideClaims(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.consumer()
	if o, err := s.OpenOutlet(soon(t), driver.SenderConfig{Window: 1}); o != nil || err != nil {
		t.Errorf("%v, %v", o, err)
	}
}

// An outlet that is cut off while nobody pushes, so that nobody reads from it, is
// missed by its ping.
func TestACutOutletEndsTheSession(tt *testing.T) {
	t := newTester(tt)
	s, o, _ := t.outlet()
	if err := o.push("a"); err != nil {
		t.Fatal(err)
	}
	id, err := o.do([]rueidis.Completed{s.command("CLIENT", "ID")})[0].AsInt64()
	if err != nil {
		t.Fatal(err)
	}
	if killed := t.number("CLIENT", "KILL", "ID", strconv.FormatInt(id, 10)); killed != 1 {
		t.Fatalf("killed %d", killed)
	}
	select {
	case <-s.Done():
		wantKind(t, "why", s.Err(), driver.ErrUnavailable)
	case <-soon(t).Done():
		t.Fatal("the session is not over")
	}
}

// One that says nothing any more is given up, and a push that waits for it is
// uncertain.
func TestASilentOutletEndsTheSession(tt *testing.T) {
	t := newTester(tt)
	s, o, mute := t.outlet(func(c *Config) { c.Heartbeat = time.Second })
	mute.Store(true)
	pushed := make(chan error)
	go func() { pushed <- o.push("a") }()
	select {
	case err := <-pushed:
		wantKind(t, "push", err, driver.ErrUncertain)
	case <-soon(t).Done():
		t.Fatal("the push has not ended")
	}
	<-s.Done()
	wantKind(t, "why", s.Err(), errSilent)
}

// Close does not wait for what an outlet owes.
func TestCloseBesideASilentOutlet(tt *testing.T) {
	t := newTester(tt)
	s, o, mute := t.outlet()
	mute.Store(true)
	pushed := make(chan error)
	go func() { pushed <- o.push("a") }()
	eventually(t, "the server to have it", func() bool { return t.number("LLEN", "q") == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	start := time.Now()
	_ = s.Close(ctx)
	if took := time.Since(start); took > 500*time.Millisecond+raceSlack {
		t.Errorf("took %v", took)
	}
	wantKind(t, "push", <-pushed, driver.ErrUncertain)
}

package redis

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// durable is a server of the test's own that keeps what it has answered.
func durable(tt testing.TB) (*server, *tester) {
	v := startServer(tt, "--appendonly", "yes", "--appendfsync", "always")
	return v, &tester{TB: tt, config: Config{Addr: v.addr}, raw: rawClient(tt, v.addr, 0)}
}

func (t *tester) killLinks(s *store) {
	t.Helper()
	value, err := t.do("GET", aliveKey+s.env.Owner).ToString()
	if err != nil {
		t.Fatal(err)
	}
	_, id, _ := strings.Cut(value, "/")
	t.do("CLIENT", "KILL", "ID", id)
}

// A consuming session whose connection is killed, again and again, keeps its
// claims, settles them, and goes on claiming, in order.
func TestAConsumerOutlivesItsConnection(tt *testing.T) {
	t := newTester(tt)
	s, ev := t.consumer()
	t.push(s, "q", "a", "b", "c", "d", "e", "f")
	got := t.claim(s, 3, "q")
	for round := range 3 {
		t.killLinks(s)
		eventually(t, "the loss to be told", func() bool { return ev.count(driver.Warning, "is lost") == round+1 })
		t.mustSettle(s, driver.Ack, got[round])
	}
	want(t, "told of the return", ev.count(driver.Warning, "connected again"), 3)
	wantKind(t, "the session", s.Err(), nil)
	rest := t.claim(s, 3, "q")
	want(t, "claimed", t.bodies(rest), "d e f")
	t.mustSettle(s, driver.Requeue, rest...)
	want(t, "ready", t.ready("q"), "d e f")
	want(t, "owners", t.number("ZCARD", ownersKey), 1)
}

// A waiting claim is woken after the connection came back.
func TestAWaitingClaimOutlivesItsConnection(tt *testing.T) {
	t := newTester(tt)
	s, ev := t.consumer()
	var wg sync.WaitGroup
	var got []virtual.Claim
	wg.Go(func() {
		dst := make([]virtual.Claim, 1)
		n, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 1}}, Wait: time.Minute}, dst)
		if n != 1 || err != nil {
			t.Error(n, err)
		}
		got = dst
	})
	eventually(t, "the claimer to wait", func() bool {
		s.track.mu.Lock()
		defer s.track.mu.Unlock()
		return len(s.track.waiters) == 1
	})
	t.killLinks(s)
	eventually(t, "the connection", func() bool { return ev.count(driver.Warning, "connected again") == 1 })
	t.do("LPUSH", "q", envelope("a", 0))
	sent := time.Now()
	wg.Wait()
	if took := time.Since(sent); took > pollTracked/2 {
		t.Errorf("woke after %v: tracking is not armed again", took)
	}
	want(t, "claimed", t.bodies(got), "a")
}

// Claims whose answer was lost go back to the head, in order, and a settle
// whose answer was lost says what became of it.
func TestAnswersThatAreLost(tt *testing.T) {
	t := newTester(tt)
	gate := &sync.RWMutex{}
	s, _ := t.consumer(func(c *Config) {
		c.Mirror = MirrorAlways
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return lossyConn{heldConn{conn, gate}}, err
		}
	})
	t.push(s, "q", "a", "b", "c", "d", "e", "f")
	t.push(s, "out", "x")
	got := t.claim(s, 3, "q")
	t.do("HDEL", "unacked", s.env.Owner+":q:3") // Kombu's sweep took it
	t.do("ZREM", "unacked_index", s.env.Owner+":q:3")
	own := ownKey + s.env.Owner + ":q"
	lose := func(what string, seen func() bool, call func()) {
		t.Helper()
		gate.Lock()
		var wg sync.WaitGroup
		defer wg.Wait()
		defer gate.Unlock()
		wg.Go(call)
		eventually(t, what, seen)
		t.killLinks(s)
	}
	var errs []error
	lose("ack", func() bool { return t.number("HLEN", "unacked") == 1 }, func() { errs = t.settle(s, driver.Ack, got[0]) })
	wantKind(t, "an ack whose answer was lost", errs[0], nil)
	lose("ack of a stolen claim", func() bool { return strings.HasPrefix(t.list(own)[0], "\x00") }, func() { errs = t.settle(s, driver.Ack, got[2]) })
	wantKind(t, "an ack of what Python took, whose answer was lost", errs[0], driver.ErrLeaseLost)
	move := []virtual.Settlement{{Settlement: driver.Settlement{Tag: got[1].Tag}, Put: []virtual.Item{{Queue: "out", Raw: []byte("moved")}}}}
	lose("move", func() bool { return t.number("LLEN", "out") == 2 }, func() { _ = s.Settle(soon(t), move) })
	wantKind(t, "a move whose answer was lost", move[0].Err, nil)
	want(t, "moved once", t.number("LLEN", "out"), 2)
	want(t, "what was kept to be told", t.number("HLEN", ledgerKey+s.env.Owner), 2)
	var next []virtual.Claim
	lose("claim", func() bool { return t.number("LLEN", own) == 2 }, func() { next = t.claim(s, 2, "q") })
	want(t, "claimed again", t.bodies(next), "d e")
	t.mustSettle(s, driver.Release, next...)
	want(t, "ready", t.ready("q"), "d e f")
}

// A lossyConn hands out nothing that it read once it is broken.
type lossyConn struct{ heldConn }

func (c lossyConn) Read(p []byte) (int, error) {
	n, err := c.heldConn.Read(p)
	if err == nil {
		one := [1]byte{}
		_ = c.Conn.SetReadDeadline(time.Now().Add(time.Millisecond))
		k, e := c.Conn.Read(one[:])
		_ = c.Conn.SetReadDeadline(time.Time{})
		if k == 1 && len(p) > n {
			p[n] = one[0]
			return n + 1, nil
		}
		if ne, isNet := e.(net.Error); e != nil && (!isNet || !ne.Timeout()) {
			return 0, e
		}
	}
	return n, err
}

// The server is killed and comes back with what it had: nobody is taken over.
func TestTwentyConsumersOutliveTheServer(tt *testing.T) {
	silence := 12 * time.Second // longer than a silent server is waited for
	for name, hurt := range map[string]func(*server){
		"killed": func(v *server) { v.kill(); v.start() },
		"stopped": func(v *server) {
			_ = v.cmd.Process.Signal(syscall.SIGSTOP)
			time.Sleep(silence) // the fault itself
			_ = v.cmd.Process.Signal(syscall.SIGCONT)
		},
	} {
		tt.Run(name, func(tt *testing.T) {
			tt.Parallel()
			v, t := durable(tt)
			const consumers, each = 20, 100
			var items []virtual.Item
			for i := range consumers * each {
				items = append(items, virtual.Item{Queue: "q", Raw: []byte(envelope(fmt.Sprint(i), 0))})
			}
			type holder struct {
				s      *store
				ev     *events
				claims []virtual.Claim
			}
			var all []*holder
			for range consumers {
				h := &holder{}
				h.s, h.ev = t.consumer()
				if len(all) == 0 {
					t.pushItems(h.s, items)
				}
				h.claims = t.claim(h.s, each, "q")
				all = append(all, h)
			}
			eventually(t, "the mirror", func() bool { return t.number("HLEN", "unacked") == consumers*each })
			t.raw.Close()
			hurt(v)
			back := time.Now()
			var wg sync.WaitGroup
			for _, h := range all {
				wg.Go(func() {
					for _, err := range t.settle(h.s, driver.Ack, h.claims[:each/2]...) {
						if err != nil {
							t.Error(err)
						}
					}
				})
			}
			wg.Wait()
			if took := time.Since(back); took > 10*time.Second {
				t.Errorf("settled after %v", took)
			}
			t.Logf("settled %v after the server was back", time.Since(back))
			t.raw = rawClient(tt, v.addr, 0)
			since := time.Now()
			eventually(t, "a while in which somebody could be taken over", func() bool { return time.Since(since) > 6*time.Second })
			for _, h := range all {
				wantKind(t, "a session", h.s.Err(), nil)
				t.mustSettle(h.s, driver.Ack, h.claims[each/2:]...)
			}
			want(t, "left", t.number("EXISTS", "q", "unacked"), 0)
			want(t, "owners", t.number("ZCARD", ownersKey), consumers)
		})
	}
}

// Without its data the server has no claims: the session says so and ends.
func TestAServerThatForgotEndsTheSession(tt *testing.T) {
	v := startServer(tt)
	t := &tester{TB: tt, config: Config{Addr: v.addr}, raw: rawClient(tt, v.addr, 0)}
	s, _ := t.consumer()
	t.push(s, "q", "a")
	got := t.claim(s, 1, "q")
	v.kill()
	v.start()
	wantKind(t, "settle", t.settle(s, driver.Ack, got...)[0], driver.ErrLeaseLost)
	wantKind(t, "the session", s.Err(), errFenced)
}

// It came back with older data: positions would name other claims.
func TestAServerWithOlderDataEndsTheSession(tt *testing.T) {
	v := startServer(tt)
	t := &tester{TB: tt, config: Config{Addr: v.addr}, raw: rawClient(tt, v.addr, 0)}
	s, _ := t.consumer()
	t.push(s, "q", "a", "b")
	t.claim(s, 1, "q")
	t.do("SAVE")
	got := t.claim(s, 1, "q")
	v.kill()
	v.start()
	wantKind(t, "settle", t.settle(s, driver.Ack, got...)[0], driver.ErrLeaseLost)
	wantKind(t, "the session", s.Err(), errRolledBack)
}

// Publishers end with their connection, and have no heartbeat to be looked at.
func TestAPublisherEndsWithItsConnection(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.openRole(driver.Publish)
	t.push(s, "q", "a")
	want(t, "keys", t.keys(), `["q"]`)
	abandon(t, s)
	wantKind(t, "push", s.Push(soon(t), []virtual.Item{{Queue: "q", Raw: []byte("x")}}), driver.ErrUnavailable)
}

// Fan-out subscriptions are made again, and the gap is told.
func TestASubscriptionOutlivesItsConnection(tt *testing.T) {
	t := newTester(tt)
	var mu sync.Mutex
	var conns []net.Conn
	s, ev := t.consumer(func(c *Config) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			return conn, err
		}
	})
	sub, err := s.Subscribe(soon(t), driver.ReceiverConfig{Queue: "fq"}, []driver.Binding{{Exchange: "e"}})
	if err != nil {
		t.Fatal(err)
	}
	for round := range 3 {
		mu.Lock()
		conns[len(conns)-1].Close()
		mu.Unlock()
		eventually(t, "the gap to be told", func() bool { return ev.count(driver.Dropped, "fan-out's connection") == round+1 })
		eventually(t, "the subscription", func() bool { return t.number("PUBLISH", s.channel("e", ""), envelope("x", 0)) > 0 })
		dst := make([]virtual.Claim, 1)
		if n, err := sub.Receive(soon(t), dst); n != 1 || err != nil {
			t.Fatal(n, err)
		}
	}
	wantKind(t, "the session", s.Err(), nil)
	if err := sub.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
}

// Close of a session without a connection does not wait for one.
func TestCloseWithoutAConnection(tt *testing.T) {
	v := startServer(tt)
	t := &tester{TB: tt, config: Config{Addr: v.addr}}
	s, ev, err := openAs(t.config, driver.Consume)
	if err != nil {
		t.Fatal(err)
	}
	v.kill()
	eventually(t, "the loss", func() bool { return ev.count(driver.Warning, "is lost") == 1 })
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	_, err = s.Stat(ctx, "q")
	wantKind(t, "a call", err, context.DeadlineExceeded)
	began := time.Now()
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > time.Second {
		t.Fatalf("took %v", took)
	}
}

// A fan-out's connection that is dead without a word is found out, and replaced.
func TestASilentSubscriptionIsMadeAgain(tt *testing.T) {
	t := aside(tt)
	gate := &sync.RWMutex{}
	var dials atomic.Int32
	s, ev := t.consumer(func(c *Config) {
		c.Heartbeat = time.Second
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			if dials.Add(1) == 2 {
				conn = heldConn{conn, gate}
			}
			return conn, err
		}
	})
	sub, err := s.Subscribe(soon(t), driver.ReceiverConfig{Queue: "fq"}, []driver.Binding{{Exchange: "e"}})
	if err != nil {
		t.Fatal(err)
	}
	gate.Lock()
	var once sync.Once
	defer once.Do(gate.Unlock)
	eventually(t, "the silence to be noticed", func() bool {
		if dials.Load() == 2 && t.number("PUBSUB", "NUMPAT") == 0 {
			once.Do(gate.Unlock)
		}
		return ev.count(driver.Dropped, "fan-out's connection") == 1
	})
	eventually(t, "the subscription", func() bool { return t.number("PUBLISH", s.channel("e", ""), envelope("x", 0)) > 0 })
	dst := make([]virtual.Claim, 1)
	if n, err := sub.Receive(soon(t), dst); n != 1 || err != nil {
		t.Fatal(n, err)
	}
	wantKind(t, "the session", s.Err(), nil)
}

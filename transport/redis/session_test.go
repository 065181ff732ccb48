package redis

import (
	"context"
	"errors"
	"io"
	"log/slog"
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

// pause stops a server's process as a hung machine would, until the test ends.
func pause(t testing.TB, v *server) {
	t.Helper()
	if err := v.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.cmd.Process.Signal(syscall.SIGCONT) })
}

func TestBehaviour195_WrongPassword(tt *testing.T) {
	t := newTester(tt)
	v := startServer(t, "--requirepass", "right")
	t.config.Addr, t.config.DB, t.config.Pass = v.addr, 0, "wrong"
	_, _, err := openWith(t.config)
	wantKind(t, "wrong password", err, driver.ErrDenied)
	if strings.Contains(err.Error(), "wrong password") || strings.Contains(err.Error(), "right") {
		t.Fatal("a secret in the message: ", err)
	}
	t.config.Pass = ""
	_, _, err = openWith(t.config)
	wantKind(t, "no password", err, driver.ErrDenied)
	var asked atomic.Int32
	t.config.Password = func(context.Context) (string, error) { asked.Add(1); return "right", nil }
	s, _, err := openWith(t.config)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	want(t, "asked for the password", asked.Load(), 1)
	t.config.User = "nobody"
	_, _, err = openWith(t.config)
	wantKind(t, "unknown user", err, driver.ErrDenied)
}

func TestConnectFails(tt *testing.T) {
	t := newTester(tt)
	c := t.config
	c.Addr = "127.0.0.1:1"
	_, _, err := openWith(c)
	wantKind(t, "refused", err, driver.ErrUnavailable)
	wantKind(t, "refused", err, syscall.ECONNREFUSED)
	c = t.config
	c.DB = 12345
	_, _, err = openWith(c)
	wantKind(t, "no such database", err, driver.ErrNotFound)
	c = t.config
	c.Socket = "/nonexistent/r.sock"
	_, _, err = openWith(c)
	wantKind(t, "no socket", err, driver.ErrUnavailable)
}

// TestBehaviour189: a server that answers nothing, or nonsense, leaves neither
// socket nor goroutine behind, and Connect ends in time.
func TestBehaviour189_ServerThatIsNone(t *testing.T) {
	for name, serve := range map[string]func(net.Conn){
		"silent":   func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
		"hangs up": func(c net.Conn) { c.Close() },
		"nonsense": func(c net.Conn) { _, _ = c.Write([]byte("HTTP/1.0 400 Bad Request\r\n\r\n")); c.Close() },
		"refuses":  func(c net.Conn) { _, _ = c.Write([]byte("-ERR max number of clients reached\r\n")); c.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					wg.Go(func() { serve(c); c.Close() })
				}
			})
			defer wg.Wait()
			defer l.Close()
			start := time.Now()
			_, _, err = openWith(Config{Addr: l.Addr().String(), DialConfig: driver.DialConfig{ConnectTimeout: 300 * time.Millisecond}})
			wantKind(t, name, err, driver.ErrUnavailable)
			if took := time.Since(start); took > 400*time.Millisecond+raceSlack {
				t.Fatalf("took %v", took)
			}
			full, _ := (Config{Addr: l.Addr().String()}).withDefaults()
			ctx, cancel := context.WithTimeoutCause(context.Background(), 100*time.Millisecond, errors.New("no patience"))
			defer cancel()
			start = time.Now()
			_, err = connect(ctx, full, driver.Env{Notify: func(driver.Event) {}, Log: slog.New(slog.DiscardHandler)})
			wantKind(t, name+" within a context", err, driver.ErrUnavailable)
			if took := time.Since(start); took > 200*time.Millisecond+raceSlack {
				t.Fatalf("took %v", took)
			}
		})
	}
}

func TestAKilledServerEndsTheSession(tt *testing.T) {
	t := newTester(tt)
	v := startServer(t)
	t.config.Addr, t.config.DB = v.addr, 0
	s, _, err := openWith(t.config)
	if err != nil {
		t.Fatal(err)
	}
	t.push(s, "q", "a")
	got := t.claim(s, 1, "q")
	start := time.Now()
	v.kill()
	select {
	case <-s.Done():
	case <-soon(t).Done():
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Fatalf("noticed after %v", took)
	}
	wantKind(t, "why", s.Err(), driver.ErrUnavailable)
	wantKind(t, "settle", t.settle(s, driver.Ack, got...)[0], driver.ErrLeaseLost)
	items := []virtual.Item{{Queue: "q", Raw: []byte("x")}}
	if err := s.Push(soon(t), items); err == nil {
		t.Fatal("a push succeeded")
	}
	wantKind(t, "push", items[0].Err, driver.ErrNotSent)
	v.start() // the session does not come back by itself
	items[0].Err = nil
	if err := s.Push(soon(t), items); err == nil {
		t.Fatal("the session reconnected")
	}
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
}

// Every call ends with its context while the server is silent, and the session
// ends when it is so for too long.
func TestASilentServer(tt *testing.T) {
	t := newTester(tt)
	v := startServer(t)
	t.config.Addr, t.config.DB, t.config.Heartbeat = v.addr, 0, 2500*time.Millisecond
	s, _, err := openWith(t.config)
	if err != nil {
		t.Fatal(err)
	}
	t.push(s, "q", "a")
	got := t.claim(s, 1, "q")
	pause(t, v)
	stopped := time.Now()
	items := []virtual.Item{{Queue: "q", Raw: []byte(strings.Repeat("x", 4<<20))}}
	calls := map[string]func(context.Context) error{
		"push":   func(ctx context.Context) error { _ = s.Push(ctx, items); return items[0].Err },
		"stat":   func(ctx context.Context) error { _, err := s.Stat(ctx, "q"); return err },
		"purge":  func(ctx context.Context) error { _, err := s.Purge(ctx, "q"); return err },
		"drop":   func(ctx context.Context) error { return s.Drop(ctx, "q") },
		"bind":   func(ctx context.Context) error { return s.Bind(ctx, "", []driver.Binding{{Exchange: "e", Queue: "q"}}) },
		"table":  func(ctx context.Context) error { _, _, err := s.Table(ctx, "e", ""); return err },
		"queues": func(ctx context.Context) error { _, err := s.Queues(ctx); return err },
		"broadcast": func(ctx context.Context) error {
			i := []virtual.Item{{}}
			_ = s.Broadcast(ctx, "e", "", i)
			return i[0].Err
		},
		"subscribe": func(ctx context.Context) error {
			_, err := s.Subscribe(ctx, driver.ReceiverConfig{}, []driver.Binding{{Exchange: "e"}})
			return err
		},
		"settle": func(ctx context.Context) error {
			st := []virtual.Settlement{{Settlement: driver.Settlement{Tag: got[0].Tag}}}
			_ = s.Settle(ctx, st)
			return st[0].Err
		},
		"claim": func(ctx context.Context) error {
			_, err := s.Claim(ctx, virtual.ClaimRequest{Wants: []virtual.Want{{Queue: "q", Max: 1}}, Wait: time.Hour}, make([]virtual.Claim, 1))
			return err
		},
	}
	for name, call := range calls {
		ctx, cancel := context.WithTimeout(context.Background(), 150*time.Millisecond)
		start := time.Now()
		err := call(ctx)
		cancel()
		if took := time.Since(start); took > 250*time.Millisecond+raceSlack {
			t.Errorf("%s: took %v", name, took)
		}
		wantKind(t, name, err, context.DeadlineExceeded)
	}
	wantKind(t, "push", items[0].Err, driver.ErrUncertain)
	select {
	case <-s.Done():
	case <-soon(t).Done():
		t.Fatal("the session is not over")
	}
	wantKind(t, "why", s.Err(), errSilent)
	if took := time.Since(stopped); took > 6*time.Second+raceSlack {
		t.Fatalf("noticed after %v", took)
	}
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
}

// More callers than rueidis has room for end in time too.
func TestManyCallersOfASilentServer(tt *testing.T) {
	t := newTester(tt)
	v := startServer(t)
	t.config.Addr, t.config.DB = v.addr, 0
	s, _, err := openWith(t.config)
	if err != nil {
		t.Fatal(err)
	}
	pause(t, v)
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	start := time.Now()
	var wg sync.WaitGroup
	for range 3000 {
		wg.Go(func() {
			if _, err := s.Stat(ctx, "q"); !errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if took := time.Since(start); took > time.Second {
		t.Fatalf("took %v", took)
	}
	short, cancel2 := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel2()
	_ = s.Close(short)
}

func TestDialHookOpensEverySocket(tt *testing.T) {
	t := newTester(tt)
	var mu sync.Mutex
	var conns []net.Conn
	s, _ := t.open(func(c *Config) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			mu.Lock()
			conns = append(conns, conn)
			mu.Unlock()
			return conn, err
		}
	})
	if _, err := s.Subscribe(soon(t), driver.ReceiverConfig{Queue: "q"}, []driver.Binding{{Exchange: "e"}}); err != nil {
		t.Fatal(err)
	}
	want(t, "sockets", len(conns), 2)
	conns[1].Close()
	select {
	case <-s.Done():
	case <-soon(t).Done():
		t.Fatal("a lost subscription did not end the session")
	}
}

func TestUnixSocket(tt *testing.T) {
	t := newTester(tt)
	v := startServer(t)
	t.config.Addr, t.config.DB, t.config.Socket = "", 3, v.dir+"/r.sock"
	if len(t.config.Socket) > 100 {
		t.Fatalf("%s is too long for a socket: set TMPDIR to a shorter path", t.config.Socket)
	}
	s, _, err := openWith(t.config)
	if err != nil {
		t.Fatal(err)
	}
	t.push(s, "q", "a")
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	t.raw = rawClient(t, v.addr, 3)
	want(t, "ready", t.ready("q"), "a")
}

func TestEvictionIsReported(tt *testing.T) {
	t := newTester(tt)
	v := startServer(t, "--maxmemory-policy", "allkeys-lru")
	t.config.Addr, t.config.DB = v.addr, 0
	_, ev := t.open()
	want(t, "warnings", ev.count(driver.Warning, "allkeys-lru"), 1)
	t2 := newTester(tt)
	_, ev = t2.open()
	want(t, "warnings of a server that does not evict", ev.count(driver.Warning, ""), 0)
}

func TestOutOfMemoryRefusesAPush(tt *testing.T) {
	t := newTester(tt)
	v := startServer(t, "--maxmemory", "8mb")
	t.config.Addr, t.config.DB = v.addr, 0
	s, _ := t.open()
	items := []virtual.Item{{Queue: "q", Raw: []byte(strings.Repeat("x", 100<<10))}, {Queue: "r", Raw: []byte("y")}}
	stored := 0
	for ; items[0].Err == nil && stored < 100; stored++ {
		if err := s.Push(soon(t), items); err != nil {
			t.Fatal(err)
		}
	}
	if stored < 2 {
		t.Fatal("nothing was stored at all")
	}
	wantKind(t, "push", items[0].Err, driver.ErrRefused)
	wantKind(t, "push", items[1].Err, driver.ErrRefused)
}

func TestBehaviour196_AFailingHeartbeatIsTriedAgain(tt *testing.T) {
	t := aside(tt)
	s, _ := t.open()
	t.push(s, "q", "a")
	t.claim(s, 1, "q")
	t.do("SET", "unacked_index", "no zset") // the script fails now
	score := func() float64 {
		n, _ := t.do("ZSCORE", ownersKey, s.env.Owner).AsFloat64()
		return n
	}
	first := score()
	eventually(t, "heartbeats that fail", func() bool { return score() > first+2 })
	wantKind(t, "the session", s.Err(), nil)
	t.do("DEL", "unacked_index")
	eventually(t, "the mirror", func() bool { return t.number("ZCARD", "unacked_index") == 1 })
}

func TestManySessions(tt *testing.T) {
	t := newTester(tt)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			s, _, err := openWith(t.config)
			if err != nil {
				t.Error(err)
				return
			}
			t.push(s, "q", "a")
			t.claim(s, 1, "q")
			var inner sync.WaitGroup
			for range 3 { // several closers at once
				inner.Go(func() {
					if err := s.Close(soon(t)); err != nil {
						t.Error(err)
					}
				})
			}
			inner.Wait()
		})
	}
	wg.Wait()
	want(t, "given back", t.number("LLEN", "q"), 20)
	want(t, "keys", t.keys(), `["q"]`)
}

func TestNoGoroutineIsLeft(tt *testing.T) {
	t := newTester(tt)
	s, _, err := openWith(t.config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Subscribe(soon(t), driver.ReceiverConfig{Queue: "q"}, []driver.Binding{{Exchange: "e"}}); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	t.raw.Close()
	if left := leaked(5 * time.Second); left != "" {
		t.Fatal(left)
	}
}

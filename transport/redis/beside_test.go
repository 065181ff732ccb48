package redis

import (
	"bufio"
	"crypto/sha1"
	"fmt"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// Claims whose handlers run for hours, prefetched ones among them, are taken by
// nobody: their peers' visibility timeouts, of Python and of Go, are two seconds.
func TestLongHandlersKeepTheirClaimsBesidePython(tt *testing.T) {
	t := aside(tt)
	s, _ := t.consumer()
	t.push(s, "q", "running", "prefetched", "third")
	got := t.claim(s, 3, "q")
	eventually(t, "the mirror", func() bool { return t.number("HLEN", "unacked") == 3 })
	p := startPython(t, `{"visibility_timeout": 2}`)
	p.op("consume", "queue", "other")
	t.open(shortVisibility)
	since := time.Now()
	eventuallyOr(t, "several visibility timeouts", p.poll, func() bool { return time.Since(since) > 9*time.Second })
	want(t, "taken", t.number("LLEN", "q"), 0)
	t.mustSettle(s, driver.Ack, got...)
	want(t, "unacked", t.number("EXISTS", "unacked", "unacked_index"), 0)
}

// Python's requeue watches unacked; it ends in time while Go consumes at full
// speed from the same database, near by and two milliseconds away.
func TestPythonRequeuesBesideGoAtFullSpeed(tt *testing.T) {
	for _, oneWay := range []time.Duration{0, time.Millisecond} {
		tt.Run(fmt.Sprint("round trip ", 2*oneWay), func(tt *testing.T) {
			t := newTester(tt)
			s, _ := t.consumer()
			addr := t.config.Addr
			if oneWay > 0 {
				addr = delayed(t, addr, oneWay)
			}
			p := startPythonAt(t, addr, "{}")
			stop := make(chan struct{})
			var wg sync.WaitGroup
			handled := 0
			wg.Go(func() {
				items := make([]virtual.Item, 100)
				for i := range items {
					items[i] = virtual.Item{Queue: "busy", Raw: []byte(envelope("x", 0))}
				}
				for {
					select {
					case <-stop:
						return
					default:
					}
					t.pushItems(s, items)
					t.mustSettle(s, driver.Ack, t.claim(s, len(items), "busy")...)
					handled += len(items)
				}
			})
			const rounds = 100
			t.push(s, "held", "a", "b", "c")
			t.claim(s, 3, "held") // something that is mirrored and renewed all the while
			p.op("publish", "key", "py", "body", "m")
			p.op("consume", "queue", "py")
			var took []time.Duration
			for range rounds {
				m := p.drain(1)[0]
				began := time.Now()
				p.op("requeue", "tag", m.Tag)
				took = append(took, time.Since(began))
			}
			close(stop)
			wg.Wait()
			slices.Sort(took)
			t.Logf("p50 %v, p99 %v, slowest %v, beside %d messages of Go's", took[rounds/2], took[rounds*99/100], took[rounds-1], handled)
			if took[rounds*99/100] > 5*time.Second { // one second, with five times the room
				t.Error("too slow")
			}
		})
	}
}

// delayed is a proxy that keeps what passes for a while, either way.
func delayed(t testing.TB, backend string, d time.Duration) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relay(t, inner, backend)
	var wg sync.WaitGroup
	carry := func(to, from net.Conn) {
		type chunk struct {
			due  time.Time
			data []byte
		}
		line := make(chan chunk, 1024)
		wg.Go(func() {
			defer to.Close()
			for c := range line {
				time.Sleep(time.Until(c.due)) // this is what the proxy is for
				if _, err := to.Write(c.data); err != nil {
					_, _ = io.Copy(io.Discard, from)
				}
			}
		})
		defer close(line)
		for {
			buf := make([]byte, 64<<10)
			n, err := from.Read(buf)
			if n > 0 {
				line <- chunk{time.Now().Add(d), buf[:n]}
			}
			if err != nil {
				return
			}
		}
	}
	wg.Go(func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", inner.Addr().String())
			if err != nil {
				front.Close()
				continue
			}
			wg.Go(func() { carry(back, front) })
			wg.Go(func() { carry(front, back) })
		}
	})
	t.Cleanup(wg.Wait) // after the sockets are gone: relay's is registered before, and runs later
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// monitor is every command that a server runs, as MONITOR tells it.
type monitor struct {
	mu    sync.Mutex
	lines []string
}

func startMonitor(t testing.TB, addr string) *monitor {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	m := &monitor{}
	var wg sync.WaitGroup
	in := bufio.NewReader(conn)
	fmt.Fprint(conn, "MONITOR\r\n")
	if _, err := in.ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	wg.Go(func() {
		for {
			line, err := in.ReadString('\n')
			if err != nil {
				return
			}
			m.mu.Lock()
			m.lines = append(m.lines, line)
			m.mu.Unlock()
		}
	})
	t.Cleanup(func() { conn.Close(); wg.Wait() })
	return m
}

// commands are those that clients sent, without what scripts ran.
func (m *monitor) commands() (out []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, line := range m.lines {
		if _, command, ok := strings.Cut(line, "] "); ok && !strings.Contains(line[:len(line)-len(command)], " lua] ") {
			out = append(out, strings.TrimSpace(command))
		}
	}
	return out
}

// A session at rest, with claims, runs one script a second and nothing else.
func TestOneScriptASecond(tt *testing.T) {
	tt.Parallel()
	v := startServer(tt)
	t := &tester{TB: tt, config: Config{Addr: v.addr}, raw: rawClient(tt, v.addr, 0)}
	s, _ := t.consumer()
	t.openRole(driver.Publish)
	for range 10 {
		t.push(s, "q", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
	}
	t.claim(s, 100, "q")
	eventually(t, "the mirror", func() bool { return t.number("HLEN", "unacked") == 100 })
	t.raw.Close() // it has pings of its own
	m := startMonitor(t, v.addr)
	since := time.Now()
	eventually(t, "five seconds", func() bool { return time.Since(since) > 5*time.Second })
	scripts, pings, others := 0, 0, []string{}
	for _, c := range m.commands() {
		switch {
		case strings.HasPrefix(c, `"EVALSHA"`):
			scripts++
		case strings.HasPrefix(c, `"PING"`): // of the publisher
			pings++
		default:
			others = append(others, c)
		}
	}
	if scripts < 4 || scripts > 6 || pings > 6 || len(others) > 0 {
		t.Errorf("%d scripts, %d pings in five seconds, and %q", scripts, pings, others)
	}
}

// No clock of ours travels to the server: whatever it shows, it is the server's
// that counts.
func TestNoCommandCarriesALocalTime(tt *testing.T) {
	tt.Parallel()
	v := startServer(tt)
	t := &tester{TB: tt, config: Config{Addr: v.addr}, raw: rawClient(tt, v.addr, 0)}
	m := startMonitor(t, v.addr)
	s, ev := t.consumer(func(c *Config) { c.Mirror = MirrorAlways })
	t.push(s, "q", "a", "b", "c")
	got := t.claim(s, 3, "q")
	t.begin(s, 2, got[0])
	t.mustSettle(s, driver.Requeue, got[0])
	t.killLinks(s)
	eventually(t, "the connection", func() bool { return ev.count(driver.Warning, "connected again") == 1 })
	dead, _ := t.open()
	t.claim(dead, 1, "q")
	abandon(t, dead)
	eventually(t, "taking over", func() bool { return t.number("LLEN", "q") == 1 })
	now, scripts := float64(time.Now().Unix()), 0
	for _, c := range m.commands() {
		if strings.HasPrefix(c, `"EVALSHA"`) {
			scripts++
		}
		if strings.Contains(c, "Ends the liveness") || strings.Contains(c, fmt.Sprintf("%x", sha1.Sum([]byte(fenceLua)))) {
			continue // the heartbeat that was seen, as the server wrote it
		}
		for _, arg := range strings.Fields(c) {
			x, err := strconv.ParseFloat(strings.Trim(arg, `"`), 64)
			for unit := 1.0; err == nil && unit < 1e10; unit *= 1000 {
				if d := x/unit - now; d > -86400 && d < 86400 {
					t.Errorf("%s carries a time: %s", c, arg)
				}
			}
		}
	}
	if scripts < 5 {
		t.Fatalf("only %d scripts were seen", scripts)
	}
}

package interop

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/gombutest/proxy"
	"github.com/gombu/gombu/gombutest/server"
)

// The long forms of tests run by hand:
//
//	GOMBU_TEST_ROUNDS    rounds of the faults that must not silence a consumer (2)
//	GOMBU_TEST_STOP      seconds of SIGSTOP (15)
//	GOMBU_TEST_PUBLISHES messages published around a kill -9 (5000)
//	GOMBU_TEST_SOAK      seconds of the soak (60)
//	GOMBU_TEST_CUT       seconds from one cut of the soak to the next (5)
func byHand(t *testing.T, variable string, otherwise int) int {
	t.Helper()
	v := os.Getenv(variable)
	if v == "" {
		return otherwise
	}
	n, err := strconv.Atoi(v)
	must(t, err)
	return n
}

// private is a RabbitMQ of this test run alone, which tests may hurt: booting
// one takes so long that they share it.
var private struct {
	sync.Mutex
	s   *server.Server
	dir string
}

// node returns the private RabbitMQ, running.
func node(t *testing.T) *server.Server {
	t.Helper()
	private.Lock()
	defer private.Unlock()
	if private.s == nil {
		dir, err := os.MkdirTemp("", "gombu-node") // the tests' own directories go before the node does
		must(t, err)
		private.dir = dir
		private.s, err = server.RabbitMQ(dir)
		installed(t, err)
	}
	if private.s.Pid() == 0 {
		must(t, private.s.Start(t.Context()))
	}
	return private.s
}

// installed skips, in CI fails, when a server's program is missing.
func installed(t *testing.T, err error) {
	t.Helper()
	if errors.Is(err, server.ErrMissing) && os.Getenv("CI") == "" {
		t.Skipf("%v: run scripts/install", err)
	}
	must(t, err)
}

func closeNode() {
	private.Lock()
	defer private.Unlock()
	if private.s != nil {
		private.s.Close()
	}
	_ = os.RemoveAll(private.dir) // of a node that is gone
}

// ctl is rabbitmqctl on the private node.
func ctl(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
	defer cancel()
	out, err := node(t).Ctl(ctx, args...)
	must(t, err)
	return out
}

// lasting makes the quorum queues of the private node outlive kill -9. RabbitMQ
// 3.10 writes their names to disk half a second late; one that it was killed
// before is there afterwards, empty, and never has a leader.
func lasting(t *testing.T) {
	t.Helper()
	ctl(t, "eval", "ok = dets:sync(ra_directory_reverse).")
}

// managed asks the management API of the private node.
func managed(t *testing.T, method, path string, out any) {
	t.Helper()
	base, err := url.Parse(node(t).Management())
	must(t, err)
	u, err := url.Parse("/api/" + path)
	must(t, err)
	req, err := http.NewRequestWithContext(t.Context(), method, base.ResolveReference(u).String(), nil)
	must(t, err)
	req.Close = true
	password, _ := base.User.Password()
	req.SetBasicAuth(base.User.Username(), password)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return // it starts a little after AMQP does; the caller asks again
	}
	defer func() { _ = resp.Body.Close() }()
	if out != nil && resp.StatusCode == http.StatusOK {
		must(t, json.NewDecoder(resp.Body).Decode(out))
	}
}

// connections are the names, by the management API, of the connections whose
// client properties have this value of "test"; it is some seconds behind.
func connections(t *testing.T, test string) []string {
	t.Helper()
	var list []struct {
		Name       string
		Properties map[string]any `json:"client_properties"`
	}
	managed(t, http.MethodGet, "connections", &list)
	var names []string
	for _, c := range list {
		if c.Properties["test"] == test {
			names = append(names, c.Name)
		}
	}
	return names
}

// marked is a Config whose connections can be told by connections.
func marked(test string) *gombu.Config {
	return &gombu.Config{Dial: driver.DialConfig{ClientProperties: gombu.Headers{{Key: "test", Value: test}}}}
}

// through puts a proxy before a broker.
func through(t *testing.T, b broker) (broker, *proxy.Proxy) {
	t.Helper()
	u, err := url.Parse(b.url)
	must(t, err)
	p, err := proxy.Listen(u.Host)
	must(t, err)
	t.Cleanup(p.Close)
	u.Host = p.Addr()
	b.url = u.String()
	return b, p
}

// opened opens a Conn that the test closes.
func opened(t *testing.T, url string, cfg *gombu.Config) *gombu.Conn {
	t.Helper()
	conn, err := gombu.Open(url, cfg)
	must(t, err)
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return conn
}

// running runs a consumer until the test ends, and returns when it is ready.
func running(t *testing.T, conn *gombu.Conn, cfg gombu.ConsumerConfig, h gombu.Handler) *gombu.Consumer {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	k := conn.Consumer(cfg)
	over := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { over <- k.Run(ctx, h) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
		must(t, <-over)
	})
	ready, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	must(t, k.Ready(ready))
	return k
}

// eventually waits until ok holds.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(within); !ok(); <-tick.C {
		if time.Now().After(end) {
			t.Fatalf("not within %v: %s", within, what)
		}
	}
}

// held is what a process has that could leak.
type held struct{ goroutines, sockets, files int }

func (h held) String() string {
	return fmt.Sprintf("%d goroutines, %d sockets, %d other descriptors", h.goroutines, h.sockets, h.files)
}

func holding(t *testing.T) (h held) {
	t.Helper()
	h.goroutines = runtime.NumGoroutine()
	fds, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, fd := range fds {
		switch to, err := os.Readlink("/proc/self/fd/" + fd.Name()); {
		case err != nil: // closed meanwhile
		case strings.HasPrefix(to, "socket:"):
			h.sockets++
		default:
			h.files++
		}
	}
	return h
}

// noMoreThan waits until no more is held than before.
func noMoreThan(t *testing.T, before held) {
	t.Helper()
	var now held
	end := time.Now().Add(20 * time.Second)
	for tick := time.NewTicker(50 * time.Millisecond); ; <-tick.C {
		now = holding(t)
		if now.goroutines <= before.goroutines && now.sockets <= before.sockets && now.files <= before.files {
			tick.Stop()
			return
		}
		if time.Now().After(end) {
			tick.Stop()
			stacks := make([]byte, 1<<20)
			t.Fatalf("%v are left, there were %v\n%s", now, before, stacks[:runtime.Stack(stacks, true)])
		}
	}
}

package redis

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
	"github.com/gombu/gombu/virtual"
)

func TestMain(m *testing.M) {
	switch os.Getenv("GOMBU_TEST_CHILD_DOES") {
	case "claim":
		child()
	case "handle":
		handleForEver()
	case "hold":
		holdOn()
	}
	code := m.Run()
	unlockDatabase()
	if code == 0 {
		if left := leaked(10 * time.Second); left != "" {
			fmt.Fprintln(os.Stderr, "goroutines left:\n"+left)
			code = 1
		}
	}
	os.Exit(code)
}

// leaked waits until only the test's own goroutines are left, and shows the others.
func leaked(patience time.Duration) string {
	for end := time.Now().Add(patience); ; {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		var left []string
		for _, g := range strings.Split(string(buf), "\n\n") {
			if strings.Contains(g, "testing.") {
				continue
			}
			if strings.Contains(g, "rueidis") || strings.Contains(g, "gombu/transport/redis") && !strings.Contains(g, "redis.leaked(") {
				left = append(left, g)
			}
		}
		if len(left) == 0 {
			return ""
		}
		if time.Now().After(end) {
			return strings.Join(left, "\n\n")
		}
		runtime.Gosched()
		time.Sleep(10 * time.Millisecond) // between looks, bounded by patience
	}
}

func fromText(url string) (Config, error) {
	u, err := dsn.Parse(url)
	if err != nil {
		return Config{}, err
	}
	return FromURL(u, driver.DialConfig{})
}

func serverURL() string {
	if u := os.Getenv("GOMBU_TEST_REDIS"); u != "" {
		return u
	}
	return "redis://127.0.0.1:6390/"
}

// serverConfig is that of the shared test server, or skips.
func serverConfig(t testing.TB) Config {
	t.Helper()
	c, err := fromText(serverURL())
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTimeout("tcp", c.Addr, 2*time.Second)
	if err != nil {
		missing(t, "no Redis at "+c.Addr+" (scripts/services start redis): "+err.Error())
	}
	conn.Close()
	c.DB = testDB(t, c.Addr)
	return c
}

// missing skips, in CI it fails.
func missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatal(what)
	}
	t.Skip(what)
}

// tester is one test's view of the server.
type tester struct {
	testing.TB
	config Config
	raw    rueidis.Client
}

func newTester(t testing.TB) *tester {
	t.Helper()
	tt := &tester{TB: t, config: serverConfig(t)}
	tt.raw = rawClient(t, tt.config.Addr, tt.config.DB)
	tt.do("FLUSHDB")
	return tt
}

// aside is a tester with a server of its own, for a test that mostly waits: it
// runs beside the others of its kind.
func aside(t *testing.T) *tester {
	t.Helper()
	t.Parallel()
	v := startServer(t)
	return &tester{TB: t, config: Config{Addr: v.addr}, raw: rawClient(t, v.addr, 0)}
}

func rawClient(t testing.TB, addr string, db int) rueidis.Client {
	t.Helper()
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, SelectDB: db, ForceSingleClient: true,
		PipelineMultiplex: -1, DisableCache: true, DisableRetry: true, AlwaysPipelining: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// do runs a command beside the code under test.
func (t *tester) do(args ...string) rueidis.RedisResult {
	t.Helper()
	r := t.raw.Do(context.Background(), t.raw.B().Arbitrary(args...).Build())
	if err := r.Error(); err != nil && !rueidis.IsRedisNil(err) {
		t.Fatalf("%v: %v", args, err)
	}
	return r
}

func (t *tester) list(key string) []string {
	t.Helper()
	out, err := t.do("LRANGE", key, "0", "-1").AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (t *tester) keys() string {
	t.Helper()
	out, err := t.do("KEYS", "*").AsStrSlice()
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%q", out)
}

func (t *tester) number(args ...string) int {
	t.Helper()
	n, err := t.do(args...).AsInt64()
	if err != nil {
		t.Fatalf("%v: %v", args, err)
	}
	return int(n)
}

// events collects what a session reports.
type events struct {
	sync.Mutex
	all []driver.Event
}

func (e *events) notify(ev driver.Event) {
	e.Lock()
	defer e.Unlock()
	e.all = append(e.all, ev)
}

func (e *events) count(kind driver.EventKind, about string) int {
	e.Lock()
	defer e.Unlock()
	n := 0
	for _, ev := range e.all {
		if ev.Kind == kind && strings.Contains(ev.Entity+" "+ev.Detail, about) {
			n++
		}
	}
	return n
}

// open opens a session that the test closes.
func (t *tester) open(change ...func(*Config)) (*store, *events) {
	t.Helper()
	return t.openRole(driver.Both, change...)
}

// consumer opens a session that outlives its connection.
func (t *tester) consumer(change ...func(*Config)) (*store, *events) {
	t.Helper()
	return t.openRole(driver.Consume, change...)
}

func (t *tester) openRole(role driver.Role, change ...func(*Config)) (*store, *events) {
	t.Helper()
	c := t.config
	for _, f := range change {
		f(&c)
	}
	s, ev, err := openAs(c, role)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(soon(t)); err != nil && s.Err() == nil {
			t.Error(err)
		}
	})
	return s, ev
}

func openWith(c Config) (*store, *events, error) { return openAs(c, driver.Both) }

func openAs(c Config, role driver.Role) (*store, *events, error) {
	full, err := c.withDefaults()
	if err != nil {
		return nil, nil, err
	}
	ev := &events{}
	s, err := connect(context.Background(), full, driver.Env{Role: role, Notify: ev.notify, Log: slog.New(slog.DiscardHandler)})
	return s, ev, err
}

// soon is a context that bounds what should take no time.
func soon(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !ok(); {
		if time.Now().After(end) {
			t.Fatal("timed out waiting for: " + what)
		}
		time.Sleep(5 * time.Millisecond) // between looks
	}
}

// envelope is a text as Kombu writes it.
func envelope(body string, priority int) string {
	return fmt.Sprintf(`{"body": %q, "content-encoding": "utf-8", "content-type": "text/plain", "headers": {}, "properties": {"delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": "q"}, "priority": %d, "body_encoding": "utf-8", "delivery_tag": "t-%s"}}`, body, priority, body)
}

func bodyOf(t testing.TB, raw []byte) string {
	t.Helper()
	_, rest, ok := strings.Cut(string(raw), `"body": "`)
	if !ok {
		return string(raw)
	}
	body, _, _ := strings.Cut(rest, `"`)
	return body
}

func (t *tester) push(s *store, queue string, bodies ...string) {
	t.Helper()
	items := make([]virtual.Item, len(bodies))
	for i, b := range bodies {
		items[i] = virtual.Item{Queue: queue, Raw: []byte(envelope(b, 0))}
	}
	t.pushItems(s, items)
}

func (t *tester) pushItems(s *store, items []virtual.Item) {
	t.Helper()
	if err := s.Push(soon(t), items); err != nil {
		t.Fatal(err)
	}
	for i := range items {
		if items[i].Err != nil {
			t.Fatal(items[i].Err)
		}
	}
}

// claim takes exactly n.
func (t *tester) claim(s *store, n int, queues ...string) []virtual.Claim {
	t.Helper()
	dst := make([]virtual.Claim, n)
	r := virtual.ClaimRequest{}
	for _, q := range queues {
		r.Wants = append(r.Wants, virtual.Want{Queue: q, Max: n})
	}
	got, err := s.Claim(soon(t), r, dst)
	if err != nil {
		t.Fatal(err)
	}
	if got != n {
		t.Fatalf("claimed %d of %d", got, n)
	}
	return dst
}

func (t *tester) bodies(claims []virtual.Claim) string {
	t.Helper()
	out := make([]string, len(claims))
	for i := range claims {
		out[i] = bodyOf(t, claims[i].Raw)
	}
	return strings.Join(out, " ")
}

// ready are the bodies that lie in a list, next one first.
func (t *tester) ready(key string) string {
	t.Helper()
	texts := t.list(key)
	out := make([]string, len(texts))
	for i, text := range texts {
		out[len(texts)-1-i] = bodyOf(t, []byte(text))
	}
	return strings.Join(out, " ")
}

// settle settles all alike and returns the errors.
func (t *tester) settle(s *store, o driver.Outcome, claims ...virtual.Claim) []error {
	t.Helper()
	st := make([]virtual.Settlement, len(claims))
	for i := range claims {
		st[i].Tag, st[i].Outcome = claims[i].Tag, o
	}
	if err := s.Settle(soon(t), st); err != nil && s.Err() == nil {
		t.Fatal(err)
	}
	errs := make([]error, len(st))
	for i := range st {
		errs[i] = st[i].Err
	}
	return errs
}

func (t *tester) mustSettle(s *store, o driver.Outcome, claims ...virtual.Claim) {
	t.Helper()
	if err := errors.Join(t.settle(s, o, claims...)...); err != nil {
		t.Fatal(err)
	}
}

func want[T comparable](t testing.TB, what string, have, want T) {
	t.Helper()
	if have != want {
		t.Fatalf("%s: have %v, want %v", what, have, want)
	}
}

func wantKind(t testing.TB, what string, err, kind error) {
	t.Helper()
	if !errors.Is(err, kind) {
		t.Fatalf("%s: have error %v, want %v", what, err, kind)
	}
}

// server is a redis-server of the test's own, to stop and to kill.
type server struct {
	testing.TB
	addr, dir string
	args      []string
	cmd       *exec.Cmd
}

func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	v := &server{TB: t, addr: freeAddr(t), dir: t.TempDir()}
	_, port, _ := net.SplitHostPort(v.addr)
	v.args = append([]string{"--bind", "127.0.0.1", "--port", port, "--dir", v.dir, "--save", "", "--appendonly", "no",
		"--unixsocket", "r.sock", "--logfile", filepath.Join(v.dir, "log")}, args...)
	v.start()
	t.Cleanup(v.kill)
	return v
}

func (v *server) start() {
	v.Helper()
	v.cmd = exec.Command("redis-server", v.args...)
	v.cmd.Dir = v.dir
	if err := v.cmd.Start(); err != nil {
		v.Fatal(err)
	}
	eventually(v, "redis-server to answer", func() bool {
		conn, err := net.Dial("tcp", v.addr)
		if err != nil {
			return false
		}
		conn.Close()
		return true
	})
}

// freeAddr is one that nobody listens at.
func freeAddr(t testing.TB) string {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		missing(t, "no redis-server in PATH (scripts/install)")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func (v *server) alive() bool { return v.cmd.ProcessState == nil }

// ask runs one command at a server, which may not answer.
func ask(addr string, args ...string) (rueidis.RedisMessage, error) {
	c, err := rueidis.NewClient(rueidis.ClientOption{InitAddress: []string{addr}, ForceSingleClient: true, PipelineMultiplex: -1, DisableCache: true, DisableRetry: true})
	if err != nil {
		return rueidis.RedisMessage{}, err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	return c.Do(ctx, c.B().Arbitrary(args...).Build()).ToMessage()
}

func (v *server) kill() {
	if v.cmd.Process != nil {
		_ = v.cmd.Process.Kill()
		_ = v.cmd.Wait()
	}
}

package interop

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/internal/leak"
	_ "github.com/gombu/gombu/transport/amqp"
	_ "github.com/gombu/gombu/transport/redis"
)

// python is Debian's, which has Debian's Kombu; another one may be first in PATH.
const python = "/usr/bin/python3"

// A broker is one side of every test: its URL, and Kombu's options for it.
type broker struct {
	name, url string
	options   map[string]any
}

func env(name, otherwise string) string {
	if v := os.Getenv(name); v != "" {
		return v
	}
	return otherwise
}

// brokers are the servers that scripts/services starts. The Redis tests have a
// database of their own.
func brokers() []broker {
	return []broker{
		{"rabbitmq", env("GOMBU_TEST_AMQP", "amqp://guest:guest@127.0.0.1:5673/"), map[string]any{}},
		{"redis", strings.TrimRight(env("GOMBU_TEST_REDIS", "redis://127.0.0.1:6390"), "/") + "/8", map[string]any{"visibility_timeout": 3600}},
	}
}

func TestMain(m *testing.M) {
	if !slices.Contains(os.Args, "-test.v=true") {
		slog.SetDefault(slog.New(slog.DiscardHandler))
	}
	if queue := os.Getenv(victimQueue); queue != "" {
		beVictim(os.Getenv(victimURL), queue)
		return
	}
	if how := os.Getenv(eaterHow); how != "" {
		beEater(how, os.Getenv(eaterURL), os.Getenv(eaterQueue))
		return
	}
	code := m.Run()
	closeNode()
	http.DefaultClient.CloseIdleConnections()
	if left := leak.Left(); code == 0 && len(left) > 0 {
		fmt.Fprintf(os.Stderr, "%d goroutines were left behind:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
		code = 1
	}
	os.Exit(code)
}

// A victim is this test binary run once more: a Go consumer that takes a
// message, says so, and waits to be killed.
const (
	victimURL   = "GOMBU_INTEROP_VICTIM_URL"
	victimQueue = "GOMBU_INTEROP_VICTIM_QUEUE"
)

func beVictim(url, queue string) {
	conn, err := gombu.Open(url, nil)
	if err == nil {
		err = conn.Run(context.Background(), gombu.ConsumerConfig{Queues: []string{queue}, Prefetch: 1}, func(ctx context.Context, _ *gombu.Delivery) error {
			fmt.Println("claimed")
			<-ctx.Done()
			return nil
		})
	}
	fmt.Println("not killed:", err)
}

// killedGoConsumer claims one message of queue in another process, waits for a
// heartbeat of it, and kills it with -9.
func killedGoConsumer(t *testing.T, b broker, queue string, heartbeat time.Duration) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	c := exec.Command(self)
	c.Env = append(os.Environ(), victimURL+"="+b.url, victimQueue+"="+queue)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	s := bufio.NewScanner(out)
	if !s.Scan() || s.Text() != "claimed" {
		t.Fatalf("the consumer said %q", s.Text())
	}
	timer := time.NewTimer(heartbeat)
	<-timer.C
	must(t, c.Process.Kill())
	_ = c.Wait()
}

// each runs test on every broker.
func each(t *testing.T, test func(t *testing.T, b broker)) {
	t.Helper()
	for _, b := range brokers() {
		t.Run(b.name, func(t *testing.T) {
			need(t, b)
			test(t, b)
		})
	}
}

// need skips, in CI fails, when a server or Kombu is missing.
func need(t *testing.T, b broker) {
	t.Helper()
	missing := func(what string) {
		if os.Getenv("CI") != "" {
			t.Fatal(what)
		}
		t.Skip(what)
	}
	u, err := url.Parse(b.url)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.DialTimeout("tcp", u.Host, 2*time.Second)
	if err != nil {
		missing(fmt.Sprintf("no %s at %s: start it with scripts/services start %s", b.name, u.Host, b.name))
	}
	_ = c.Close()
	if out, err := exec.Command(python, "-c", "import kombu, redis").CombinedOutput(); err != nil {
		missing(fmt.Sprintf("no Kombu in %s (%s): run scripts/install", python, out))
	}
}

// name is a name that no other test run uses.
func name(t *testing.T, what string) string {
	t.Helper()
	return "gombu.interop." + strings.ToLower(rand.Text()[:8]) + "." + what
}

func open(t *testing.T, b broker, query string) *gombu.Conn {
	t.Helper()
	conn, err := gombu.Open(b.url+query, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
	})
	return conn
}

// A peer is one Python process with one Kombu connection.
type peer struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Scanner
	mu  sync.Mutex
}

type cmd map[string]any

func startPeer(t *testing.T, b broker, options map[string]any) *peer {
	t.Helper()
	all := map[string]any{}
	for _, o := range []map[string]any{b.options, options} {
		for k, v := range o {
			all[k] = v
		}
	}
	opts, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	c := exec.Command(python, "testdata/peer.py", b.url, string(opts))
	c.Stderr = os.Stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	p := &peer{t: t, cmd: c, in: in, out: bufio.NewScanner(out)}
	p.out.Buffer(nil, 1<<24)
	t.Cleanup(p.kill)
	return p
}

// kill is kill -9.
func (p *peer) kill() {
	_ = p.cmd.Process.Kill()
	_ = p.cmd.Wait()
}

// do runs one command and returns its result.
func (p *peer) do(op string, c cmd) []view {
	p.t.Helper()
	out, err := p.try(op, c)
	if err != nil {
		p.t.Fatalf("python %s: %v", op, err)
	}
	return out
}

func (p *peer) try(op string, c cmd) ([]view, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if c == nil {
		c = cmd{}
	}
	c["op"] = op
	line, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	if _, err := p.in.Write(append(line, '\n')); err != nil {
		return nil, err
	}
	if !p.out.Scan() {
		return nil, fmt.Errorf("the peer is gone: %w", p.out.Err())
	}
	var reply struct {
		Result []view
		Error  string
	}
	if err := json.Unmarshal(p.out.Bytes(), &reply); err != nil {
		return nil, err
	}
	if reply.Error != "" {
		return nil, fmt.Errorf("%s", reply.Error)
	}
	return reply.Result, nil
}

// A view is a message as Python saw it.
type view struct {
	Body            any
	Type            string
	Error           string
	ContentType     string `json:"content_type"`
	ContentEncoding string `json:"content_encoding"`
	Headers         map[string]any
	Properties      map[string]any
	Redelivered     bool
	Exchange        string
	RoutingKey      string `json:"routing_key"`
}

// take consumes n messages in Go and returns them, settled by h (nil: ack).
func take(t *testing.T, conn *gombu.Conn, queue string, n int, h func(context.Context, *gombu.Delivery) error) []*gombu.Delivery {
	t.Helper()
	// Enough for 100 MiB through JSON and base64 under the race detector.
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	var got []*gombu.Delivery
	err := conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{queue}, Prefetch: 1}, func(ctx context.Context, d *gombu.Delivery) error {
		got = append(got, d)
		if len(got) >= n {
			defer cancel()
		}
		if h == nil {
			return nil
		}
		return h(ctx, d)
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(got) < n {
		t.Fatalf("%s: got %d messages of %d in time", queue, len(got), n)
	}
	return got
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// drop deletes, when the test is over, what it declared.
func drop(t *testing.T, b broker, topo gombu.Topology) {
	t.Helper()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		conn, err := gombu.Open(b.url, nil)
		must(t, err)
		if err := errors.Join(conn.Delete(ctx, topo, nil), conn.Close()); err != nil {
			t.Errorf("cleanup: %v", err)
		}
	})
}

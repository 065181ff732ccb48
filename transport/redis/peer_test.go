package redis

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// python is a Kombu peer, see testdata/peer.py.
type python struct {
	t      *tester
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	killed bool
}

type pyMessage struct {
	Tag, Body, Exchange, Key string
	ContentType              string `json:"content_type"`
	Headers, Properties      map[string]any
	Redelivered              bool
}

func (m pyMessage) text() string {
	b, _ := base64.StdEncoding.DecodeString(m.Body)
	return string(b)
}

// startPython runs Debian's Python, which has its Kombu; another python3 may be
// first in PATH.
func startPython(t *tester, options string) *python {
	t.Helper()
	return startPythonAt(t, t.config.Addr, options)
}

func startPythonAt(t *tester, addr, options string) *python {
	t.Helper()
	const binary = "/usr/bin/python3"
	if out, err := exec.Command(binary, "-c", "import kombu, redis").CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("no Kombu for %s (scripts/install): %v %s", binary, err, out))
	}
	p := &python{t: t, cmd: exec.Command(binary, "testdata/peer.py", fmt.Sprintf("redis://%s/%d", addr, t.config.DB), options)}
	p.cmd.Stderr = os.Stderr
	var err error
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	p.do(map[string]any{"op": "version"}, nil)
	return p
}

func (p *python) kill() {
	if !p.killed {
		p.killed = true
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

func (p *python) do(command map[string]any, into any) {
	p.t.Helper()
	line, err := json.Marshal(command)
	if err != nil {
		p.t.Fatal(err)
	}
	if _, err = p.in.Write(append(line, '\n')); err != nil {
		p.t.Fatal(err)
	}
	answer, err := p.out.ReadBytes('\n')
	var a struct {
		OK    json.RawMessage
		Error string
	}
	if err == nil {
		err = json.Unmarshal(answer, &a)
	}
	if err == nil && into != nil {
		err = json.Unmarshal(a.OK, into)
	}
	if err != nil || a.Error != "" {
		p.t.Fatalf("python %v: %v %s %s", command, err, a.Error, answer)
	}
}

func (p *python) op(op string, pairs ...any) {
	p.t.Helper()
	c := map[string]any{"op": op}
	for i := 0; i+1 < len(pairs); i += 2 {
		c[pairs[i].(string)] = pairs[i+1]
	}
	p.do(c, nil)
}

// drain collects n messages. Its polls are short: Kombu 5.2 sweeps only when a
// poll of less than a second times out, and then every tenth time.
func (p *python) drain(n int) []pyMessage {
	p.t.Helper()
	var all []pyMessage
	for end := time.Now().Add(40 * time.Second); len(all) < n; {
		if time.Now().After(end) {
			p.t.Fatalf("python received %d of %d messages", len(all), n)
		}
		var got []pyMessage
		p.do(map[string]any{"op": "drain", "timeout": 0.5}, &got)
		all = append(all, got...)
	}
	return all
}

// gopher is a session through the whole engine.
type gopher struct {
	t      *tester
	conn   driver.Conn
	sender driver.Sender
	seq    uint64
}

func startGo(t *tester, change ...func(*Config)) *gopher {
	t.Helper()
	c := t.config
	for _, f := range change {
		f(&c)
	}
	connector, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := connector.Connect(soon(t), driver.Env{Owner: fmt.Sprintf("go-%d", time.Now().UnixNano()), Notify: func(driver.Event) {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	sender, err := conn.OpenSender(soon(t), driver.SenderConfig{Window: 100})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(soon(t)); err != nil {
			t.Error(err)
		}
	})
	return &gopher{t: t, conn: conn, sender: sender}
}

func (g *gopher) declare(exchange, typ, queue, key string) {
	g.t.Helper()
	steps := []driver.Step{{Exchange: &driver.Exchange{Name: exchange, Type: typ}}}
	if queue != "" {
		steps = append(steps, driver.Step{Queue: &driver.Queue{Name: queue}}, driver.Step{Binding: &driver.Binding{Exchange: exchange, Queue: queue, Key: key}})
	}
	if err := g.conn.Apply(soon(g.t), steps); err != nil {
		g.t.Fatal(err)
	}
	for _, s := range steps {
		if s.Err != nil {
			g.t.Fatal(s.Err)
		}
	}
}

func (g *gopher) publish(m driver.Outgoing) error {
	g.t.Helper()
	g.seq++
	m.Seq = g.seq
	batch := []driver.Outgoing{m}
	if n, err := g.sender.Submit(soon(g.t), batch); n != 1 || err != nil {
		return errors.Join(err, batch[0].Err)
	}
	if batch[0].Done {
		return batch[0].Err
	}
	r := make([]driver.Receipt, 1)
	if n, err := g.sender.Outcomes(soon(g.t), r); n != 1 || err != nil || r[0].Seq != m.Seq {
		g.t.Fatal(n, err, r)
	}
	return r[0].Err
}

func (g *gopher) mustPublish(exchange, key, body string, p driver.Properties) {
	g.t.Helper()
	if p.ContentType == "" {
		p.ContentType, p.ContentEncoding = "text/plain", "utf-8"
	}
	if err := g.publish(driver.Outgoing{Exchange: exchange, Key: key, Body: []byte(body), Props: p, NoMandatory: false}); err != nil {
		g.t.Fatal(err)
	}
}

func (g *gopher) receiver(queue string) driver.Receiver {
	g.t.Helper()
	r, err := g.conn.OpenReceiver(soon(g.t), driver.ReceiverConfig{Queue: queue, Prefetch: 100})
	if err != nil {
		g.t.Fatal(err)
	}
	return r
}

func (g *gopher) receive(r driver.Receiver, n int) []driver.Incoming {
	g.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	var all []driver.Incoming
	for len(all) < n {
		dst := make([]driver.Incoming, n-len(all))
		k, err := r.Receive(ctx, dst)
		if err != nil {
			g.t.Fatalf("go received %d of %d messages: %v", len(all), n, err)
		}
		all = append(all, dst[:k]...)
	}
	return all
}

func (g *gopher) settle(r driver.Receiver, o driver.Outcome, in ...driver.Incoming) {
	g.t.Helper()
	s := make([]driver.Settlement, len(in))
	for i := range in {
		s[i] = driver.Settlement{Tag: in[i].Tag, Outcome: o}
	}
	if err := r.Settle(soon(g.t), s); err != nil {
		g.t.Fatal(err)
	}
	for i := range s {
		if s[i].Err != nil {
			g.t.Fatal(s[i].Err)
		}
	}
}

// child is a Go consumer in a process of its own: it claims what is there and
// waits to be killed.
func child() {
	s, claims := childClaims(10)
	fmt.Println("claimed", len(claims))
	<-s.Done()
	os.Exit(1)
}

// childClaims opens the session that the environment describes, and claims once.
func childClaims(most int) (*store, []virtual.Claim) {
	u, queue := os.Getenv("GOMBU_TEST_CHILD"), os.Getenv("GOMBU_TEST_QUEUE")
	c, err := fromText(u)
	if err == nil {
		var s *store
		if s, _, err = openAs(c, driver.Consume); err == nil {
			dst := make([]virtual.Claim, most)
			var n int
			if n, err = s.Claim(context.Background(), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: queue, Max: most}}, Wait: 10 * time.Second}, dst); err == nil {
				return s, dst[:n]
			}
		}
	}
	fmt.Println(err)
	os.Exit(1)
	return nil, nil
}

// childCommand is this test program as another process.
func childCommand(t *tester, does, queue, options string) *exec.Cmd {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "GOMBU_TEST_CHILD_DOES="+does, "GOMBU_TEST_QUEUE="+queue,
		fmt.Sprintf("GOMBU_TEST_CHILD=redis://%s/%d?%s", t.config.Addr, t.config.DB, options))
	cmd.Stderr = os.Stderr
	return cmd
}

// killedChild claims from a queue in another process and kills that, once its
// claim is mirrored.
func killedChild(t *tester, queue string) {
	t.Helper()
	before := t.number("HLEN", "unacked")
	cmd := childCommand(t, "claim", queue, "")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "claimed 1\n" {
		t.Fatal(line, err)
	}
	eventually(t, "the child's mirror", func() bool { return t.number("HLEN", "unacked") > before })
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// poll lets Python sweep.
func (p *python) poll() {
	if !p.killed {
		var got []pyMessage
		p.do(map[string]any{"op": "drain", "timeout": 0.1}, &got)
	}
}

func eventuallyOr(t testing.TB, what string, meanwhile func(), ok func() bool) {
	t.Helper()
	eventually(t, what, func() bool { meanwhile(); return ok() })
}

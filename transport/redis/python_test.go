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
	"slices"
	"strings"
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
	const binary = "/usr/bin/python3"
	if out, err := exec.Command(binary, "-c", "import kombu, redis").CombinedOutput(); err != nil {
		missing(t, fmt.Sprintf("no Kombu for %s (scripts/install): %v %s", binary, err, out))
	}
	p := &python{t: t, cmd: exec.Command(binary, "testdata/peer.py", fmt.Sprintf("redis://%s/%d", t.config.Addr, testDB), options)}
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

func TestPythonToGo(tt *testing.T) {
	t := newTester(tt)
	p := startPython(t, "{}")
	g := startGo(t)
	p.op("declare", "exchange", "d", "type", "direct", "queue", "dq", "key", "k")
	p.op("declare", "exchange", "t", "type", "topic", "queue", "tq", "key", "stock.*.ny")
	p.op("publish", "exchange", "d", "key", "k", "body", map[string]any{"n": 1}, "with", map[string]any{
		"headers": map[string]any{"h": "v", "n": 7}, "correlation_id": "c1", "reply_to": "r", "message_id": "m1", "expiration": 90, "priority": 4})
	r := g.receiver("dq")
	in := g.receive(r, 1)[0]
	if in.DecodeErr != nil || string(in.Body) != `{"n": 1}` || in.Props.ContentType != "application/json" || in.Props.CorrelationID != "c1" || in.Props.ReplyTo != "r" ||
		in.Props.MessageID != "m1" || in.Props.Expiration != 90*time.Second || in.Props.Priority != 4 || in.Exchange != "d" || in.Key != "k" ||
		in.Props.Headers.Get("h") != "v" || in.Props.Headers.Get("n") != int64(7) || in.Redelivered {
		t.Fatalf("%+v", in)
	}
	g.settle(r, driver.Ack, in)
	p.op("publish", "exchange", "t", "type", "topic", "key", "stock.usd.ny", "body", "text")
	p.op("publish", "exchange", "t", "type", "topic", "key", "stock.usd.sf", "body", "not this")
	p.op("publish", "exchange", "t", "type", "topic", "key", "stock.eur.ny", "bytes", base64.StdEncoding.EncodeToString([]byte{0, 255}))
	r = g.receiver("tq")
	two := g.receive(r, 2)
	if string(two[0].Body) != "text" || two[0].Props.ContentType != "text/plain" || string(two[1].Body) != "\x00\xff" {
		t.Fatalf("%+v", two)
	}
	g.settle(r, driver.Ack, two...)
	for i := range 10 {
		p.op("publish", "key", "pq", "body", fmt.Sprint(9-i), "with", map[string]any{"priority": 9 - i})
	}
	r = g.receiver("pq")
	var order []string
	for _, in := range g.receive(r, 10) {
		order = append(order, string(in.Body))
		g.settle(r, driver.Ack, in)
	}
	want(t, "order", strings.Join(order, " "), "2 1 0 5 4 3 8 7 6 9")
	g.declare("f", driver.TypeFanout, "fq", "")
	r = g.receiver("fq")
	p.op("publish", "exchange", "f", "type", "fanout", "body", "to all")
	want(t, "fan-out", string(g.receive(r, 1)[0].Body), "to all")
	eventually(t, "the receivers to rest", func() bool { return t.number("EXISTS", "unacked", "unacked_index") == 0 })
}

func TestGoToPython(tt *testing.T) {
	t := newTester(tt)
	p := startPython(t, "{}")
	g := startGo(t)
	g.declare("d", driver.TypeDirect, "dq", "k")
	g.declare("t", driver.TypeTopic, "tq", "stock.*.ny")
	g.mustPublish("d", "k", `{"n": 1}`, driver.Properties{ContentType: "application/json", ContentEncoding: "utf-8", CorrelationID: "c1", ReplyTo: "r", MessageID: "m1",
		Expiration: 90 * time.Second, Priority: 4, Headers: driver.Headers{{Key: "h", Value: "v"}, {Key: "n", Value: 7}}})
	p.op("consume", "exchange", "d", "queue", "dq", "key", "k")
	m := p.drain(1)[0]
	if m.text() != `{"n": 1}` || m.ContentType != "application/json" || m.Properties["correlation_id"] != "c1" || m.Properties["reply_to"] != "r" || m.Properties["message_id"] != "m1" ||
		m.Properties["expiration"] != "90000" || m.Properties["priority"] != 4.0 || m.Headers["h"] != "v" || m.Headers["n"] != 7.0 || m.Exchange != "d" || m.Key != "k" || m.Redelivered {
		t.Fatalf("%+v", m)
	}
	p.op("ack", "tag", m.Tag)
	g.mustPublish("t", "stock.usd.ny", "text", driver.Properties{})
	wantKind(t, "nobody is bound", g.publish(driver.Outgoing{Exchange: "t", Key: "stock.usd.sf"}), driver.ErrUnroutable)
	g.mustPublish("t", "stock.eur.ny", "\x00\xff", driver.Properties{ContentType: "application/data", ContentEncoding: "binary"})
	p.op("consume", "exchange", "t", "type", "topic", "queue", "tq", "key", "stock.*.ny")
	two := p.drain(2)
	if two[0].text() != "text" || two[1].text() != "\x00\xff" {
		t.Fatalf("%+v", two)
	}
	p.op("ack", "tag", two[0].Tag)
	p.op("reject", "tag", two[1].Tag)
	p.op("consume", "exchange", "f", "type", "fanout", "queue", "fq")
	p.drain(0)
	var none []pyMessage
	p.do(map[string]any{"op": "drain", "timeout": 0.2}, &none) // subscribes
	g.declare("f", driver.TypeFanout, "", "")
	g.mustPublish("f", "", "to all", driver.Properties{})
	m = p.drain(1)[0]
	want(t, "fan-out", m.text(), "to all")
	p.op("ack", "tag", m.Tag)
	want(t, "unacked", t.number("EXISTS", "unacked", "unacked_index"), 0)
}

func TestGoToPythonPriorities(tt *testing.T) {
	t := newTester(tt)
	p := startPython(t, "{}")
	g := startGo(t)
	for i := range 10 {
		g.mustPublish("", "pq", fmt.Sprint(9-i), driver.Properties{Priority: uint8(9 - i)})
	}
	p.op("consume", "queue", "pq")
	var order []string
	for _, m := range p.drain(10) {
		order = append(order, m.text())
	}
	want(t, "order", strings.Join(order, " "), "2 1 0 5 4 3 8 7 6 9")
}

// A message that Go gave back, counted, passes through Python and back.
func TestRequeuePassesThroughPython(tt *testing.T) {
	t := newTester(tt)
	p := startPython(t, "{}")
	g := startGo(t)
	g.mustPublish("", "q", "a", driver.Properties{})
	r := g.receiver("q")
	g.settle(r, driver.Requeue, g.receive(r, 1)...)
	if err := r.Close(soon(t)); err != nil {
		t.Fatal(err)
	}
	p.op("consume", "queue", "q")
	m := p.drain(1)[0]
	want(t, "python's body", m.text(), "a")
	p.op("requeue", "tag", m.Tag)
	p.kill()
	r = g.receiver("q")
	in := g.receive(r, 1)[0]
	if string(in.Body) != "a" || in.Attempt != 2 || !in.Redelivered {
		t.Fatalf("%+v", in)
	}
	g.settle(r, driver.Ack, in)
}

func TestAKilledPythonConsumersMessageComesBack(tt *testing.T) {
	t := newTester(tt)
	p := startPython(t, "{}")
	p.op("publish", "exchange", "d", "key", "k", "body", "lost?") // nobody is bound: Kombu drops it
	p.op("declare", "exchange", "d", "queue", "q", "key", "k")
	p.op("publish", "exchange", "d", "key", "k", "body", "a", "with", map[string]any{"priority": 5})
	p.op("consume", "exchange", "d", "queue", "q", "key", "k")
	p.drain(1)
	p.kill()
	want(t, "held by the dead", t.number("HLEN", "unacked"), 1)
	g := startGo(t, shortVisibility)
	r := g.receiver("q")
	in := g.receive(r, 1)[0]
	if string(in.Body) != "a" || !in.Redelivered || in.Props.Priority != 5 {
		t.Fatalf("%+v", in)
	}
	g.settle(r, driver.Ack, in)
	want(t, "unacked", t.number("EXISTS", "unacked", "unacked_index", "q", "q\x06\x163"), 0)
}

// child is a Go consumer in a process of its own: it claims what is there and
// waits to be killed.
func child() {
	u, queue := os.Getenv("GOMBU_TEST_CHILD"), os.Getenv("GOMBU_TEST_QUEUE")
	c, err := fromText(u)
	if err == nil {
		var s *store
		if s, _, err = openWith(c); err == nil {
			dst := make([]virtual.Claim, 10)
			var n int
			n, err = s.Claim(context.Background(), virtual.ClaimRequest{Wants: []virtual.Want{{Queue: queue, Max: 10}}, Wait: 10 * time.Second}, dst)
			fmt.Println("claimed", n)
			<-s.Done()
		}
	}
	fmt.Println(err)
	os.Exit(1)
}

// killedChild claims from a queue in another process and kills that, once its
// claim is mirrored.
func killedChild(t *tester, queue string) {
	t.Helper()
	before := t.number("HLEN", "unacked")
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("GOMBU_TEST_CHILD=redis://%s/%d", t.config.Addr, testDB), "GOMBU_TEST_QUEUE="+queue)
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

func TestAKilledGoConsumersMessageComesBackToPython(tt *testing.T) {
	t := newTester(tt)
	p := startPython(t, `{"visibility_timeout": 2}`)
	p.op("declare", "exchange", "d", "queue", "q", "key", "k")
	p.op("publish", "exchange", "d", "key", "k", "body", "a")
	killedChild(t, "q")
	p.op("consume", "exchange", "d", "queue", "q", "key", "k")
	m := p.drain(1)[0]
	if m.text() != "a" || !m.Redelivered {
		t.Fatalf("%+v", m)
	}
	p.op("ack", "tag", m.Tag)
	// The next Go process finds that Python took it, and leaves no trace.
	s, _ := t.open()
	eventually(t, "the dead owner to be forgotten", func() bool { return t.number("ZCARD", ownersKey) == 1 })
	want(t, "it does not come again", t.number("EXISTS", "q", "unacked"), 0)
	_ = s
}

// One publish to two queues of a topic exchange: the first copy is settled, the
// consumer of the second dies. It comes back once, in its own queue only.
func TestTwoQueuesOfATopic(tt *testing.T) {
	for _, from := range []string{"go", "python"} {
		for _, sweeper := range []string{"go", "python"} {
			tt.Run(from+" publishes, "+sweeper+" sweeps", func(tt *testing.T) {
				t := newTester(tt)
				p := startPython(t, `{"visibility_timeout": 2}`)
				p.op("declare", "exchange", "t", "type", "topic", "queue", "q1", "key", "a.*")
				p.op("declare", "exchange", "t", "type", "topic", "queue", "q2", "key", "a.#")
				func() {
					g := startGo(t)
					if from == "go" {
						g.mustPublish("t", "a.b", "m", driver.Properties{})
					} else {
						p.op("publish", "exchange", "t", "type", "topic", "key", "a.b", "body", "m")
					}
					r := g.receiver("q1")
					g.settle(r, driver.Ack, g.receive(r, 1)...)
					if err := g.conn.Close(soon(t)); err != nil {
						t.Fatal(err)
					}
				}()
				killedChild(t, "q2")
				if sweeper == "go" {
					p.kill()
					t.open(shortVisibility)
				} else {
					p.op("consume", "exchange", "t", "type", "topic", "queue", "q0", "key", "none")
				}
				eventuallyOr(t, "it to come back", func() { p.poll() }, func() bool { return t.number("LLEN", "q2") == 1 })
				since := time.Now()
				eventuallyOr(t, "a while", func() { p.poll() }, func() bool { return time.Since(since) > 2500*time.Millisecond })
				want(t, "in its own queue", t.number("LLEN", "q2"), 1)
				want(t, "in the other", t.number("LLEN", "q1"), 0)
				want(t, "unacked", t.number("EXISTS", "unacked"), 0)
			})
		}
	}
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

// Python binds and Go publishes at once, with the table of before at hand.
func TestPythonBindsGoPublishes(tt *testing.T) {
	t := newTester(tt)
	p := startPython(t, "{}")
	g := startGo(t)
	rounds := 1000
	if testing.Short() {
		rounds = 100
	}
	missed := 0
	for i := range rounds {
		key := fmt.Sprint("k", i)
		p.op("declare", "exchange", "t", "type", "topic", "queue", fmt.Sprint("q", i%10), "key", key)
		err := g.publish(driver.Outgoing{Exchange: "t", Key: key, Body: []byte("x")})
		switch {
		case errors.Is(err, driver.ErrUnroutable):
			missed++
		case err != nil:
			t.Fatal(err)
		}
	}
	want(t, "missed", missed, 0)
	total := 0
	for i := range 10 {
		total += t.number("LLEN", fmt.Sprint("q", i))
	}
	want(t, "stored", total, rounds)
}

// Kombu and we store the same members for the same bindings.
func TestMembersAreEqual(tt *testing.T) {
	t := newTester(tt)
	p := startPython(t, "{}")
	g := startGo(t)
	keys := []string{"a.b", "*", "#", "a.*.#", "a-b.c_d.*", "", "x y@z", "µ.*", "a..b", "(x)+", "日本.#"}
	for _, typ := range []string{driver.TypeTopic, driver.TypeDirect, driver.TypeFanout} {
		for _, k := range keys {
			g.declare("go-"+typ, typ, "q", k)
			p.op("declare", "exchange", "py-"+typ, "type", typ, "queue", "q", "key", k)
		}
		ours, _ := t.do("SMEMBERS", bindings+"go-"+typ).AsStrSlice()
		theirs, _ := t.do("SMEMBERS", bindings+"py-"+typ).AsStrSlice()
		slices.Sort(ours)
		slices.Sort(theirs)
		want(t, typ, fmt.Sprintf("%q", ours), fmt.Sprintf("%q", theirs))
	}
}

package redis

import (
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
)

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

func TestAKilledGoConsumersMessageComesBackToPython(tt *testing.T) {
	t := aside(tt)
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
				t := aside(tt)
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

// Python binds and Go publishes at once, with the table of before at hand.
func TestPythonBindsGoPublishes(tt *testing.T) {
	t := newTester(tt)
	p := startPython(t, "{}")
	g := startGo(t)
	const rounds = 1000
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

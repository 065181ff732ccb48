package amqp

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

func TestPublishConfirmed(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	mustPublish(t, s, to(q, "one"), to(q, "two"), to(q, "three"))
	info, err := s.Inspect(testContext(t), q)
	if err != nil || info.Ready != 3 {
		t.Fatalf("%+v, %v; want 3 ready: confirmed means that it is there", info, err)
	}
}

// Hard case B4: a return carries no tag.
func TestUnroutableByContent(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	ex := exchange(t, s, driver.Exchange{Type: driver.TypeHeaders})
	match := driver.Headers{{Key: "kind", Value: "good"}, {Key: "x-match", Value: "all"}}
	apply(t, s, driver.Step{Binding: &driver.Binding{Exchange: ex, Queue: q, Args: match}})

	var messages []driver.Outgoing
	var want []bool
	for i := range 60 {
		m := driver.Outgoing{Exchange: ex, Key: "k", Body: []byte("same")}
		good := i%3 != 1
		kind := "bad"
		if good {
			kind = "good"
		}
		m.Props.Headers = driver.Headers{
			{Key: "kind", Value: kind}, {Key: "n", Value: 7},
			{Key: "list", Value: []any{1, "x", nil, int64(1) << 40}}, {Key: "at", Value: time.Unix(1, 0)},
		}
		if i%4 == 3 { // the same with no exchange to match headers at
			m, good = to(q+".missing", "same"), false
		}
		messages, want = append(messages, m), append(want, good)
	}
	// BCC is stripped before the return, so headers alone would not match.
	hidden := to(q+".missing", "bcc")
	hidden.Props.Headers = driver.Headers{{Key: "BCC", Value: []any{q + ".nowhere"}}}
	messages, want = append(messages, hidden), append(want, false)

	for i, err := range publish(t, s, messages...) {
		if good := err == nil; good != want[i] {
			t.Fatalf("message %d: %v; want routed: %v", i, err, want[i])
		}
		if !want[i] {
			wantKind(t, publishError(t, messages[i], i, err), driver.ErrUnroutable)
		}
	}
}

func publishError(t *testing.T, m driver.Outgoing, i int, err error) error {
	t.Helper()
	if err == nil {
		t.Fatalf("message %d to %q, %q: no error", i, m.Exchange, m.Key)
	}
	return err
}

func TestNoMandatory(t *testing.T) {
	s := connect(t, brokerConfig(t))
	m := to(unique(t), "x")
	m.NoMandatory = true
	mustPublish(t, s, m)
}

func TestNoConfirm(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	n := openSender(t, s, driver.SenderConfig{Window: 1, NoConfirm: true})
	batch := []driver.Outgoing{to(q, "1"), to(q, "2"), to(q+".nowhere", "3")}
	if k, err := n.Submit(testContext(t), batch); k != 3 || err != nil {
		t.Fatal(k, err)
	}
	for i, m := range batch {
		if !m.Done || m.Err != nil {
			t.Fatalf("message %d: done %v, %v", i, m.Done, m.Err)
		}
	}
	if err := n.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	// Close returned after the broker had read everything.
	eventually(t, "both are in the queue", func() bool {
		info, err := s.Inspect(testContext(t), q)
		return err == nil && info.Ready == 2
	})
	if k, err := n.Outcomes(testContext(t), make([]driver.Receipt, 1)); k != 0 || !errors.Is(err, driver.ErrClosed) {
		t.Fatal(k, err)
	}
}

func TestRefusedByBroker(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{MaxLength: 1, Args: driver.Headers{{Key: "x-overflow", Value: "reject-publish"}}})
	got := publish(t, s, to(q, "1"), to(q, "2"), to(q, "3"))
	if got[0] != nil {
		t.Fatal(got[0])
	}
	wantKind(t, got[2], driver.ErrRefused)
}

// A channel closed by one message: each of the others gets its own outcome.
func TestMissingExchange(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	n := openSender(t, s, driver.SenderConfig{Window: 100})
	missing := unique(t)
	var batch []driver.Outgoing
	for i := range 40 {
		m := to(q, fmt.Sprint(i))
		if i == 20 {
			m.Exchange = missing
		}
		m.Seq = uint64(i)
		batch = append(batch, m)
	}
	taken, err := n.Submit(testContext(t), batch)
	if err != nil { // the broker was quick
		wantKind(t, err, driver.ErrNotSent)
	}
	// With outcomes open the next message is not sent past them.
	eventually(t, "the broker closes the channel", n.(*sender).ch.ended)
	late, err := n.Submit(testContext(t), []driver.Outgoing{to(q, "late")})
	if late != 0 {
		t.Fatal("a message was sent before those in front of it have their outcomes")
	}
	wantKind(t, err, driver.ErrNotSent)
	wantKind(t, err, driver.ErrNotFound)
	got := collect(t, n, taken)
	var e *amqp091.Error
	if wantKind(t, got[20], driver.ErrNotFound); !errors.As(got[20], &e) || e.Code != amqp091.NotFound {
		t.Fatalf("%v does not unwrap to the broker's error", got[20])
	}
	delivered := 0
	for i := range taken {
		switch err := got[uint64(i)]; {
		case i < 20 && err != nil:
			wantKind(t, err, driver.ErrUncertain)
			delivered++
		case i < 20:
			delivered++
		case i > 20:
			wantKind(t, err, driver.ErrNotSent)
		}
	}
	if delivered != 20 {
		t.Fatalf("%d may have been delivered, want the 20 before the culprit", delivered)
	}
	if err := submit(t, n, to(q, "again"))[0]; err != nil {
		t.Fatal("the sender does not go on:", err)
	}
	eventually(t, "20 and the last one are in the queue, none from behind the culprit", func() bool {
		info, err := s.Inspect(testContext(t), q)
		return err == nil && info.Ready == 21
	})
}

func TestBehaviour101_QueueDeletedInBetweenDoesNotHang(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	n := openSender(t, s, driver.SenderConfig{Window: 10})
	if err := submit(t, n, to(q, "1"))[0]; err != nil {
		t.Fatal(err)
	}
	apply(t, s, driver.Step{Op: driver.Delete, Queue: &driver.Queue{Name: q}})
	prompt(t, 2*time.Second, func() { wantKind(t, submit(t, n, to(q, "2"))[0], driver.ErrUnroutable) })
}

func TestInternalExchangeIsDenied(t *testing.T) {
	s := connect(t, brokerConfig(t))
	ex := exchange(t, s, driver.Exchange{Internal: true})
	m := to("k", "x")
	m.Exchange = ex
	wantKind(t, publish(t, s, m)[0], driver.ErrDenied)
}

// What the broker would close a channel or the connection over is found before.
func TestInvalidBeforeTheWrite(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	long := strings.Repeat("x", 256)
	with := func(change func(*driver.Outgoing)) driver.Outgoing {
		m := to(q, "x")
		change(&m)
		return m
	}
	for name, c := range map[string]struct {
		m    driver.Outgoing
		kind error
		text string
	}{
		"user id":      {with(func(m *driver.Outgoing) { m.Props.UserID = "other" }), driver.ErrInvalid, "other"},
		"expiration":   {with(func(m *driver.Outgoing) { m.Props.Expiration = 1 << 62 }), driver.ErrInvalid, "at most"},
		"header type":  {with(func(m *driver.Outgoing) { m.Props.Headers = driver.Headers{{Key: "odd", Value: struct{}{}}} }), driver.ErrInvalid, `"odd"`},
		"header key":   {with(func(m *driver.Outgoing) { m.Props.Headers = driver.Headers{{Key: long, Value: 1}} }), driver.ErrInvalid, "255"},
		"uint64":       {with(func(m *driver.Outgoing) { m.Props.Headers = driver.Headers{{Key: "n", Value: uint64(1) << 63}} }), driver.ErrInvalid, `"n"`},
		"key":          {with(func(m *driver.Outgoing) { m.Key = long }), driver.ErrTooLarge, "routing key"},
		"exchange":     {with(func(m *driver.Outgoing) { m.Exchange = long }), driver.ErrTooLarge, "exchange"},
		"content type": {with(func(m *driver.Outgoing) { m.Props.ContentType = long }), driver.ErrTooLarge, "content type"},
	} {
		t.Run(name, func(t *testing.T) {
			err := publish(t, s, c.m)[0]
			wantKind(t, err, c.kind)
			if !strings.Contains(err.Error(), c.text) {
				t.Fatalf("%v does not say %q", err, c.text)
			}
		})
	}
	mustPublish(t, s, with(func(m *driver.Outgoing) { m.Props.UserID = "guest" }))
}

// sizedMessage has every property and header type, and a header of n bytes.
func sizedMessage(queue string, n int) driver.Outgoing {
	m := to(queue, "body")
	m.Props = driver.Properties{
		ContentType: "text/plain", ContentEncoding: "utf-8", CorrelationID: "c", ReplyTo: "r", MessageID: "m",
		Type: "t", AppID: "a", UserID: "guest", Priority: 3, Expiration: time.Minute, Timestamp: time.Unix(1e9, 0),
		Headers: driver.Headers{
			{Key: "t", Value: true}, {Key: "i", Value: 1}, {Key: "l", Value: int64(1) << 40}, {Key: "d", Value: 1.5},
			{Key: "f", Value: float32(1)}, {Key: "x", Value: []byte("by")}, {Key: "T", Value: time.Unix(1, 0)}, {Key: "V"},
			{Key: "A", Value: []any{1, "two", []any{}}}, {Key: "F", Value: driver.Headers{{Key: "in", Value: map[string]any{"n": 1}}}},
			{Key: "D", Value: amqp091.Decimal{Scale: 1, Value: 5}}, {Key: "twice", Value: "first"},
			{Key: "twice", Value: nil}, {Key: "S", Value: strings.Repeat("x", n)},
		},
	}
	return m
}

// The properties may fill exactly one frame.
func TestHeaderFrameBoundary(t *testing.T) {
	cfg := brokerConfig(t)
	cfg.FrameMax = minFrameMax
	s := connect(t, cfg)
	q := queue(t, s, driver.Queue{})
	fits := 0
	for n := range minFrameMax { // where our own arithmetic puts the limit
		m := sizedMessage(q, n)
		if _, err := s.encode(&m, new(amqp091.Publishing)); err != nil {
			wantKind(t, err, driver.ErrTooLarge)
			break
		}
		fits = n
	}
	mustPublish(t, s, sizedMessage(q, fits))
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 1})
	if got := receive(t, r, 1)[0]; len(got.Props.Headers.Get("S").(string)) != fits {
		t.Fatal("the header did not come through")
	}
	// Our arithmetic is exact: RabbitMQ allows 8 bytes more than the protocol
	// (FRAME_SIZE_FUDGE in its rabbit_reader), and closes the connection over
	// one more.
	if e := publishUnchecked(t, sizedMessage(q, fits+8)); e != nil {
		t.Fatal(e)
	}
	if e := publishUnchecked(t, sizedMessage(q, fits+9)); e == nil || e.Code != amqp091.FrameError {
		t.Fatalf("%v; want a frame error", e)
	}
}

// publishUnchecked publishes by amqp091 alone with the smallest frames, and
// returns the error that the connection ends with.
func publishUnchecked(t *testing.T, m driver.Outgoing) *amqp091.Error {
	t.Helper()
	conn, err := amqp091.DialConfig(brokerURL(), amqp091.Config{FrameSize: minFrameMax})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	ended := conn.NotifyClose(make(chan *amqp091.Error, 1))
	ch, err := conn.Channel()
	if err != nil {
		t.Fatal(err)
	}
	p := m.Props
	headers, _, err := fromHeaders(p.Headers)
	if err != nil {
		t.Fatal(err)
	}
	err = ch.Publish("", m.Key, false, false, amqp091.Publishing{
		ContentType: p.ContentType, ContentEncoding: p.ContentEncoding, CorrelationId: p.CorrelationID, ReplyTo: p.ReplyTo,
		MessageId: p.MessageID, Type: p.Type, AppId: p.AppID, UserId: p.UserID, Priority: p.Priority,
		Expiration: expirationText(p.Expiration), Timestamp: p.Timestamp, DeliveryMode: 2, Headers: headers,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := ch.Close(); err == nil { // the broker has read the message
		return nil
	}
	return <-ended
}

func TestLargeBody(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	body := bytes.Repeat([]byte("0123456789abcdef"), 100<<20/16)
	mustPublish(t, s, driver.Outgoing{Key: q, Body: body})
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 1})
	if got := receive(t, r, 1)[0]; !bytes.Equal(got.Body, body) {
		t.Fatalf("%d bytes came back", len(got.Body))
	}
}

func TestTooLargeForBroker(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	got := publish(t, s, to(q, "before"), driver.Outgoing{Key: q, Body: make([]byte, 128<<20+1)})
	if got[0] != nil {
		wantKind(t, got[0], driver.ErrUncertain)
	}
	wantKind(t, got[1], driver.ErrTooLarge)
}

func TestBehaviour094_Expiration(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	raw, err := amqp091.Dial(brokerURL())
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	ch, err := raw.Channel()
	if err != nil {
		t.Fatal(err)
	}
	for d, want := range map[time.Duration]string{
		10 * time.Second: "10000", 1500 * time.Millisecond: "1500", time.Microsecond: "1", 0: "",
	} {
		m := to(q, "x")
		m.Props.Expiration = d
		mustPublish(t, s, m)
		var got amqp091.Delivery
		ok := false
		if want != "1" { // that one is gone at once
			if got, ok, err = ch.Get(q, true); err != nil || !ok || got.Expiration != want {
				t.Fatalf("%v: expiration %q, %v, %v; want %q", d, got.Expiration, ok, err, want)
			}
		}
	}
	if expirationText(time.Microsecond) != "1" || expirationText(-1) != "0" {
		t.Fatal("what is positive must not become 0, which is at once; what is negative must")
	}
}

func TestBehaviour199_ExpiredMessageDoesNotArrive(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	soon, now, later := to(q, "soon"), to(q, "now"), to(q, "later")
	soon.Props.Expiration, now.Props.Expiration, later.Props.Expiration = 50*time.Millisecond, -1, time.Minute
	mustPublish(t, s, soon, now, later)
	eventually(t, "two of three expire", func() bool {
		info, err := s.Inspect(testContext(t), q)
		return err == nil && info.Ready == 1
	})
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 5})
	if got := bodies(receive(t, r, 1)); got != "later" {
		t.Fatal(got)
	}
	nothing(t, r)
}

// Submit keeps nothing of the caller's memory (hard case E12).
func TestSubmitKeepsNoMemory(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	n := openSender(t, s, driver.SenderConfig{Window: 100})
	body, value := []byte("0000"), []byte("vvvv")
	for i := range 50 {
		copy(body, fmt.Sprintf("%04d", i))
		copy(value, fmt.Sprintf("%04d", i))
		m := driver.Outgoing{Seq: uint64(i), Key: q, Body: body}
		m.Props.Headers = driver.Headers{{Key: "v", Value: value}}
		if _, err := n.Submit(testContext(t), []driver.Outgoing{m}); err != nil {
			t.Fatal(err)
		}
		clear(body)
		clear(value)
	}
	collect(t, n, 50)
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 100})
	for i, m := range receive(t, r, 50) {
		want := fmt.Sprintf("%04d", i)
		if string(m.Body) != want || string(m.Props.Headers.Get("v").([]byte)) != want {
			t.Fatalf("%d: %q, %q", i, m.Body, m.Props.Headers.Get("v"))
		}
	}
}

package drivertest

import (
	"bytes"
	"math"
	"reflect"
	"strings"
	"time"

	"github.com/gombu/gombu/driver"
)

var propertyCases = []testCase{
	{"RoundTrip", propertiesRoundTrip},
	{"Headers", headersRoundTrip},
	{"Extra", extraRoundTrip},
	{"Bodies", bodiesRoundTrip},
	{"MemoryIsTheCallers", callersMemory},
}

// echo publishes m to a queue of its own and returns what arrives.
func (k *kit) echo(s *session, m driver.Outgoing) driver.Incoming {
	k.Helper()
	q := k.h.Unique("echo")
	s.declare(driver.Queue{Name: q})
	m.Key = q
	s.mustPublish(m)
	r := s.consume(q, 1)
	in := k.receive(r, 1)
	k.settle(r, driver.Ack, in...)
	k.must(r.Close(k.ctx))
	if in[0].DecodeErr != nil {
		k.Fatal(in[0].DecodeErr)
	}
	return in[0]
}

func propertiesRoundTrip(k *kit) {
	s := k.connect()
	want := driver.Properties{
		ContentType: "text/plain", ContentEncoding: "utf-8", MessageID: "m-☃", CorrelationID: "c \"quoted\"", ReplyTo: "r",
		Type: "t", AppID: "a", Expiration: time.Minute, Timestamp: time.Unix(1700000000, 0).UTC(), Priority: 7,
		DeliveryMode: driver.Persistent,
	}
	got := k.echo(s, driver.Outgoing{Props: want, Body: []byte("b")}).Props
	if !got.Timestamp.Equal(want.Timestamp) {
		k.Errorf("timestamp %v", got.Timestamp)
	}
	got.Timestamp, got.Headers, got.Extra = want.Timestamp, nil, nil
	if !reflect.DeepEqual(got, want) {
		k.Errorf("\n got %+v\nwant %+v", got, want)
	}
	want.DeliveryMode = driver.Transient
	if got := k.echo(s, driver.Outgoing{Props: want, Body: []byte("b")}).Props.DeliveryMode; got != driver.Transient {
		k.Errorf("delivery mode %d", got)
	}
	if got := k.echo(s, driver.Outgoing{Body: []byte("b")}).Props; got.MessageID != "" || got.Expiration != 0 || !got.Timestamp.IsZero() || len(got.Headers) != 0 {
		k.Errorf("properties out of nothing: %+v", got)
	}
}

func headersRoundTrip(k *kit) {
	s := k.connect()
	want := driver.Headers{
		{Key: "yes", Value: true}, {Key: "no", Value: false}, {Key: "small", Value: int64(-1)}, {Key: "big", Value: int64(math.MaxInt64)},
		{Key: "float", Value: 1.5}, {Key: "text", Value: "h\u00e9llo \u2603 \U0001f600 \"\\\n\x7f"}, {Key: "nothing", Value: nil},
		{Key: "empty", Value: ""}, {Key: "bytes", Value: []byte{0, 0xff, 'x'}}, {Key: "time", Value: time.Unix(1700000000, 0).UTC()},
		{Key: "table", Value: driver.Headers{{Key: "in", Value: driver.Headers{{Key: "deep", Value: int64(1)}}}}},
		{Key: "list", Value: []any{int64(1), "two", driver.Headers{{Key: "k", Value: true}}, []any{}}},
		{Key: "key \u2603", Value: int64(2)},
	}
	got := k.echo(s, driver.Outgoing{Props: driver.Properties{Headers: want}}).Props.Headers
	for _, h := range want {
		v, ok := got.Lookup(h.Key)
		if !ok || !sameValue(v, h.Value) {
			k.Errorf("%s: %#v, want %#v", h.Key, v, h.Value)
		}
	}
	if len(got) != len(want) {
		k.Errorf("%d headers, want %d: %v", len(got), len(want), got)
	}
}

// sameValue compares by value: a broker may keep a number in a width of its own.
func sameValue(got, want any) bool {
	switch w := want.(type) {
	case int64:
		v := reflect.ValueOf(got)
		return got != nil && (v.CanInt() && v.Int() == w || v.CanUint() && v.Uint() == uint64(w))
	case []byte:
		g, ok := got.([]byte)
		return ok && bytes.Equal(g, w)
	case time.Time:
		g, ok := got.(time.Time)
		return ok && g.Equal(w)
	case driver.Headers:
		g, ok := got.(driver.Headers)
		if !ok || len(g) != len(w) {
			return false
		}
		for _, h := range w {
			if v, ok := g.Lookup(h.Key); !ok || !sameValue(v, h.Value) {
				return false
			}
		}
		return true
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for i := range w {
			if !sameValue(g[i], w[i]) {
				return false
			}
		}
		return true
	}
	return reflect.DeepEqual(got, want)
}

func extraRoundTrip(k *kit) {
	if !k.h.KeepsExtra {
		k.Skip("the transport has no properties of other names")
	}
	want := driver.Headers{{Key: "mine", Value: "x"}, {Key: "list", Value: []any{int64(1)}}}
	s := k.connect()
	got := k.echo(s, driver.Outgoing{Props: driver.Properties{Extra: want}}).Props.Extra
	if !sameValue(got, want) {
		k.Errorf("%v, want %v", got, want)
	}
}

func bodiesRoundTrip(k *kit) {
	s := k.connect()
	every := make([]byte, 256)
	for i := range every {
		every[i] = byte(i)
	}
	for name, body := range map[string][]byte{
		"empty": nil, "every byte": every, "unicode": []byte("h\u00e9llo \u2603"), "1 MiB": bytes.Repeat(every, 4096), "json": []byte(`{"a": 1}`),
	} {
		if got := k.echo(s, driver.Outgoing{Body: body}).Body; !bytes.Equal(got, body) {
			k.Errorf("%s: %d bytes, want %d", name, len(got), len(body))
		}
	}
	long := strings.Repeat("x", 200)
	if in := k.echo(s, driver.Outgoing{Props: driver.Properties{MessageID: long}}); in.Props.MessageID != long {
		k.Errorf("message id of %d bytes", len(in.Props.MessageID))
	}
}

// Nothing of the caller's memory is kept, and what is received is his.
func callersMemory(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	m := message("", q, "original")
	m.Props.Headers = driver.Headers{{Key: "h", Value: []any{"original"}}}
	s.mustPublish(m)
	copy(m.Body, "CHANGED!")
	m.Props.Headers[0].Value.([]any)[0] = "CHANGED"
	r := s.consume(q, 1)
	for range 2 {
		in := k.receive(r, 1)
		k.wantBodies(in, "original")
		if !sameValue(in[0].Props.Headers.Get("h"), []any{"original"}) {
			k.Errorf("headers %v", in[0].Props.Headers)
		}
		copy(in[0].Body, "CHANGED!")
		in[0].Props.Headers[0].Value.([]any)[0] = "CHANGED"
		k.settle(r, driver.Requeue, in...)
	}
}

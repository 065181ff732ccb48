package kombu

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
)

func golden(t testing.TB, name string, v any) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, v); err != nil {
		t.Fatal(err)
	}
}

type sample struct {
	Name, Raw string
	Received  struct {
		ContentType     string `json:"content_type"`
		ContentEncoding string `json:"content_encoding"`
		BodyHex         string `json:"body_hex"`
	}
	OK bool `json:"ok"`
}

func envelopes(t testing.TB) (samples, decode []sample) {
	var g struct{ Samples, Decode []sample }
	golden(t, "envelopes.json", &g)
	return g.Samples, g.Decode
}

func deliveryTag(t testing.TB, raw string) string {
	var e struct {
		Properties struct {
			Tag string `json:"delivery_tag"`
		}
	}
	if err := json.Unmarshal([]byte(raw), &e); err != nil {
		t.Fatal(err)
	}
	return e.Properties.Tag
}

// What Kombu wrote, read and written again, is the same text.
func TestGoldenEnvelopes(t *testing.T) {
	samples, _ := envelopes(t)
	for _, s := range samples {
		t.Run(s.Name, func(t *testing.T) {
			var in driver.Incoming
			if err := Decode([]byte(s.Raw), &in); err != nil {
				t.Fatal(err)
			}
			if s.Received.ContentType != "" {
				compressed := in.Props.Headers.Get("compression") != nil // undone above this layer
				if got := hex.EncodeToString(in.Body); got != s.Received.BodyHex && !compressed {
					t.Errorf("body %s, want %s", got, s.Received.BodyHex)
				}
				if in.Props.ContentType != s.Received.ContentType || in.Props.ContentEncoding != s.Received.ContentEncoding {
					t.Errorf("content %q %q", in.Props.ContentType, in.Props.ContentEncoding)
				}
			}
			if strings.HasPrefix(s.Name, "body_encoding_") {
				return // we always write base64
			}
			out := driver.Outgoing{Exchange: in.Exchange, Key: in.Key, Props: in.Props, Body: in.Body}
			got, err := AppendEnvelope([]byte("x"), &out, deliveryTag(t, s.Raw))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != "x"+s.Raw {
				t.Errorf("\n got %s\nwant x%s", got, s.Raw)
			}
		})
	}
}

// Kombu's readers mostly do without delivery_info and die later; we refuse at
// once, and judge the rest of each sample with one put in.
func TestGoldenDecode(t *testing.T) {
	content := map[string]bool{"untrusted": true, "unknown_compression": true, "gzip_container": true} // refused above this layer
	_, samples := envelopes(t)
	for _, s := range samples {
		t.Run(s.Name, func(t *testing.T) {
			raw := s.Raw
			if strings.Contains(raw, "properties") && !strings.Contains(raw, "delivery_info") {
				wantUndecodable(t, raw, "no delivery_info")
				raw = strings.Replace(raw, `"properties": {`, `"properties": {"delivery_info": {"exchange": "e", "routing_key": "k"}, `, 1)
			}
			want := s.OK || content[s.Name] || s.Name == "no_delivery_tag"
			err := Decode([]byte(raw), new(driver.Incoming))
			if (err == nil) != want {
				t.Fatalf("%v, want ok %v", err, want)
			}
			if err != nil && !errors.Is(err, driver.ErrUndecodable) {
				t.Fatal(err)
			}
		})
	}
}

func TestMinimalCeleryEnvelopes(t *testing.T) {
	var g struct{ Samples []sample }
	golden(t, "celery_minimal_accept.json", &g)
	for _, s := range g.Samples {
		in := driver.Incoming{}
		err := Decode([]byte(s.Raw), &in)
		if hasRoute := strings.Contains(s.Raw, "delivery_info"); (err == nil) != hasRoute {
			t.Errorf("%s: %v", s.Name, err)
		}
		if err == nil && len(in.Body) == 0 {
			t.Errorf("%s: no body", s.Name)
		}
	}
}

func wantUndecodable(t *testing.T, raw, why string) {
	t.Helper()
	in := driver.Incoming{Queue: "q", Tag: driver.Tag{ID: 7}}
	err := Decode([]byte(raw), &in)
	if !errors.Is(err, driver.ErrUndecodable) || !strings.Contains(err.Error(), why) {
		t.Errorf("%.80s: %v, want %q", raw, err, why)
	}
	if want := (driver.Incoming{Queue: "q", Tag: driver.Tag{ID: 7}}); !reflect.DeepEqual(in, want) {
		t.Errorf("%.80s: left %+v", raw, in)
	}
}

func TestUndecodable(t *testing.T) {
	const props = `"properties": {"delivery_info": {}}`
	for raw, why := range map[string]string{
		``:                                  "want '{'",
		`hello`:                             "want '{'",
		`[]`:                                "want '{'",
		`{}`:                                "no properties",
		`{"properties": null}`:              "want '{'",
		`{"properties": {}}`:                "no delivery_info",
		"{" + props + "} x":                 "behind",
		"{" + props + "}\x00":               "behind",
		"{" + props + `, "a": "\xff"}`:      "escape",
		"{" + props + ", \"a\": \"\xff\"}":  "UTF-8",
		"{" + props + `, "body": 5}`:        "no text",
		"{" + props + `, "body": {"a": 1}}`: "without a type",
		"{" + props + `, "headers": [1]}`:   "headers",
		"{" + props + `, "headers": ` + strings.Repeat(`{"a": `, 1e5) + `1` + strings.Repeat(`}`, 1e5) + `}`: "too deeply",
		"{" + props + `, "headers": ` + strings.Repeat(`[`, 1e6):                                             "too deeply",
		`{"body": "YQ", "properties": {"delivery_info": {}, "body_encoding": "base64"}}`:                     "not base64",
		`{"body": "YWJj`: "unfinished",
		`{"body": "a", "properties": {"delivery_info": {}, "body_encoding": "Base64"}}`: "unknown body_encoding",
		`{"body": "a", "properties": {"delivery_info": {}, "body_encoding": 7}}`:        "no text",
		`{"body": "a", "properties": {"delivery_info": {}},}`:                           "want a string",
		`{"body": "a" "properties": {"delivery_info": {}}}`:                             "want ','",
		`{"properties": {"delivery_info": {}, "priority": 01}}`:                         "want a value",
	} {
		wantUndecodable(t, raw, why)
	}
}

func TestTolerance(t *testing.T) {
	decode := func(props, rest string) driver.Incoming {
		t.Helper()
		var in driver.Incoming
		if err := Decode([]byte(`{"properties": {"delivery_info": {}`+props+`}`+rest+`}`), &in); err != nil {
			t.Fatal(err)
		}
		return in
	}
	if in := decode(``, `, "body": null`); in.Body != nil {
		t.Errorf("null body: %q", in.Body)
	}
	if in := decode(`, "body_encoding": "UTF-8"`, `, "body": "h\u00e9\/"`); string(in.Body) != "hé/" {
		t.Errorf("text body: %q", in.Body)
	}
	if in := decode(`, "body_encoding": "base64"`, ` , "body" : "\/wA="`); string(in.Body) != "\xff\x00" {
		t.Errorf("escaped base64: %q", in.Body)
	}
	if in := decode(`, "correlation_id": 5, "timestamp": "x", "expiration": "soon", "mine": [1]`, ``); len(in.Props.Extra) != 4 || in.Props.CorrelationID != "" {
		t.Errorf("extra: %v", in.Props.Extra)
	}
	if in := decode(`, "expiration": 1500, "delivery_mode": 1, "correlation_id": null`, ``); in.Props.Expiration != 1500*time.Millisecond || in.Props.DeliveryMode != driver.Transient || in.Props.Extra != nil {
		t.Errorf("props: %+v", in.Props)
	}
	if in := decode(`, "expiration": "0"`, ``); in.Props.Expiration >= 0 {
		t.Errorf("expiration 0: %v", in.Props.Expiration)
	}
	for _, where := range []string{`, "headers": {"redelivered": true, "a": 1}`, `, "redelivered": true`, `, "gombu-try": 2`} {
		if in := decode(``, where); !in.Redelivered || in.Props.Headers.Get("redelivered") != nil {
			t.Errorf("%s: %+v", where, in)
		}
	}
	var in driver.Incoming
	if err := Decode([]byte(`{"gombu-try": 3, "body": "", "properties": {"delivery_info": {"redelivered": true}}}`), &in); err != nil || in.Attempt != 4 || !in.Redelivered {
		t.Errorf("%v %+v", err, in)
	}
}

func TestBehaviour177_PriorityIsClamped(t *testing.T) {
	for text, want := range map[string]uint8{`-10`: 0, `5`: 5, `19`: 9, `"foobar"`: 0, `"7"`: 7, `null`: 0, `5.9`: 5, `1e99`: 0, `{}`: 0, `true`: 1} {
		var in driver.Incoming
		if err := Decode([]byte(`{"properties": {"delivery_info": {}, "priority": `+text+`}}`), &in); err != nil || in.Props.Priority != want {
			t.Errorf("%s: %d, %v, want %d", text, in.Props.Priority, err, want)
		}
	}
}

func everything() driver.Outgoing {
	zone := time.FixedZone("", 2*3600)
	return driver.Outgoing{
		Exchange: "é\"x", Key: "a.b\x7f",
		Props: driver.Properties{
			ContentType: "text/plain", ContentEncoding: "utf-8", MessageID: "m", CorrelationID: "c", ReplyTo: "r", Type: "t",
			AppID: "a", UserID: "u", Expiration: 250 * time.Millisecond, Timestamp: time.Unix(1700000000, 0).UTC(), Priority: 9,
			DeliveryMode: driver.Persistent,
			Extra:        driver.Headers{{Key: "x", Value: []any{int64(1), nil, true}}, {Key: "y", Value: json.Number("123456789012345678901234567890")}},
			Headers: driver.Headers{
				{Key: "int", Value: int64(math.MinInt64)}, {Key: "float", Value: 1e-7}, {Key: "whole", Value: 2.0}, {Key: "text", Value: "☃😀\n\\"},
				{Key: "none", Value: nil}, {Key: "bytes", Value: []byte("x")}, {Key: "raw", Value: []byte{0xff}},
				{Key: "utc", Value: time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)}, {Key: "zone", Value: time.Date(2024, 1, 2, 3, 4, 5, 6000, zone)},
				{Key: "table", Value: driver.Headers{{Key: "in", Value: []any{driver.Headers{}}}}},
				{Key: "tag", Value: driver.Headers{{Key: "__type__", Value: "decimal"}, {Key: "__value__", Value: "1.10"}}},
				{Key: "inf", Value: math.Inf(-1)},
			},
		},
		Body: []byte{0, 1, 0xfe},
	}
}

func TestRoundTrip(t *testing.T) {
	out := everything()
	raw, err := AppendEnvelope(nil, &out, "tag")
	if err != nil {
		t.Fatal(err)
	}
	var in driver.Incoming
	if err := Decode(raw, &in); err != nil {
		t.Fatalf("%v\n%s", err, raw)
	}
	again, err := AppendEnvelope(nil, &driver.Outgoing{Exchange: in.Exchange, Key: in.Key, Props: in.Props, Body: in.Body}, "tag")
	if err != nil || !bytes.Equal(raw, again) {
		t.Errorf("%v\n%s\n%s", err, raw, again)
	}
	if in.Exchange != out.Exchange || in.Key != out.Key || !bytes.Equal(in.Body, out.Body) {
		t.Errorf("%+v", in)
	}
	for i, h := range out.Props.Headers {
		got := in.Props.Headers[i].Value
		if when, ok := h.Value.(time.Time); ok {
			if !got.(time.Time).Equal(when) {
				t.Errorf("%s: %v", h.Key, got)
			}
		} else if !reflect.DeepEqual(got, h.Value) {
			t.Errorf("%s: %#v, want %#v", h.Key, got, h.Value)
		}
	}
	if !reflect.DeepEqual(in.Props.Extra, out.Props.Extra) {
		t.Errorf("extra %#v", in.Props.Extra)
	}
}

func TestHeaderTypes(t *testing.T) {
	id := [16]byte{15: 1}
	for _, c := range []struct {
		v    any
		want string
	}{
		{int8(-1), `-1`}, {int16(2), `2`}, {int32(3), `3`}, {uint(4), `4`}, {uint8(5), `5`}, {uint16(6), `6`}, {uint32(7), `7`},
		{uint64(math.MaxUint64), `18446744073709551615`}, {float32(0.1), `0.1`}, {1e100, `1e+100`}, {1e16, `1e+16`}, {1e15, `1000000000000000.0`},
		{0.0001, `0.0001`}, {0.00001, `1e-05`}, {math.NaN(), `NaN`}, {math.Copysign(0, -1), `-0.0`},
		{new(big.Int).Lsh(big.NewInt(1), 70), `1180591620717411303424`},
		{map[string]any{"b": 1, "a": "x"}, `{"a": "x", "b": 1}`},
		{id, `{"__type__": "uuid", "__value__": {"hex": "00000000000000000000000000000001"}}`},
		{time.Date(2024, 7, 2, 3, 4, 5, 6000, time.FixedZone("", 7201)), `{"__type__": "datetime", "__value__": "2024-07-02T03:04:05.000006+02:00:01"}`},
	} {
		if got, err := appendValue(nil, c.v, 2); err != nil || string(got) != c.want {
			t.Errorf("%#v: %s, %v, want %s", c.v, got, err, c.want)
		}
	}
	naiveText := `{"__type__": "datetime", "__value__": "2024-01-02T03:04:05.000006"}`
	s := scanner{b: []byte(naiveText)}
	if got, _ := appendValue(nil, s.value(), 2); string(got) != naiveText {
		t.Errorf("naive datetime: %s", got)
	}
	deep := any("x")
	for range 1000 {
		deep = []any{deep}
	}
	for _, v := range []any{struct{}{}, make(chan int), json.Number("0x1"), json.Number(""), (*big.Int)(nil), time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC), deep} {
		m := driver.Outgoing{Props: driver.Properties{Headers: driver.Headers{{Key: "bad", Value: v}}}}
		got, err := AppendEnvelope([]byte("kept"), &m, "t")
		if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), "bad") || string(got) != "kept" {
			t.Errorf("%T: %v, %s", v, err, got)
		}
	}
}

func TestTopicPattern(t *testing.T) {
	var g struct {
		Samples []struct {
			Key     string `json:"routing_key"`
			Pattern string
		}
	}
	golden(t, "topic_patterns.json", &g)
	if len(g.Samples) == 0 {
		t.Fatal("no samples")
	}
	for _, s := range g.Samples {
		if got := TopicPattern(s.Key); got != s.Pattern {
			t.Errorf("%q: %q, want %q", s.Key, got, s.Pattern)
		}
	}
	if got := TopicPattern("a\x00☃½"); got != `^a\000\☃½$` {
		t.Errorf("%q", got)
	}
}

func TestBindingMember(t *testing.T) {
	const sep = "\x06\x16"
	for _, c := range []struct{ key, pattern, queue, want string }{
		{"", "", "qf1", "\x06\x16\x06\x16qf1"},
		{"rk", "", "q", "rk\x06\x16\x06\x16q"},
		{"stock.*.ny", TopicPattern("stock.*.ny"), "q", "stock.*.ny\x06\x16^stock\\..*?[^\\.]\\.ny$\x06\x16q"},
	} {
		got := BindingMember(c.key, c.pattern, c.queue, sep)
		if got != c.want {
			t.Errorf("%q, want %q", got, c.want)
		}
		key, pattern, queue, ok := ParseBindingMember(got, sep)
		if !ok || key != c.key || pattern != c.pattern || queue != c.queue {
			t.Errorf("%q: %q %q %q %v", got, key, pattern, queue, ok)
		}
	}
	for _, bad := range []string{"", "a", "a\x06\x16b", "a\x06\x16b\x06\x16c\x06\x16d"} {
		if _, _, _, ok := ParseBindingMember(bad, sep); ok {
			t.Errorf("%q is no member", bad)
		}
	}
}

package kombu

import (
	"bytes"
	"encoding/json"
	"math"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/kjson"
)

// The scanner takes exactly what encoding/json takes (and Python's NaN and
// Infinity), and reads the same values.
func FuzzScanner(f *testing.F) {
	for _, s := range []string{
		`{"a": [1, -0, 2.5e-3, 1E400, 12345678901234567890], "a": "\ud83d\ude00\ud800x\/"}`, `[]`, ` {} `, `[1,]`, `{"a":1,}`, "\"\x01\"", `01`, `-`, `1.`, `.5`, `+1`,
		`"\u12"`, `tru`, `nullx`, `[NaN, -Infinity]`, "\"12345678\n\"", `"abcdefghijklmnop\"q"`,
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if !utf8.Valid(data) || bytes.Contains(data, []byte("__type__")) {
			return
		}
		s := kjson.Scanner{B: data}
		got := s.Value()
		if s.Peek(); s.I < len(s.B) {
			s.Fail("rest")
		}
		if s.Err != nil && strings.Contains(s.Err.Error(), "too deeply") {
			return
		}
		python := bytes.Contains(data, []byte("NaN")) || bytes.Contains(data, []byte("Infinity"))
		if valid := json.Valid(data); valid != (s.Err == nil) && !python {
			t.Fatalf("%q: encoding/json says %v, we say %v", data, valid, s.Err)
		}
		if s.Err != nil || python {
			return
		}
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatal(err)
		}
		if !same(got, want) {
			t.Fatalf("%q: %#v, want %#v", data, got, want)
		}
	})
}

// same compares a value of ours with one of encoding/json's.
func same(got, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		h, ok := got.(driver.Headers)
		if !ok || len(h) != len(w) {
			return false
		}
		for _, e := range h {
			if v, ok := w[e.Key]; !ok || !same(e.Value, v) {
				return false
			}
		}
		return true
	case []any:
		list, ok := got.([]any)
		if !ok || len(list) != len(w) {
			return false
		}
		for i := range list {
			if !same(list[i], w[i]) {
				return false
			}
		}
		return true
	case json.Number:
		switch g := got.(type) {
		case int64:
			n, err := w.Int64()
			return err == nil && n == g
		case float64:
			n, err := w.Float64()
			return n == g || err != nil && math.IsInf(g, 0)
		}
	}
	return reflect.DeepEqual(got, want)
}

// What decodes can be encoded, and what we encode decodes to the same text.
func FuzzDecode(f *testing.F) {
	samples, decode := envelopes(f)
	for _, s := range append(samples, decode...) {
		f.Add([]byte(s.Raw))
	}
	f.Add([]byte(`{"gombu-try": 3, "body": {"__type__": "bytes", "__value__": "x"}, "headers": {"when": {"__type__": "datetime", "__value__": "2024-01-02T03:04:05"}}, "properties": {"delivery_info": {}, "priority": "7", "x": NaN}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var in driver.Incoming
		if err := Decode(data, &in); err != nil {
			if !reflect.DeepEqual(in, driver.Incoming{}) {
				t.Fatalf("%v left %+v", err, in)
			}
			return
		}
		text, err := AppendEnvelope(nil, &driver.Outgoing{Exchange: in.Exchange, Key: in.Key, Props: in.Props, Body: in.Body}, "t")
		if err != nil {
			if strings.Contains(err.Error(), "deeply") || strings.Contains(err.Error(), "year") {
				return
			}
			t.Fatal(err)
		}
		for _, c := range text {
			if c < ' ' || c > '~' {
				t.Fatalf("byte %#x in %q", c, text)
			}
		}
		var again driver.Incoming
		if err := Decode(text, &again); err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		second, err := AppendEnvelope(nil, &driver.Outgoing{Exchange: again.Exchange, Key: again.Key, Props: again.Props, Body: again.Body}, "t")
		if err != nil || !bytes.Equal(text, second) {
			t.Fatalf("%v\n%s\n%s", err, text, second)
		}
	})
}

func FuzzTopicPattern(f *testing.F) {
	f.Add("stock.*.#", "q")
	f.Fuzz(func(t *testing.T, key, queue string) {
		const sep = "\x06\x16"
		if strings.Contains(key+queue, "\x06") || strings.Contains(key+queue, "\x16") {
			return
		}
		p := TopicPattern(key)
		if !strings.HasPrefix(p, "^") || !strings.HasSuffix(p, "$") {
			t.Fatal(p)
		}
		k, pattern, q, ok := ParseBindingMember(BindingMember(key, p, queue, sep), sep)
		if !ok || k != key || pattern != p || q != queue {
			t.Fatalf("%q %q %q %v", k, pattern, q, ok)
		}
	})
}

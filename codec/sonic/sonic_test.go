package sonic_test

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/codec"
	"github.com/gombu/gombu/codec/sonic"
)

type vectors struct {
	Samples []struct {
		Name, Error string
		Body        struct{ Hex string }
	}
	DecodeOnly []struct{ Name, Input string } `json:"decode_only"`
}

func golden(t *testing.T) vectors {
	t.Helper()
	var v vectors
	data, err := os.ReadFile("../testdata/serializer_json.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &v); err != nil {
		t.Fatal(err)
	}
	if len(v.Samples) < 40 {
		t.Fatalf("only %d samples", len(v.Samples))
	}
	return v
}

type item struct {
	Name  string `json:"name"`
	Count int8   `json:"count,string"`
}

type order struct {
	item
	ID     int64             `json:"id"`
	At     time.Time         `json:"at"`
	Price  float64           `json:"price"`
	Data   []byte            `json:"data"`
	Items  []item            `json:"items"`
	Labels map[string]string `json:"labels"`
	Parent *order            `json:"parent"`
	UUID   codec.UUID        `json:"uuid"`
	Num    json.Number       `json:"num"`
}

func targets() []func() any {
	return []func() any{
		func() any { return new(any) }, func() any { return new(order) }, func() any { return new([]item) }, func() any { return new(string) }, func() any { return new(int64) },
		func() any { return new(float64) }, func() any { return new(map[string]int) }, func() any { return new(time.Time) }, func() any { return new(codec.Decimal) },
		func() any { return new(codec.UUID) }, func() any { return new([]byte) }, func() any { return new(struct{ V any }) }, func() any { return new(bool) },
	}
}

// same reads data by both codecs into each target and wants the same.
func same(t *testing.T, data []byte) {
	t.Helper()
	for _, target := range targets() {
		got, want := target(), target()
		input := []byte(string(data))
		err, theirs := sonic.JSON().Decode(input, got), codec.JSON().Decode(data, want)
		for i := range input {
			input[i] = 'z' // nothing may point into it
		}
		if (err == nil) != (theirs == nil) {
			t.Errorf("%q into %T: %v, the default codec says %v", data, got, err, theirs)
		}
		// %#v, for NaN is not equal to itself.
		if err == nil && !reflect.DeepEqual(got, want) && fmt.Sprintf("%#v", got) != fmt.Sprintf("%#v", want) && fmt.Sprint(deref(got)) != fmt.Sprint(deref(want)) {
			t.Errorf("%q into %T: %+v, the default codec has %+v", data, got, got, want)
		}
	}
}

func deref(v any) any { return reflect.ValueOf(v).Elem().Interface() }

func TestGoldenAsDefault(t *testing.T) {
	g := golden(t)
	for _, s := range g.Samples {
		body, _ := hex.DecodeString(s.Body.Hex)
		same(t, body)
		var v any
		if s.Error != "" || sonic.JSON().Decode(body, &v) != nil {
			continue
		}
		got, err := sonic.JSON().Encode(v)
		want, theirs := codec.JSON().Encode(v)
		if string(got) != string(want) || (err == nil) != (theirs == nil) {
			t.Errorf("%s: %s, want %s", s.Name, got, want)
		}
	}
	for _, s := range g.DecodeOnly {
		same(t, []byte(s.Input))
	}
}

var inputs = []string{
	`{"name": "n", "count": "5", "ID": 7, "at": "2024-01-02T03:04:05+02:00", "price": 1e-3, "data": "aGk=", "items": [{"name": "a"}, null], "labels": {"a": "b", "a": "c"}, "parent": {"id": 1}}`,
	`{"at": "2024-01-02T03:04:05", "uuid": "12345678-1234-5678-1234-567812345678", "num": 1.50}`, `{"uuid": {"__type__": "uuid", "__value__": {"hex": "12345678123456781234567812345678"}}}`,
	`{"price": NaN}`, `{"price": 1e400}`, `{"id": 9223372036854775808}`, `{"id": 1.0}`, `{"count": 5}`, `{"count": "128"}`, `{"name": 5}`, `{"items": {}}`, `{"data": "x"}`, `{"num": "x"}`,
	`{"name": "a\ud83d\ude00\ud800\n"}`, "{\"name\": \"a\xffb\"}", "{\"name\": \"a\x01b\"}", `{"name": "\x"}`, `{"name": "a`, `{"name": "a"} x`, `{"name": "a",}`, `{"id": 01}`, `[{"name": "x"}]`, `null`, `{"parent": null, "items": []}`,
	`12345678901234567890`, `{"V": 12345678901234567890}`, `{"V": 1}`, ``, ` `, `{"name": "` + strings.Repeat("long ", 4000) + `"}`,
	strings.Repeat(`{"parent": `, 100) + `null` + strings.Repeat(`}`, 100),
}

func TestStructsAsDefault(t *testing.T) {
	if err := sonic.Pretouch(order{}); err != nil {
		t.Fatal(err)
	}
	for _, s := range inputs {
		same(t, []byte(s))
	}
}

func TestRegistered(t *testing.T) {
	r := codec.New()
	r.Register(sonic.JSONWith(codec.JSONConfig{Untagged: true}))
	body, typ, _, err := r.Encode("json", map[string]time.Time{"at": time.Unix(0, 0).UTC()})
	if err != nil || typ != "application/json" || string(body) != `{"at": "1970-01-01T00:00:00Z"}` {
		t.Fatal(string(body), typ, err)
	}
	var v struct{ At time.Time }
	if err := r.Decode(typ, "utf-8", body, &v); err != nil || v.At.Unix() != 0 {
		t.Fatal(v, err)
	}
	if err := r.Decode(typ, "utf-8", body, v); err == nil {
		t.Fatal("decoded into a value that is no pointer")
	}
}

type note struct {
	ID   int    `json:"id"`
	Kind string `json:"kind"`
	Text string `json:"text"`
}

func BenchmarkDecodeStruct(b *testing.B) {
	long := []byte(`{"id": 7, "kind": "note", "text": "` + strings.Repeat("The quick brown fox; ", 16<<10/21) + `"}`)
	fields := []byte(`[` + strings.Repeat(`{"id": 7, "kind": "note", "text": "Oslo"}, `, 16<<10/43) + `{}]`)
	for _, c := range []struct {
		name string
		body []byte
		into func() any
	}{{"string", long, func() any { return new(note) }}, {"fields", fields, func() any { return new([]note) }}} {
		for _, by := range []struct {
			name   string
			decode func([]byte, any) error
		}{{"sonic", sonic.JSON().Decode}, {"gombu", codec.JSON().Decode}, {"encoding-json", json.Unmarshal}} {
			b.Run(c.name+"/"+by.name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(c.body)))
				for b.Loop() {
					if err := by.decode(c.body, c.into()); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

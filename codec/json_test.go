package codec

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/big"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
)

func load(t *testing.T, name string, into any) {
	t.Helper()
	data, err := os.ReadFile("testdata/" + name)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, into); err != nil {
		t.Fatal(err)
	}
}

// pairs writes an object whose keys are in order, as a Python dict.
type pairs []any

func (p pairs) MarshalJSON() ([]byte, error) {
	var b strings.Builder
	b.WriteByte('{')
	for i := 0; i < len(p); i += 2 {
		if i > 0 {
			b.WriteByte(',')
		}
		v, err := json.Marshal(p[i+1])
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "%q:%s", p[i], v)
	}
	b.WriteByte('}')
	return []byte(b.String()), nil
}

func at(t *testing.T, zone *time.Location, micros int) time.Time {
	t.Helper()
	return time.Date(2024, 1, 2, 3, 4, 5, micros*1000, zone)
}

// goldenValues are the Go values of the samples, by name.
func goldenValues(t *testing.T) map[string]any {
	id := UUID{0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78, 0x12, 0x34, 0x56, 0x78}
	big70, _ := new(big.Int).SetString("1180591620717411303424", 10)
	return map[string]any{
		"none": nil, "true": true, "int": 42, "neg": -7, "bigint": big70,
		"float": 1.5, "float_int": 2.0, "float_exp": 1e100, "float_small": 1e-07, "float_repr": math.Nextafter(0.3, 1),
		"nan": math.NaN(), "inf": math.Inf(1), "str_ascii": "hello", "str_unicode": "héllo ☃ 😀",
		"str_ctrl": "a\"b\\c/d\n\t\r\b\f\x00\x1f\x7f<>&", "str_u2028": "\u2028",
		"list": []any{1, "a", nil}, "tuple": [2]int{1, 2}, "empty": map[string]any{}, "emptylist": []string{},
		"dict": struct {
			A int                       `json:"a"`
			B map[string]map[string]any `json:"-"`
			C struct {
				C []int `json:"c"`
			} `json:"b"`
		}{A: 1, C: struct {
			C []int `json:"c"`
		}{[]int{}}},
		"datetime_naive": at(t, Naive, 0), "datetime_us": at(t, Naive, 678), "datetime_utc": at(t, time.UTC, 0),
		"datetime_utc_us": at(t, time.UTC, 123456), "datetime_offset": at(t, time.FixedZone("", 19800), 0),
		"datetime_zoneinfo": time.Date(2024, 7, 2, 3, 4, 5, 0, time.FixedZone("CEST", 7200)),
		"date":              Date{2024, 1, 2}, "time": TimeOfDay("03:04:05"), "time_us_tz": TimeOfDay("03:04:05.000006+00:00"),
		"decimal": Decimal("1.10"), "decimal_exp": Decimal("1E+5"), "decimal_nan": Decimal("NaN"), "uuid": id,
		"bytes_utf8": []byte("abc"), "bytes_nonutf8": []byte{0xff, 0}, "bytes_empty": []byte{}, "bytes_utf8_multi": []byte("é"),
		"nested": struct {
			When Date   `json:"when"`
			IDs  []UUID `json:"ids"`
			Raw  []byte `json:"raw"`
		}{Date{2024, 1, 2}, []UUID{id}, []byte{0xfe}},
		"set": make(chan int), "timedelta": func() {}, "bytearray": complex(1, 2),
	}
}

// skipped samples have no Go value with the same order of keys or kinds of
// keys; their texts are read in TestGoldenDecode.
var noGoValue = map[string]bool{"dict_order": true, "dict_intkey": true}

type sample struct {
	Name  string
	Error string
	Body  struct{ Hex string }
}

func TestBehaviour165_167_GoldenEncode(t *testing.T) {
	var golden struct{ Samples []sample }
	load(t, "serializer_json.json", &golden)
	values := goldenValues(t)
	for _, s := range golden.Samples {
		v, ok := values[s.Name]
		if noGoValue[s.Name] {
			continue
		}
		if !ok {
			t.Errorf("sample %s has no Go value here", s.Name)
			continue
		}
		body, err := JSON().Encode(v)
		if s.Error != "" {
			if err == nil {
				t.Errorf("%s: encoded as %s, want an error", s.Name, body)
			}
			continue
		}
		if got := hex.EncodeToString(body); err != nil || got != s.Body.Hex {
			want, _ := hex.DecodeString(s.Body.Hex)
			t.Errorf("%s: %s, %v; want %s", s.Name, body, err, want)
		}
	}
	if len(golden.Samples) < 40 {
		t.Fatalf("only %d samples", len(golden.Samples))
	}
}

func TestBehaviour165_GoldenDecode(t *testing.T) {
	var golden struct{ Samples []sample }
	load(t, "serializer_json.json", &golden)
	values := goldenValues(t)
	for _, s := range golden.Samples {
		if s.Error != "" {
			continue
		}
		body, _ := hex.DecodeString(s.Body.Hex)
		var got any
		if err := JSON().Decode(body, &got); err != nil {
			t.Errorf("%s: %v", s.Name, err)
			continue
		}
		again, err := JSON().Encode(got)
		if err != nil {
			t.Errorf("%s: %v", s.Name, err)
		}
		if !noGoValue[s.Name] && string(again) != string(body) && s.Name != "nested" && s.Name != "dict" {
			t.Errorf("%s: %s came back as %s", s.Name, body, again)
		}
		// The same into the Go type it was made from.
		if want := values[s.Name]; want != nil && s.Name != "nan" {
			into := reflect.New(reflect.TypeOf(want))
			if err := JSON().Decode(body, into.Interface()); err != nil {
				t.Errorf("%s into %T: %v", s.Name, want, err)
				continue
			}
			if back, err := JSON().Encode(into.Elem().Interface()); err != nil || string(back) != string(body) {
				t.Errorf("%s into %T: came back as %s, %v", s.Name, want, back, err)
			}
		}
	}
}

func TestGoldenDecodeOnly(t *testing.T) {
	var golden struct {
		DecodeOnly []struct {
			Name, Input   string
			Result, Error *string
		} `json:"decode_only"`
	}
	load(t, "serializer_json.json", &golden)
	id := map[string]any{"hex": "12345678123456781234567812345678"}
	want := map[string]any{
		"extra_key":  map[string]any{"__type__": "uuid", "__value__": id, "x": int64(1)},
		"only_type":  map[string]any{"__type__": "date"},
		"datetime_Z": at(t, time.UTC, 0), "datetime_space": at(t, Naive, 0), "date_from_datetime": Date{2024, 1, 2},
		"uuid_with_dashes": goldenValues(t)["uuid"], "base64": []byte{0xff, 0}, "reordered": Decimal("1.10"),
		"dupkeys": map[string]any{"a": int64(2)},
	}
	for _, s := range golden.DecodeOnly {
		var got any
		err := JSON().Decode([]byte(s.Input), &got)
		switch {
		case s.Error != nil:
			if err == nil {
				t.Errorf("%s: read as %v, want an error", s.Name, got)
			}
		case err != nil:
			t.Errorf("%s: %v", s.Name, err)
		case s.Name == "uuid_old_version":
			if fmt.Sprint(got) != "12345678-1234-5678-9234-567812345678" {
				t.Errorf("%s: %v", s.Name, got)
			}
		case s.Name == "nan":
			if fmt.Sprint(got) != "[NaN +Inf -Inf]" {
				t.Errorf("%s: %v", s.Name, got)
			}
		default:
			if tm, ok := want[s.Name].(time.Time); ok && tm.Equal(got.(time.Time)) && tm.Location().String() == got.(time.Time).Location().String() {
				continue
			}
			if !reflect.DeepEqual(got, want[s.Name]) {
				t.Errorf("%s: %#v, want %#v", s.Name, got, want[s.Name])
			}
		}
	}
}

// Kombu up to 5.2 writes no tags; we write its form on request, and read both.
func TestUntagged(t *testing.T) {
	var golden struct{ Samples map[string]string }
	load(t, "serializer_json_kombu_5_2_4.json", &golden)
	values := map[string]any{
		"datetime": at(t, Naive, 0), "datetime_utc": at(t, time.UTC, 123456), "date": Date{2024, 1, 2}, "time": TimeOfDay("03:04:05"),
		"decimal": Decimal("1.10"), "uuid": UUID{15: 1}, "unicode": "hé",
	}
	old := JSONWith(JSONConfig{Untagged: true})
	for name, v := range values {
		body, err := old.Encode(v)
		if err != nil || string(body) != golden.Samples[name] {
			t.Errorf("%s: %s, %v; want %s", name, body, err, golden.Samples[name])
		}
		into := reflect.New(reflect.TypeOf(v))
		if err := old.Decode(body, into.Interface()); err != nil {
			t.Errorf("%s: %v", name, err)
		} else if back, _ := old.Encode(into.Elem().Interface()); string(back) != string(body) {
			t.Errorf("%s: %s came back as %s", name, body, back)
		}
	}
	if _, err := old.Encode([]byte("x")); err == nil {
		t.Error("bytes were sent untagged")
	}
}

func TestBehaviour166_TypedFields(t *testing.T) {
	type inner struct {
		At    time.Time `json:"at"`
		Price float64
		Big   *big.Int
	}
	type outer struct {
		*inner
		Name  string         `json:"name,omitempty"`
		Skip  string         `json:"-"`
		Zero  time.Time      `json:"zero,omitzero"`
		Count int            `json:"count,string"`
		Map   map[int]string `json:"map"`
		Raw   json.RawMessage
		Any   any
		Ptr   *int
	}
	seven := 7
	in := outer{inner: &inner{At: at(t, time.UTC, 1), Price: 1.5, Big: big.NewInt(1).Lsh(big.NewInt(1), 90)}, Skip: "x", Count: 5,
		Map: map[int]string{2: "b"}, Raw: json.RawMessage(`{"k":1}`), Any: []any{int64(1)}, Ptr: &seven}
	body, err := JSON().Encode(in)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"at": {"__type__": "datetime", "__value__": "2024-01-02T03:04:05.000001+00:00"}, "Price": 1.5, "Big": 1237940039285380274899124224, "count": "5", "map": {"2": "b"}, "Raw": {"k":1}, "Any": [1], "Ptr": 7}`
	if string(body) != want {
		t.Fatalf("\n%s, want\n%s", body, want)
	}
	var out outer
	out.inner = &inner{}
	if err := JSON().Decode(body, &out); err != nil {
		t.Fatal(err)
	}
	if !out.At.Equal(in.At) || out.Big.Cmp(in.Big) != 0 || out.Count != 5 || *out.Ptr != 7 || out.Map[2] != "b" {
		t.Fatalf("%+v", out)
	}
	// Untagged and naive, as Kombu 5.2.4 writes it.
	if err := JSON().Decode([]byte(`{"at": "2024-01-02T03:04:05", "Price": {"__type__": "decimal", "__value__": "1.10"}}`), &out); err != nil {
		t.Fatal(err)
	}
	if out.At.Hour() != 3 || out.Price != 1.1 {
		t.Fatalf("%+v", out.inner)
	}
	if err := JSON().Decode([]byte(`{"Price": "x", "count": 1.5}`), &out); err == nil {
		t.Fatal("a string fitted a float")
	}
	if err := JSON().Decode([]byte(`1`), out); err == nil {
		t.Fatal("decoded into a value that is no pointer")
	}
}

func TestRegisteredType(t *testing.T) {
	c := JSONWith(JSONConfig{Types: map[string]func(any) (any, error){"money": func(v any) (any, error) { return fmt.Sprint(v, " EUR"), nil }}})
	var got any
	if err := c.Decode([]byte(`{"__type__": "money", "__value__": 5}`), &got); err != nil || got != "5 EUR" {
		t.Fatal(got, err)
	}
}

type cycle struct{ Next *cycle }

func TestCycleIsAnError(t *testing.T) {
	c := &cycle{}
	c.Next = c
	if _, err := JSON().Encode(c); err == nil {
		t.Fatal("a cycle was encoded")
	}
}

// What is read is written back the same, for any input that is JSON at all.
func FuzzJSON(f *testing.F) {
	for _, s := range []string{`{"a": [1, 2.5, null, true, "x"]}`, `{"__type__": "bytes", "__value__": "x"}`, `[NaN]`, `"\ud83d\ude00"`, `12345678901234567890`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var v any
		if JSON().Decode(data, &v) != nil {
			return
		}
		body, err := JSON().Encode(v)
		if err != nil {
			return
		}
		var again any
		if err := JSON().Decode(body, &again); err != nil {
			t.Fatalf("%q was written as %q, which does not read: %v", data, body, err)
		}
		twice, err := JSON().Encode(again)
		if err != nil || string(twice) != string(body) {
			t.Fatalf("%q, then %q (%v)", body, twice, err)
		}
	})
}

func TestBehaviour168_GoldenCompression(t *testing.T) {
	var golden struct {
		Payload struct{ Hex string }
		Samples []struct {
			Alias  string
			Header string `json:"header_compression"`
			Body   struct{ Hex string }
		}
	}
	load(t, "compression.json", &golden)
	r := New()
	seen := 0
	for _, s := range golden.Samples {
		z, err := r.Compression(s.Alias)
		if err != nil {
			continue // a format of a later release
		}
		seen++
		if z.ContentType != s.Header {
			t.Errorf("%s: header %q, want %q", s.Alias, z.ContentType, s.Header)
		}
		body, _ := hex.DecodeString(s.Body.Hex)
		want, _ := hex.DecodeString(golden.Payload.Hex)
		if got, err := z.Decompress(body, 1<<20); err != nil || string(got) != string(want) {
			t.Errorf("%s: %q, %v", s.Alias, got, err)
		}
		squeezed, err := z.Compress(want)
		if err != nil {
			t.Fatal(err)
		}
		byType, err := r.Compression(z.ContentType)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := byType.Decompress(squeezed, 1<<20); err != nil || string(got) != string(want) {
			t.Errorf("%s: %q, %v", s.Alias, got, err)
		}
		if _, err := z.Decompress(body, 10); !errors.Is(err, driver.ErrTooLarge) {
			t.Errorf("%s above its bound: %v", s.Alias, err)
		}
	}
	if seen == 0 {
		t.Fatal("no sample of a format that is built in")
	}
}

package codec

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// What differs from encoding/json on purpose (see JSON); such inputs are not compared.
func ownRules(data []byte) bool {
	for _, s := range []string{"NaN", "Infinity", "_type__", "u005"} { // "_" may be written as an escape
		if bytes.Contains(data, []byte(s)) {
			return true
		}
	}
	return false
}

type base struct {
	ID   int64 `json:"id"`
	Name string
	Both string `json:"both"`
}

type Deep struct {
	ID    string `json:"id"`
	Other *int   `json:"other"`
	Both  string `json:"both"`
}

type level struct {
	Name string
	Sub  *level           `json:"sub"`
	List []level          `json:"list"`
	Map  map[string]level `json:"map"`
}

type own struct{ text string }

func (o *own) UnmarshalJSON(b []byte) error {
	if bytes.HasPrefix(b, []byte("[")) {
		return fmt.Errorf("no arrays")
	}
	o.text = string(b)
	return nil
}

type key struct{ s string }

func (k *key) UnmarshalText(b []byte) error { k.s = strings.ToUpper(string(b)); return nil }

func (k key) MarshalText() ([]byte, error) { return []byte(k.s), nil }

type small int8

type everyKind struct {
	base
	*Deep
	B      bool    `json:"b"`
	I8     int8    `json:"i8,omitempty"`
	S      small   `json:"s"`
	U16    uint16  `json:"u16"`
	U64    uint64  `json:",omitempty"`
	F32    float32 `json:"f32"`
	F64    *float64
	Str    string       `json:"str"`
	Ptr    **string     `json:"ptr"`
	Quoted int          `json:"quoted,string"`
	QBool  *bool        `json:"qbool,string"`
	QStr   string       `json:"qstr,string"`
	QFloat float64      `json:"qfloat,string"`
	Num    json.Number  `json:"num"`
	Any    any          `json:"any"`
	Iface  fmt.Stringer `json:"iface"`
	Raw    json.RawMessage
	Own    own            `json:"own"`
	OwnP   *own           `json:"ownp"`
	Key    key            `json:"key"`
	Addr   netip.Addr     `json:"addr"`
	Big    *big.Int       `json:"big"`
	Bytes  []byte         `json:"bytes"`
	Ints   []int          `json:"ints"`
	Strs   [2]string      `json:"strs"`
	M      map[string]int `json:"m"`
	MI     map[int8]bool  `json:"mi"`
	MU     map[uint]*base `json:"mu"`
	MK     map[key]string `json:"mk"`
	MA     map[string]any `json:"ma"`
	Tree   *level         `json:"tree"`
	Fn     func()         `json:"-"`
	Dash   int            `json:"-,"`   //nolint:staticcheck // named "-" on purpose
	Odd    int            `json:"a\"b"` //nolint:staticcheck // no name, so it is Odd
	Kelvin int            `json:"kK"`
	Umlaut int            `json:"Ärger"`
	hidden int
}

func targets() []func() any {
	return []func() any{
		func() any { return new(everyKind) },
		func() any {
			n := 5
			return &everyKind{Any: &base{Name: "kept"}, Ints: []int{9, 9, 9}, M: map[string]int{"x": 1}, Deep: &Deep{Other: &n}, Strs: [2]string{"a", "b"},
				Tree: &level{List: []level{{Name: "old", Sub: &level{Name: "old"}}}}}
		},
		func() any { return new(level) },
		func() any { return new([]level) },
		func() any { return new(map[string]everyKind) },
		func() any { return new(struct{ At, Until time.Time }) },
		func() any { return new(string) },
		func() any { return new(struct{ Ch chan int }) },
		func() any { return new(*float32) },
		func() any { return new([3]uint8) },
		func() any { return new(map[string]string) },
	}
}

var equalInputs = []string{
	`null`, `true`, `"x"`, `1`, `[]`, `{}`, ` [1, 2, 300, -1] `, `[{"name": "a", "sub": {"NAME": "b", "sub": null}}]`,
	`{"id": 1, "ID": 2, "name": "n", "both": "x", "other": 3, "unknown": [{"a": "\n"}, 1e5, null]}`,
	`{"B": true, "i8": -128, "s": 127, "u16": 65535, "U64": 18446744073709551615, "f32": 3.4e38, "F64": 1e-320, "str": "h\u00e9\ud83d\ude00\ud800"}`,
	`{"i8": 128}`, `{"s": -129}`, `{"u16": -1}`, `{"u16": -0}`, `{"U64": 18446744073709551616}`, `{"f32": 3.5e38}`, `{"F64": 1e400}`, `{"i8": 1.0}`, `{"i8": 1e1}`, `{"i8": -0}`,
	`{"ptr": "p"}`, `{"ptr": null, "F64": null, "Tree": null}`, `{"quoted": "12", "qbool": "true", "qstr": "\"in\\n\"", "qfloat": "1.5"}`,
	`{"quoted": 12}`, `{"quoted": " 12"}`, `{"quoted": "12 "}`, `{"quoted": ""}`, `{"quoted": null, "qbool": "null", "qstr": "null"}`, `{"qstr": "x"}`, `{"qbool": "tru"}`, `{"quoted": "\"1\""}`, `{"qfloat": "[1]"}`,
	`{"num": 1.50, "num": "2e5"}`, `{"num": ""}`, `{"num": "x"}`, `{"num": " 1"}`, `{"num": true}`, `{"any": {"a": [1, "x", null, 1.5e3]}}`, `{"any": null}`, `{"any": 1}`, `{"any": {"name": "new"}}`, `{"iface": null}`, `{"iface": 1}`,
	`{"Raw": {"a" : [1]}, "own": {"x":1}, "ownp": null, "key": "up", "addr": "::1", "big": 123456789012345678901234567890}`, `{"own": null, "ownp": 5}`, `{"own": [1]}`, `{"key": 5}`, `{"key": null}`, `{"addr": "x"}`, `{"big": null}`,
	`{"bytes": "aGk=", "ints": [1, 2], "strs": ["a", "b", "c"]}`, `{"bytes": "x"}`, `{"bytes": [1, 2, 255]}`, `{"bytes": [256]}`, `{"bytes": null}`, `{"ints": []}`, `{"ints": null}`, `{"strs": []}`, `{"strs": null}`, `{"ints": {}}`, `{"ints": [null, 4]}`,
	`{"m": {"a": 1, "a": 2}, "mi": {"-128": true}, "mu": {"1": {"id": 1}, "2": null}, "mk": {"k": "v"}, "ma": {"x": {"y": [{}]}}}`, `{"mi": {"128": true}}`, `{"mi": {"x": true}}`, `{"mu": {"-1": null}}`, `{"m": null}`, `{"m": []}`,
	`{"tree": {"list": [{"name": "1"}, {"sub": {}}], "map": {"k": {"list": []}}}}`, `{"ch": null}`, `{"ch": 1}`, `{"Fn": 1, "-": 5, "a\"b": 1, "Odd": 2}`, "{\"\u212a\u212a\": 3, \"ÄRGER\": 4}", `{"KK": 3, "\u00e4rger": 4}`,
	`{"At": "2024-01-02T03:04:05.5Z", "until": "2024-01-02T03:04:05+02:00"}`, `{"At": null}`, `{"At": 5}`, "{\"str\": \"a\xffb\xc3\", \"\xff\": 1}",
	`{"str": "a` + strings.Repeat("long ", 500) + `"}`, `{"str": "\x"}`, `{"str": "\u12"}`, "{\"str\": \"\x01\"}", `{"a":1,}`, `[1,]`, `{"a" 1}`, `{,}`, `{"a":1}}`, `{"unknown": tru}`, `{"unknown": "\q"}`, `{"unknown": 01}`, `nul`, ``, ` `, `{`, `["`,
	`{"hidden": 1, "base": {"id": 4}, "Deep": {"id": "x"}}`, `{"Other": 7}`,
}

func TestStructsAsEncodingJSON(t *testing.T) {
	for _, s := range equalInputs {
		for i := range targets() {
			compare(t, []byte(s), i)
		}
		compareAny(t, []byte(s))
	}
}

// compare decodes data into one of the targets by both and wants the same.
func compare(t *testing.T, data []byte, i int) {
	t.Helper()
	got, want := targets()[i](), targets()[i]()
	kept := bytes.Clone(data)
	valid := kept
	if !utf8.Valid(kept) {
		valid = replaceInvalid(kept) // so that a RawMessage sees the same
	}
	err, theirs := JSON().Decode(data, got), json.Unmarshal(valid, want)
	for j := range data {
		data[j] = 'z' // nothing may point into it
	}
	if tooDeep(err) {
		return
	}
	if _, times := got.(*struct{ At, Until time.Time }); times && theirs != nil {
		return // more forms of times are read
	}
	if theirs == nil && err != nil && strings.Contains(err.Error(), `"q`) {
		return // what ",string" has in its string must be JSON; encoding/json takes -.5 and 0x1p2
	}
	if bad := (*json.UnmarshalTypeError)(nil); err == nil && errors.As(theirs, &bad) && bad.Type == reflect.TypeFor[float64]() {
		return // 1e400 in an any is infinite, as in Python
	}
	if (err == nil) != (theirs == nil) {
		t.Fatalf("%q into %T: %v, encoding/json says %v", kept, got, err, theirs)
	}
	if err == nil && !reflect.DeepEqual(plainly(got), plainly(want)) {
		t.Fatalf("%q into %T:\n%+v, encoding/json has\n%+v", kept, got, got, want)
	}
	copy(data, kept)
}

// compareAny decodes data into an any by both.
func compareAny(t *testing.T, data []byte) {
	t.Helper()
	var got, want any
	err := JSON().Decode(bytes.Clone(data), &got)
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	theirs := d.Decode(&want)
	if theirs == nil && !json.Valid(data) {
		theirs = fmt.Errorf("text behind the value")
	}
	if tooDeep(err) {
		return
	}
	if (err == nil) != (theirs == nil) {
		t.Fatalf("%q: %v, encoding/json says %v", data, err, theirs)
	}
	if err == nil && !sameTree(got, want) {
		t.Fatalf("%q: %#v, encoding/json has %#v", data, got, want)
	}
}

func tooDeep(err error) bool { return err != nil && strings.Contains(err.Error(), "too deeply") }

// plainly makes what an any holds comparable: encoding/json has only float64.
func plainly(v any) any {
	if e, ok := v.(*everyKind); ok {
		if _, pointer := e.Any.(*base); !pointer {
			e.Any = floats(e.Any)
		}
		e.MA, _ = floats(e.MA).(map[string]any)
	}
	if m, ok := v.(*map[string]everyKind); ok {
		for k, e := range *m {
			plainly(&e)
			(*m)[k] = e
		}
	}
	return v
}

func floats(v any) any {
	switch v := v.(type) {
	case int64:
		return float64(v)
	case json.Number:
		f, _ := v.Float64()
		return f
	case []any:
		for i := range v {
			v[i] = floats(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = floats(v[k])
		}
	}
	return v
}

// sameTree compares a tree of ours with one that keeps numbers as texts.
func sameTree(got, want any) bool {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok || len(g) != len(w) {
			return false
		}
		for k := range w {
			if v, has := g[k]; !has || !sameTree(v, w[k]) {
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
			if !sameTree(g[i], w[i]) {
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
			f, _ := w.Float64()
			return f == g
		}
	}
	return reflect.DeepEqual(got, want)
}

// Any input is read, or refused, as encoding/json does it.
func FuzzAsEncodingJSON(f *testing.F) {
	for _, s := range equalInputs {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if ownRules(data) {
			return
		}
		for i := range targets() {
			compare(t, data, i)
		}
		compareAny(t, data)
	})
}

// What is written means the same as what encoding/json writes.
func TestWritesAsEncodingJSON(t *testing.T) {
	for _, s := range equalInputs {
		for i := range targets() {
			v := targets()[i]()
			if _, times := v.(*struct{ At, Until time.Time }); times || json.Unmarshal([]byte(s), v) != nil || !utf8.ValidString(s) {
				continue
			}
			if e, ok := v.(*everyKind); ok {
				e.Bytes = nil // tagged here
			}
			want, theirs := json.Marshal(v)
			want = bytes.ReplaceAll(want, []byte(`"qfloat":"0"`), []byte(`"qfloat":"0.0"`)) // as Python
			got, err := JSON().Encode(v)
			if (err == nil) != (theirs == nil) {
				t.Fatalf("%T %+v: %v, encoding/json says %v", v, v, err, theirs)
			}
			var g, w any
			if err == nil && (json.Unmarshal(got, &g) != nil || json.Unmarshal(want, &w) != nil || !reflect.DeepEqual(g, w)) {
				t.Fatalf("%T:\n%s, encoding/json has\n%s", v, got, want)
			}
		}
	}
}

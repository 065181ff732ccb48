package codec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"sync"

	"github.com/gombu/gombu/internal/kjson"
)

// JSONConfig configures JSONWith. The zero value is Kombu's json since 5.3.
type JSONConfig struct {
	// Untagged writes dates, UUIDs and decimals as Kombu up to 5.2 does: plain
	// strings. Bytes cannot be sent then. Both forms are always read.
	Untagged bool
	// Types reads tags beside Kombu's own, as Kombu's register_type: by the
	// "__type__" it gets the "__value__" and returns what stands for it. It is
	// called from any goroutine.
	Types map[string]func(value any) (any, error)
}

// JSON is Kombu's json: text as Python's json.dumps writes it, with tags
// ({"__type__": …, "__value__": …}) for time.Time (datetime), Date, TimeOfDay,
// Decimal, UUID and []byte, at any depth. Struct fields follow the json tags of
// encoding/json; json.Marshaler and encoding.TextMarshaler are honoured.
// Whole numbers are exact at any size: int64, else json.Number, in an any.
// Decoding into an any yields map[string]any, []any and the types above.
func JSON() Codec { return JSONWith(JSONConfig{}) }

// JSONWith is JSON with settings.
func JSONWith(cfg JSONConfig) Codec {
	e, d := &jsonEncoder{untagged: cfg.Untagged}, &jsonDecoder{types: cfg.Types}
	return Codec{Name: "json", ContentType: "application/json", ContentEncoding: "utf-8", Encode: e.encode, Decode: d.decode}
}

var tagMark = []byte(`"__type__"`)

type jsonDecoder struct {
	types map[string]func(any) (any, error)
}

// decode fills *v. A body without tags takes encoding/json's way; what that
// cannot read (tags, NaN, datetimes without a zone), or not exactly (whole
// numbers into an any), is read by Kombu's rules.
func (d *jsonDecoder) decode(data []byte, v any) error {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return fmt.Errorf("decode into a pointer, not a %T", v)
	}
	var first error
	if !holdsAny(target.Type(), nil) && !bytes.Contains(data, tagMark) {
		if first = json.Unmarshal(data, v); first == nil {
			return nil
		}
	}
	tree, err := d.tree(data)
	if err == nil {
		err = assign(target.Elem(), tree, 0)
	}
	if err != nil && first != nil {
		return first
	}
	return err
}

var anyCache sync.Map // reflect.Type -> bool

// holdsAny says whether decoding into t may meet an interface.
func holdsAny(t reflect.Type, above []reflect.Type) bool {
	if known, ok := anyCache.Load(t); ok {
		return known.(bool)
	}
	if slices.Contains(above, t) {
		return false // a recursive type holds what its other parts hold
	}
	above = append(above, t)
	holds := false
	switch t.Kind() {
	case reflect.Interface:
		holds = true
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		holds = holdsAny(t.Elem(), above)
	case reflect.Struct:
		for i := range t.NumField() {
			holds = holds || holdsAny(t.Field(i).Type, above)
		}
	}
	if len(above) == 1 {
		anyCache.Store(t, holds)
	}
	return holds
}

// tree reads data into maps, slices and values.
func (d *jsonDecoder) tree(data []byte) (any, error) {
	s := &kjson.Scanner{B: data}
	v, err := d.value(s)
	if s.Peek() != 0 || s.I < len(s.B) {
		s.Fail("text behind the value")
	}
	if s.Err != nil {
		return nil, s.Err
	}
	return v, err
}

// value reads one value. Its error is about a tag; the scanner keeps its own.
func (d *jsonDecoder) value(s *kjson.Scanner) (any, error) {
	switch s.Peek() {
	case '{':
		return d.object(s)
	case '[':
		list := []any{}
		if !s.Open('[') {
			return nil, s.Err
		}
		for first := true; s.More(']', first); first = false {
			v, err := d.value(s)
			if err != nil {
				return nil, err
			}
			list = append(list, v)
		}
		return list, nil
	}
	return s.Value(), s.Err
}

func (d *jsonDecoder) object(s *kjson.Scanner) (any, error) {
	m := map[string]any{}
	if !s.Open('{') {
		return nil, s.Err
	}
	for first := true; s.More('}', first); first = false {
		key := string(s.Key())
		v, err := d.value(s)
		if err != nil {
			return nil, err
		}
		m[key] = v
	}
	if len(m) == 2 {
		kind, ok := m["__type__"]
		value, both := m["__value__"]
		if ok && both {
			return d.untag(kind, value)
		}
	}
	return m, nil
}

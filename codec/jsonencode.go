package codec

import (
	"bytes"
	"cmp"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gombu/gombu/internal/kjson"
)

// jsonEncoder writes Go values as Python's json.dumps would.
type jsonEncoder struct {
	untagged bool
}

func (e *jsonEncoder) encode(v any) ([]byte, error) {
	return e.value(make([]byte, 0, 256), reflect.ValueOf(v), 0)
}

var (
	marshalerType = reflect.TypeFor[json.Marshaler]()
	textType      = reflect.TypeFor[encoding.TextMarshaler]()
	timeType      = reflect.TypeFor[time.Time]()
	specialTypes  = map[reflect.Type]bool{
		timeType: true, reflect.TypeFor[Date](): true, reflect.TypeFor[TimeOfDay](): true, reflect.TypeFor[Decimal](): true,
		reflect.TypeFor[UUID](): true, reflect.TypeFor[[]byte](): true, reflect.TypeFor[json.Number](): true,
	}
)

func (e *jsonEncoder) value(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if depth > kjson.MaxDepth {
		return b, errors.New("nested too deeply (a cycle?)")
	}
	if !v.IsValid() {
		return append(b, `null`...), nil
	}
	t := v.Type()
	if specialTypes[t] {
		if t.Kind() == reflect.Slice && v.IsNil() {
			return append(b, `null`...), nil
		}
		return e.special(b, v.Interface())
	}
	if out, ok, err := e.marshaler(b, v, t); ok {
		return out, err
	}
	switch v.Kind() {
	case reflect.Bool:
		return strconv.AppendBool(b, v.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.AppendInt(b, v.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return strconv.AppendUint(b, v.Uint(), 10), nil
	case reflect.Float32:
		return kjson.AppendFloat(b, v.Float(), 32), nil
	case reflect.Float64:
		return kjson.AppendFloat(b, v.Float(), 64), nil
	case reflect.String:
		return kjson.AppendString(b, v.String()), nil
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return append(b, `null`...), nil
		}
		return e.value(b, v.Elem(), depth+1)
	case reflect.Slice, reflect.Array:
		return e.list(b, v, depth)
	case reflect.Map:
		return e.table(b, v, depth)
	case reflect.Struct:
		return e.object(b, v, depth)
	}
	return b, fmt.Errorf("a %s cannot be sent as JSON", t)
}

// marshaler writes what says by itself how it is written.
func (e *jsonEncoder) marshaler(b []byte, v reflect.Value, t reflect.Type) (out []byte, ok bool, err error) {
	if (v.Kind() == reflect.Pointer || v.Kind() == reflect.Interface) && v.IsNil() {
		return b, false, nil
	}
	if !t.Implements(marshalerType) && !t.Implements(textType) {
		if v.Kind() == reflect.Pointer || !v.CanAddr() || !reflect.PointerTo(t).Implements(marshalerType) && !reflect.PointerTo(t).Implements(textType) {
			return b, false, nil
		}
		v = v.Addr()
	}
	if v.Kind() == reflect.Pointer && specialTypes[t.Elem()] {
		return b, false, nil
	}
	switch m := v.Interface().(type) {
	case json.Marshaler:
		text, err := m.MarshalJSON()
		if err != nil {
			return b, true, err
		}
		var buf bytes.Buffer
		if err := json.Compact(&buf, text); err != nil {
			return b, true, err
		}
		return append(b, buf.Bytes()...), true, nil
	case encoding.TextMarshaler:
		text, err := m.MarshalText()
		return kjson.AppendString(b, string(text)), true, err
	}
	return b, false, nil
}

func (e *jsonEncoder) list(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.Kind() == reflect.Slice {
		if v.IsNil() {
			return append(b, `null`...), nil
		}
		if v.Type().Elem().Kind() == reflect.Uint8 {
			return e.special(b, v.Bytes())
		}
	}
	b = append(b, '[')
	var err error
	for i := range v.Len() {
		if i > 0 {
			b = append(b, `, `...)
		}
		if b, err = e.value(b, v.Index(i), depth+1); err != nil {
			return b, err
		}
	}
	return append(b, ']'), nil
}

// table writes a map with its keys sorted, as text.
func (e *jsonEncoder) table(b []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.IsNil() {
		return append(b, `null`...), nil
	}
	type member struct {
		key   string
		value reflect.Value
	}
	members := make([]member, 0, v.Len())
	for it := v.MapRange(); it.Next(); {
		key, err := keyText(it.Key())
		if err != nil {
			return b, err
		}
		members = append(members, member{key, it.Value()})
	}
	slices.SortFunc(members, func(a, b member) int { return cmp.Compare(a.key, b.key) })
	b = append(b, '{')
	var err error
	for i, m := range members {
		if i > 0 {
			b = append(b, `, `...)
		}
		b = append(kjson.AppendString(b, m.key), `: `...)
		if b, err = e.value(b, m.value, depth+1); err != nil {
			return b, fmt.Errorf("%q: %w", m.key, err)
		}
	}
	return append(b, '}'), nil
}

// keyText is a map key as Python writes it: null, true, 1.5, 2.
func keyText(k reflect.Value) (string, error) {
	if k.Kind() == reflect.Interface {
		if k.IsNil() {
			return "null", nil
		}
		k = k.Elem()
	}
	if m, ok := reflect.TypeAssert[encoding.TextMarshaler](k); ok && k.Kind() != reflect.String {
		text, err := m.MarshalText()
		return string(text), err
	}
	switch k.Kind() {
	case reflect.String:
		return k.String(), nil
	case reflect.Bool:
		return strconv.FormatBool(k.Bool()), nil
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return strconv.FormatInt(k.Int(), 10), nil
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return strconv.FormatUint(k.Uint(), 10), nil
	case reflect.Float32, reflect.Float64:
		return string(kjson.AppendFloat(nil, k.Float(), 64)), nil
	}
	return "", fmt.Errorf("a %s cannot be a key", k.Type())
}

func (e *jsonEncoder) object(b []byte, v reflect.Value, depth int) ([]byte, error) {
	b = append(b, '{')
	var err error
	any := false
	for _, f := range fieldsOf(v.Type()) {
		fv, ok := f.in(v)
		if !ok || f.omit(fv) {
			continue
		}
		if any {
			b = append(b, `, `...)
		}
		any = true
		b = append(kjson.AppendString(b, f.name), `: `...)
		if f.quoted && fv.Kind() != reflect.String {
			b = append(b, '"')
		}
		if b, err = e.value(b, fv, depth+1); err != nil {
			return b, fmt.Errorf("%q: %w", f.name, err)
		}
		if f.quoted && fv.Kind() != reflect.String {
			b = append(b, '"')
		}
	}
	return append(b, '}'), nil
}

// A field is a struct field by encoding/json's rules.
type field struct {
	name                        string
	index                       []int
	omitEmpty, omitZero, quoted bool
}

var fieldCache sync.Map // reflect.Type -> []field

func fieldsOf(t reflect.Type) []field {
	if f, ok := fieldCache.Load(t); ok {
		return f.([]field)
	}
	var fs []field
	depth := map[string]int{}
	for _, sf := range reflect.VisibleFields(t) {
		tag := sf.Tag.Get("json")
		name, opts, _ := strings.Cut(tag, ",")
		inner := sf.Type
		if inner.Kind() == reflect.Pointer {
			inner = inner.Elem()
		}
		if tag == "-" || !sf.IsExported() || sf.Anonymous && name == "" && inner.Kind() == reflect.Struct && !specialTypes[inner] {
			continue
		}
		f := field{name: cmp.Or(name, sf.Name), index: sf.Index}
		for o := range strings.SplitSeq(opts, ",") {
			f.omitEmpty = f.omitEmpty || o == "omitempty"
			f.omitZero = f.omitZero || o == "omitzero"
			f.quoted = f.quoted || o == "string"
		}
		if d, twice := depth[f.name]; twice && d <= len(f.index) {
			continue
		}
		depth[f.name] = len(f.index)
		fs = slices.DeleteFunc(fs, func(g field) bool { return g.name == f.name })
		fs = append(fs, f)
	}
	got, _ := fieldCache.LoadOrStore(t, fs)
	return got.([]field)
}

// in is the field of v; false when an embedded pointer on the way is nil.
func (f *field) in(v reflect.Value) (reflect.Value, bool) {
	for _, i := range f.index {
		if v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return v, false
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v, true
}

func (f *field) omit(v reflect.Value) bool {
	if f.omitZero && v.IsZero() {
		return true
	}
	if !f.omitEmpty {
		return false
	}
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	case reflect.Float32, reflect.Float64:
		return v.Float() == 0 && !math.Signbit(v.Float())
	}
	return v.IsZero()
}

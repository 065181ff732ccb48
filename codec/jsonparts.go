package codec

import (
	"cmp"
	"encoding"
	"fmt"
	"reflect"
	"slices"
	"strconv"

	"github.com/gombu/gombu/internal/kjson"
)

// listWriter writes bytes tagged, other lists as arrays.
func listWriter(t reflect.Type, elem writer) writer {
	bytes := t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Uint8
	return func(e *jsonEncoder, b []byte, v reflect.Value, depth int) ([]byte, error) {
		switch {
		case v.Kind() == reflect.Slice && v.IsNil():
			return append(b, `null`...), nil
		case bytes:
			return e.special(b, v.Bytes())
		case depth > kjson.MaxDepth:
			return b, errDeep
		}
		b = append(b, '[')
		var err error
		for i := range v.Len() {
			if i > 0 {
				b = append(b, `, `...)
			}
			if b, err = elem(e, b, v.Index(i), depth+1); err != nil {
				return b, err
			}
		}
		return append(b, ']'), nil
	}
}

// tableWriter writes a map with its keys sorted, as text.
func tableWriter(elem writer) writer {
	type member struct {
		key   string
		value reflect.Value
	}
	return func(e *jsonEncoder, b []byte, v reflect.Value, depth int) ([]byte, error) {
		if v.IsNil() {
			return append(b, `null`...), nil
		}
		if depth > kjson.MaxDepth {
			return b, errDeep
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
			if b, err = elem(e, b, m.value, depth+1); err != nil {
				return b, fmt.Errorf("%q: %w", m.key, err)
			}
		}
		return append(b, '}'), nil
	}
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
		if k.Kind() == reflect.Pointer && k.IsNil() {
			return "", nil
		}
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

// A member is a field with what writes it.
type member struct {
	field
	start string // `"name": `
	write writer
	zero  func(v reflect.Value) bool // for omitzero
}

func (m *writerMaker) structWriter(t reflect.Type) writer {
	var members []member
	for _, f := range fieldsOf(t) {
		of := t.FieldByIndex(f.index).Type
		w := m.writer(of)
		if f.quoted {
			w = quotedWriter(w)
		}
		members = append(members, member{f, string(kjson.AppendString(nil, f.name)) + `: `, w, zeroOf(of)})
	}
	return func(e *jsonEncoder, b []byte, v reflect.Value, depth int) ([]byte, error) {
		if depth > kjson.MaxDepth {
			return b, errDeep
		}
		b = append(b, '{')
		start := len(b)
		var err error
		for i := range members {
			f := &members[i]
			fv, ok := f.in(v)
			if !ok || f.omitEmpty && empty(fv) || f.omitZero && f.zero(fv) {
				continue
			}
			if len(b) > start {
				b = append(b, `, `...)
			}
			if b, err = f.write(e, append(b, f.start...), fv, depth+1); err != nil {
				return b, fmt.Errorf("%q: %w", f.name, err)
			}
		}
		return append(b, '}'), nil
	}
}

// in is the field of v; false when an embedded pointer on the way is nil.
func (f *field) in(v reflect.Value) (reflect.Value, bool) {
	for n, i := range f.index {
		if n > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				return v, false
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v, true
}

// quotedWriter puts the text of a value into a string, null excepted.
func quotedWriter(w writer) writer {
	return func(e *jsonEncoder, b []byte, v reflect.Value, depth int) ([]byte, error) {
		start := len(b)
		b, err := w(e, b, v, depth)
		if text := string(b[start:]); err == nil && text != "null" {
			b = kjson.AppendString(b[:start], text)
		}
		return b, err
	}
}

// empty is what omitempty leaves out.
func empty(v reflect.Value) bool {
	switch v.Kind() {
	case reflect.Array, reflect.Map, reflect.Slice, reflect.String:
		return v.Len() == 0
	case reflect.Struct:
		return false
	}
	return v.IsZero()
}

// zeroOf is what omitzero leaves out: what a type says itself, if it does.
func zeroOf(t reflect.Type) func(reflect.Value) bool {
	type zeroer interface{ IsZero() bool }
	of := reflect.TypeFor[zeroer]()
	if t.Kind() == reflect.Interface || !t.Implements(of) {
		return reflect.Value.IsZero
	}
	return func(v reflect.Value) bool {
		return v.Kind() == reflect.Pointer && v.IsNil() || v.Interface().(zeroer).IsZero()
	}
}

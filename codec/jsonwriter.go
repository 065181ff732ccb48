package codec

import (
	"bytes"
	"encoding"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"sync"
	"time"

	"github.com/gombu/gombu/internal/kjson"
)

// A writer appends a value of one type. There is one for each type, made when
// the type is first met.
type writer func(e *jsonEncoder, b []byte, v reflect.Value, depth int) ([]byte, error)

var writers sync.Map // reflect.Type -> writer

func writerOf(t reflect.Type) writer {
	if w, ok := writers.Load(t); ok {
		return w.(writer)
	}
	w := (&writerMaker{}).writer(t)
	writers.Store(t, w)
	return w
}

// A writerMaker makes the writers of a type and of what it consists of.
type writerMaker struct {
	begun map[reflect.Type]*writer // of types that may contain themselves
}

var (
	marshalerType = reflect.TypeFor[json.Marshaler]()
	textType      = reflect.TypeFor[encoding.TextMarshaler]()
	timeType      = reflect.TypeFor[time.Time]()
	bytesType     = reflect.TypeFor[[]byte]()
	specialTypes  = map[reflect.Type]bool{
		timeType: true, reflect.TypeFor[Date](): true, reflect.TypeFor[TimeOfDay](): true, reflect.TypeFor[Decimal](): true,
		reflect.TypeFor[UUID](): true, bytesType: true, numberType: true,
	}
)

func (m *writerMaker) writer(t reflect.Type) writer {
	switch {
	case specialTypes[t]:
		return writeSpecial
	case t.Kind() == reflect.Interface, t.Kind() == reflect.Pointer && specialTypes[t.Elem()]:
	case t.Implements(marshalerType) || t.Implements(textType):
		return writeSelf
	case t.Kind() != reflect.Pointer && (reflect.PointerTo(t).Implements(marshalerType) || reflect.PointerTo(t).Implements(textType)):
		w := m.ofKind(t)
		return func(e *jsonEncoder, b []byte, v reflect.Value, depth int) ([]byte, error) {
			if v.CanAddr() {
				return writeSelf(e, b, v.Addr(), depth)
			}
			return w(e, b, v, depth)
		}
	}
	return m.ofKind(t)
}

func (m *writerMaker) ofKind(t reflect.Type) writer {
	switch t.Kind() {
	case reflect.Bool:
		return func(_ *jsonEncoder, b []byte, v reflect.Value, _ int) ([]byte, error) {
			return strconv.AppendBool(b, v.Bool()), nil
		}
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return func(_ *jsonEncoder, b []byte, v reflect.Value, _ int) ([]byte, error) {
			return strconv.AppendInt(b, v.Int(), 10), nil
		}
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return func(_ *jsonEncoder, b []byte, v reflect.Value, _ int) ([]byte, error) {
			return strconv.AppendUint(b, v.Uint(), 10), nil
		}
	case reflect.Float32, reflect.Float64:
		return func(_ *jsonEncoder, b []byte, v reflect.Value, _ int) ([]byte, error) {
			return kjson.AppendFloat(b, v.Float(), t.Bits()), nil
		}
	case reflect.String:
		return func(_ *jsonEncoder, b []byte, v reflect.Value, _ int) ([]byte, error) {
			return kjson.AppendString(b, v.String()), nil
		}
	case reflect.Interface:
		return writeInterface
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map, reflect.Struct:
		return m.compound(t)
	}
	return func(_ *jsonEncoder, b []byte, _ reflect.Value, _ int) ([]byte, error) {
		return b, fmt.Errorf("a %s cannot be sent as JSON", t)
	}
}

// compound makes the writer of a type that has parts. Inside of itself a type
// stands for the writer that is being made.
func (m *writerMaker) compound(t reflect.Type) writer {
	if begun, ok := m.begun[t]; ok {
		return func(e *jsonEncoder, b []byte, v reflect.Value, depth int) ([]byte, error) {
			return (*begun)(e, b, v, depth)
		}
	}
	if m.begun == nil {
		m.begun = map[reflect.Type]*writer{}
	}
	made := new(writer)
	m.begun[t] = made
	switch t.Kind() {
	case reflect.Pointer:
		*made = pointerWriter(m.writer(t.Elem()))
	case reflect.Slice, reflect.Array:
		*made = listWriter(t, m.writer(t.Elem()))
	case reflect.Map:
		*made = tableWriter(m.writer(t.Elem()))
	case reflect.Struct:
		*made = m.structWriter(t)
	}
	return *made
}

// writeSpecial writes the types that have a tag, and numbers as they are.
func writeSpecial(e *jsonEncoder, b []byte, v reflect.Value, _ int) ([]byte, error) {
	if v.Kind() == reflect.Slice && v.IsNil() {
		return append(b, `null`...), nil
	}
	return e.special(b, v.Interface())
}

// writeSelf writes what says by itself how it is written.
func writeSelf(_ *jsonEncoder, b []byte, v reflect.Value, _ int) ([]byte, error) {
	if v.Kind() == reflect.Pointer && v.IsNil() {
		return append(b, `null`...), nil
	}
	switch m := v.Interface().(type) {
	case json.Marshaler:
		text, err := m.MarshalJSON()
		if err != nil {
			return b, err
		}
		out := bytes.NewBuffer(b)
		if err := json.Compact(out, text); err != nil {
			return b, err
		}
		return out.Bytes(), nil
	case encoding.TextMarshaler:
		text, err := m.MarshalText()
		return kjson.AppendString(b, string(text)), err
	}
	return b, fmt.Errorf("a %s cannot be sent as JSON", v.Type())
}

func writeInterface(e *jsonEncoder, b []byte, v reflect.Value, depth int) ([]byte, error) {
	if v.IsNil() {
		return append(b, `null`...), nil
	}
	if depth > kjson.MaxDepth {
		return b, errDeep
	}
	return e.any(b, v.Interface(), depth+1)
}

func pointerWriter(elem writer) writer {
	return func(e *jsonEncoder, b []byte, v reflect.Value, depth int) ([]byte, error) {
		if v.IsNil() {
			return append(b, `null`...), nil
		}
		if depth > kjson.MaxDepth {
			return b, errDeep
		}
		return elem(e, b, v.Elem(), depth+1)
	}
}

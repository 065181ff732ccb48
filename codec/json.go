package codec

import (
	"fmt"
	"reflect"
	"unicode/utf8"
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
//
// A user's type is filled as encoding/json (version 1) does it: tags, embedded
// fields, names without regard to case, Unmarshalers, null, what is there
// already; invalid UTF-8 is U+FFFD. Beyond that it reads Kombu's tags wherever
// a text or a number stands for the same, NaN and Infinity, and times in any
// form that Python's isoformat writes. It is stricter in one thing: values may
// nest 128 deep. After an error *v holds what was read before it.
// Strings of up to 128 bytes may share memory, at most 1 KiB of it: clone what
// is to outlive the others for long.
func JSON() Codec { return JSONWith(JSONConfig{}) }

// JSONWith is JSON with settings.
func JSONWith(cfg JSONConfig) Codec {
	e, d := &jsonEncoder{untagged: cfg.Untagged}, &jsonDecoder{types: cfg.Types}
	return Codec{Name: "json", ContentType: "application/json", ContentEncoding: "utf-8", Encode: e.encode, Decode: d.decode}
}

type jsonDecoder struct {
	types map[string]func(any) (any, error)
}

// decode fills *v.
func (d *jsonDecoder) decode(data []byte, v any) error {
	target := reflect.ValueOf(v)
	if target.Kind() != reflect.Pointer || target.IsNil() {
		return fmt.Errorf("decode into a pointer, not a %T", v)
	}
	if !utf8.Valid(data) {
		data = replaceInvalid(data)
	}
	r := readers.Get().(*reader)
	r.Reset(data)
	r.types = d.types
	if into, ok := v.(*any); ok && *into == nil {
		*into = r.value()
	} else {
		r.into(planOf(target.Type().Elem()), target.Elem())
	}
	r.end()
	err := r.Err
	r.release()
	return err
}

// replaceInvalid puts U+FFFD for each byte that is not UTF-8.
func replaceInvalid(data []byte) []byte {
	out := make([]byte, 0, len(data)+len(data)/8)
	for len(data) > 0 {
		r, size := utf8.DecodeRune(data)
		out = utf8.AppendRune(out, r)
		data = data[size:]
	}
	return out
}

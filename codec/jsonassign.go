package codec

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strconv"

	"github.com/gombu/gombu/internal/kjson"
)

var tagType, tagValue = []byte(`"__type__"`), []byte(`"__value__"`)

// tagAhead says whether the object ahead begins as a tag does.
func (r *reader) tagAhead() bool {
	first := r.B[r.I+1:]
	for len(first) > 0 && first[0] <= ' ' {
		first = first[1:]
	}
	return bytes.HasPrefix(first, tagType) || bytes.HasPrefix(first, tagValue)
}

// tagged reads the object ahead into v if it is a tag, else it reads nothing.
func (r *reader) tagged(v reflect.Value) bool {
	at := r.Scanner
	value, tag := r.object()
	if r.Err == nil && !tag {
		r.Scanner = at
		return false
	}
	if r.Err == nil {
		r.assign(v, value)
	}
	return true
}

// assign puts what a tag stands for into v: as it is where that fits, else as
// the text or the number that a peer without tags would have sent.
func (r *reader) assign(v reflect.Value, value any) {
	for v.Kind() == reflect.Pointer && value != nil {
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		v = v.Elem()
	}
	if value != nil {
		if of := reflect.TypeOf(value); of == v.Type() || v.Kind() == reflect.Interface && of.AssignableTo(v.Type()) {
			v.Set(reflect.ValueOf(value))
			return
		}
	}
	switch is := value.(type) {
	case []byte:
		if v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Uint8 {
			v.SetBytes(is)
			return
		}
		value = string(is)
	case Date:
		value = is.String()
	case Decimal:
		if _, err := strconv.ParseFloat(string(is), 64); err == nil && reflect.Int <= v.Kind() && v.Kind() <= reflect.Float64 {
			value = json.Number(is)
		}
	}
	in := reader{types: r.types, Scanner: kjson.Scanner{B: r.plainText(value)}}
	if r.Err == nil {
		planOf(v.Type())(&in, v)
		r.Err = in.Err
	}
}

// plain writes what a peer without tags would have sent.
var plain = &jsonEncoder{untagged: true}

func (r *reader) plainText(value any) []byte {
	text, err := plain.encode(value)
	if r.Err == nil {
		r.Err = err
	}
	return text
}

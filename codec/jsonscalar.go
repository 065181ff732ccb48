package codec

import (
	"reflect"
	"strconv"

	"github.com/gombu/gombu/internal/kjson"
)

// Plans of values without parts. Null leaves them as they are.

func readBool(r *reader, v reflect.Value) {
	switch r.Peek() {
	case 't':
		v.SetBool(r.Word("true"))
	case 'f':
		v.SetBool(!r.Word("false"))
	default:
		readNothing(r, v)
	}
}

func readString(r *reader, v reflect.Value) {
	if r.Peek() != '"' {
		readNothing(r, v)
		return
	}
	v.SetString(r.String())
}

// digits reads a number; false when there is none, or null.
func (r *reader) digits(v reflect.Value) (text []byte, whole, ok bool) {
	switch c := r.Peek(); {
	case c == '-' || c-'0' < 10 || c == 'N' || c == 'I':
		text, whole = r.Digits()
		return text, whole, r.Err == nil
	}
	readNothing(r, v)
	return nil, false, false
}

// misnumber fails because v has no room for a number.
func (r *reader) misnumber(text []byte, v reflect.Value) {
	r.Fail("number " + string(text) + " does not fit a " + v.Type().String())
}

func readInt(r *reader, v reflect.Value) {
	text, whole, ok := r.digits(v)
	if !ok {
		return
	}
	if whole {
		if n, fits := kjson.Int(text); fits && !v.OverflowInt(n) {
			v.SetInt(n)
			return
		}
	}
	r.misnumber(text, v)
}

func readUint(r *reader, v reflect.Value) {
	text, _, ok := r.digits(v)
	if !ok {
		return
	}
	n, err := strconv.ParseUint(string(text), 10, 64)
	if err != nil || v.OverflowUint(n) {
		r.misnumber(text, v)
		return
	}
	v.SetUint(n)
}

func readFloat(r *reader, v reflect.Value) {
	text, _, ok := r.digits(v)
	if !ok {
		return
	}
	f, err := strconv.ParseFloat(string(text), v.Type().Bits())
	if err != nil {
		r.misnumber(text, v)
		return
	}
	v.SetFloat(f)
}

// readNumber keeps a json.Number as it is written, in a string too.
func readNumber(r *reader, v reflect.Value) {
	if r.Peek() == '"' {
		text := r.String()
		s := kjson.Scanner{B: []byte(text)}
		if s.Digits(); s.Err != nil || s.I < len(text) || text[0] <= ' ' {
			r.Fail("a string that is no number does not fit a json.Number")
			return
		}
		v.SetString(text)
		return
	}
	if text, _, ok := r.digits(v); ok {
		v.SetString(string(text))
	}
}

// readTime reads isoformat in any of its forms.
func readTime(r *reader, v reflect.Value) {
	if r.Peek() != '"' {
		readNothing(r, v)
		return
	}
	t, err := parseDatetime(string(r.Bytes()))
	if r.Err == nil {
		r.Err = err
	}
	if r.Err == nil {
		v.Set(reflect.ValueOf(t))
	}
}

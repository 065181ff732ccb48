package codec

import (
	"encoding/base64"
	"reflect"
)

// slicePlan reads an array into a slice, whose room it uses again, and base64
// into bytes.
func slicePlan(t reflect.Type, elem plan) plan {
	bytes := t.Elem().Kind() == reflect.Uint8
	return func(r *reader, v reflect.Value) {
		switch c := r.Peek(); {
		case c == '[':
			readSlice(r, v, elem)
		case c == '"' && bytes:
			readBase64(r, v)
		case r.null():
			v.SetZero()
		default:
			r.misfit(v.Type())
		}
	}
}

func readSlice(r *reader, v reflect.Value, elem plan) {
	r.Open('[')
	n := 0
	for first := true; r.More(']', first); first = false {
		if n >= v.Cap() {
			v.Grow(1)
		}
		if n >= v.Len() {
			v.SetLen(n + 1)
		}
		r.into(elem, v.Index(n))
		n++
	}
	if v.SetLen(n); n == 0 {
		v.Set(reflect.MakeSlice(v.Type(), 0, 0))
	}
}

func readBase64(r *reader, v reflect.Value) {
	text := r.Bytes()
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(out, text)
	if err != nil {
		r.Fail(err.Error())
		return
	}
	v.SetBytes(out[:n])
}

// arrayPlan reads what there is room for; the rest of the array is zero.
func arrayPlan(elem plan) plan {
	return func(r *reader, v reflect.Value) {
		if r.Peek() != '[' {
			readNothing(r, v)
			return
		}
		r.Open('[')
		n := 0
		for first := true; r.More(']', first); first = false {
			if n < v.Len() {
				r.into(elem, v.Index(n))
			} else {
				r.Skip()
			}
			n++
		}
		for ; n < v.Len(); n++ {
			v.Index(n).SetZero()
		}
	}
}

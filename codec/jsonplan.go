package codec

import (
	"bytes"
	"encoding"
	"encoding/json"
	"reflect"
	"sync"
)

// A plan reads one value into v, which can be set. There is one for each type,
// made when the type is first met.
type plan func(r *reader, v reflect.Value)

var plans sync.Map // reflect.Type -> plan

func planOf(t reflect.Type) plan {
	if p, ok := plans.Load(t); ok {
		return p.(plan)
	}
	p := (&planner{}).plan(t)
	plans.Store(t, p)
	return p
}

// A planner makes the plans of a type and of what it consists of.
type planner struct {
	begun map[reflect.Type]*plan // of types that may contain themselves
}

var (
	unmarshalerType     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshalerType = reflect.TypeFor[encoding.TextUnmarshaler]()
	numberType          = reflect.TypeFor[json.Number]()
	tableType           = reflect.TypeFor[map[string]any]()
)

func (p *planner) plan(t reflect.Type) plan {
	switch to := reflect.PointerTo(t); {
	case t == timeType:
		return readTime
	case t.Kind() == reflect.Pointer:
	case to.Implements(unmarshalerType):
		return readSelf
	case to.Implements(textUnmarshalerType):
		return readText
	}
	switch t.Kind() {
	case reflect.Bool:
		return readBool
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return readInt
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		return readUint
	case reflect.Float32, reflect.Float64:
		return readFloat
	case reflect.String:
		if t == numberType {
			return readNumber
		}
		return readString
	case reflect.Interface:
		return readInterface
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map, reflect.Struct:
		return p.compound(t)
	}
	return readNothing
}

// compound plans a type that has parts. Inside of itself a type stands for the
// plan that is being made.
func (p *planner) compound(t reflect.Type) plan {
	if begun, ok := p.begun[t]; ok {
		return func(r *reader, v reflect.Value) { (*begun)(r, v) }
	}
	if p.begun == nil {
		p.begun = map[reflect.Type]*plan{}
	}
	made := new(plan)
	p.begun[t] = made
	switch t.Kind() {
	case reflect.Pointer:
		*made = pointerPlan(p.plan(t.Elem()))
	case reflect.Slice:
		*made = slicePlan(t, p.plan(t.Elem()))
	case reflect.Array:
		*made = arrayPlan(p.plan(t.Elem()))
	case reflect.Map:
		*made = p.mapPlan(t)
	case reflect.Struct:
		*made = p.structPlan(t)
	}
	return *made
}

func pointerPlan(elem plan) plan {
	return func(r *reader, v reflect.Value) {
		if r.null() {
			v.SetZero()
			return
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		elem(r, v.Elem())
	}
}

// readInterface reads into what a pointer in the interface points to, as
// encoding/json, else anew.
func readInterface(r *reader, v reflect.Value) {
	if e := v.Elem(); e.Kind() == reflect.Pointer && !e.IsNil() && e.Elem().Kind() != reflect.Interface &&
		(r.Peek() != 'n' || e.Elem().Kind() == reflect.Pointer) {
		planOf(e.Type().Elem())(r, e.Elem())
		return
	}
	switch {
	case r.null():
		v.SetZero()
	case v.NumMethod() > 0:
		r.misfit(v.Type())
	default:
		if tree := r.value(); tree != nil && r.Err == nil {
			v.Set(reflect.ValueOf(tree))
		}
	}
}

// readNothing is for types that JSON has nothing for.
func readNothing(r *reader, v reflect.Value) {
	if !r.null() {
		r.misfit(v.Type())
	}
}

// readSelf lets v read the text itself; tags in it are plain values then.
func readSelf(r *reader, v reflect.Value) {
	at := r.Scanner
	text := r.raw()
	if r.Err == nil && bytes.Contains(text, tagType) {
		r.Scanner = at
		text = r.plainText(r.value())
	}
	if r.Err != nil {
		return
	}
	r.Err = v.Addr().Interface().(json.Unmarshaler).UnmarshalJSON(text)
}

// readText lets v read a string itself.
func readText(r *reader, v reflect.Value) {
	switch r.Peek() {
	case '"':
		if text := r.Bytes(); r.Err == nil {
			r.Err = v.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText(text)
		}
	case 'n':
		r.Word("null")
		setNil(v)
	default:
		r.misfit(v.Type())
	}
}

// setNil is what null does to a value that is no pointer.
func setNil(v reflect.Value) {
	switch v.Kind() {
	case reflect.Map, reflect.Slice, reflect.Interface:
		v.SetZero()
	}
}

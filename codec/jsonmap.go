package codec

import (
	"encoding"
	"reflect"
	"strconv"
)

// A keyPlan reads a member's name into the key of a map.
type keyPlan func(r *reader, key reflect.Value, name string)

// mapPlan adds members to a map.
func (p *planner) mapPlan(t reflect.Type) plan {
	key, elem := planKey(t.Key()), p.plan(t.Elem())
	return func(r *reader, v reflect.Value) {
		switch {
		case r.null():
			v.SetZero()
			return
		case r.Peek() != '{' || key == nil:
			r.misfit(v.Type())
			return
		case v.IsNil():
			v.Set(reflect.MakeMap(t))
		}
		if t == tableType {
			r.members(v.Interface().(map[string]any))
			return
		}
		r.Open('{')
		k, e := reflect.New(t.Key()).Elem(), reflect.New(t.Elem()).Elem()
		for first := true; r.More('}', first); first = false {
			name := r.Name()
			k.SetZero()
			if key(r, k, name); r.Err != nil {
				return
			}
			e.SetZero()
			if r.into(elem, e); r.Err != nil {
				r.within(name)
				return
			}
			v.SetMapIndex(k, e)
		}
	}
}

// planKey is nil when a name cannot be such a key.
func planKey(t reflect.Type) keyPlan {
	switch {
	case reflect.PointerTo(t).Implements(textUnmarshalerType):
		return func(r *reader, key reflect.Value, name string) {
			if err := key.Addr().Interface().(encoding.TextUnmarshaler).UnmarshalText([]byte(name)); r.Err == nil {
				r.Err = err
			}
		}
	case t.Kind() == reflect.String:
		return func(_ *reader, key reflect.Value, name string) { key.SetString(name) }
	case t.Kind() == reflect.Interface && t.NumMethod() == 0:
		return func(_ *reader, key reflect.Value, name string) { key.Set(reflect.ValueOf(name)) }
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Int64:
		return func(r *reader, key reflect.Value, name string) {
			n, err := strconv.ParseInt(name, 10, 64)
			if err != nil || key.OverflowInt(n) {
				r.misnumber([]byte(name), key)
			}
			key.SetInt(n)
		}
	case t.Kind() >= reflect.Uint && t.Kind() <= reflect.Uintptr:
		return func(r *reader, key reflect.Value, name string) {
			n, err := strconv.ParseUint(name, 10, 64)
			if err != nil || key.OverflowUint(n) {
				r.misnumber([]byte(name), key)
			}
			key.SetUint(n)
		}
	}
	return nil
}

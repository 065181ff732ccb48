package sonic

import (
	"reflect"
	"slices"
	"sync"
)

var known sync.Map // reflect.Type -> bool

// holdsInterface says whether decoding into t may meet an interface.
func holdsInterface(t reflect.Type) bool {
	if holds, ok := known.Load(t); ok {
		return holds.(bool)
	}
	holds := meetsInterface(t, nil)
	known.Store(t, holds)
	return holds
}

func meetsInterface(t reflect.Type, above []reflect.Type) bool {
	if slices.Contains(above, t) {
		return false // it holds what its other parts hold
	}
	above = append(above, t)
	switch t.Kind() {
	case reflect.Interface:
		return true
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return meetsInterface(t.Elem(), above)
	case reflect.Struct:
		for f := range t.Fields() {
			if meetsInterface(f.Type, above) {
				return true
			}
		}
	}
	return false
}

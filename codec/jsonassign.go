package codec

import (
	"encoding"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/gombu/gombu/internal/kjson"
)

// assign puts a decoded value into v, by encoding/json's rules and with Kombu's
// types: an absent member leaves its field alone, null makes pointers, maps,
// slices and interfaces nil, unknown members are skipped.
func assign(v reflect.Value, tree any, depth int) error {
	if depth > kjson.MaxDepth {
		return fmt.Errorf("nested too deeply")
	}
	if v.Kind() == reflect.Pointer {
		if tree == nil {
			v.SetZero()
			return nil
		}
		if v.IsNil() {
			v.Set(reflect.New(v.Type().Elem()))
		}
		return assign(v.Elem(), tree, depth+1)
	}
	if tree != nil {
		if tv := reflect.ValueOf(tree); tv.Type() == v.Type() || v.Kind() == reflect.Interface && tv.Type().AssignableTo(v.Type()) {
			v.Set(tv)
			return nil
		}
	}
	if done, err := assignSelf(v, tree); done {
		return err
	}
	switch tree := tree.(type) {
	case nil:
		switch v.Kind() {
		case reflect.Map, reflect.Slice, reflect.Interface:
			v.SetZero()
		}
		return nil
	case bool:
		if v.Kind() == reflect.Bool {
			v.SetBool(tree)
			return nil
		}
	case string:
		return assignText(v, tree)
	case int64, float64, json.Number:
		return assignNumber(v, tree)
	case []byte:
		return assignText(v, string(tree))
	case Decimal:
		if _, err := strconv.ParseFloat(string(tree), 64); err == nil && v.Kind() != reflect.String {
			return assignNumber(v, json.Number(tree))
		}
		return assignText(v, string(tree))
	case Date:
		return assignText(v, tree.String())
	case TimeOfDay:
		return assignText(v, string(tree))
	case UUID:
		return assignText(v, tree.String())
	case time.Time:
		return assignText(v, tree.Format(time.RFC3339Nano))
	case []any:
		return assignList(v, tree, depth)
	case map[string]any:
		return assignTable(v, tree, depth)
	}
	return misfit(v, tree)
}

func misfit(v reflect.Value, tree any) error {
	return fmt.Errorf("a %T does not fit a %s", tree, v.Type())
}

// assignSelf lets v read itself, by its own UnmarshalJSON or UnmarshalText.
func assignSelf(v reflect.Value, tree any) (bool, error) {
	if !v.CanAddr() {
		return false, nil
	}
	if v.Type() == timeType {
		text, ok := tree.(string)
		if d, isDate := tree.(Date); isDate {
			text, ok = d.String(), true
		}
		if !ok {
			return tree != nil, misfit(v, tree)
		}
		t, err := parseDatetime(text)
		v.Set(reflect.ValueOf(t))
		return true, err
	}
	switch m := v.Addr().Interface().(type) {
	case json.Unmarshaler:
		text, err := plain.encode(tree)
		if err != nil {
			return true, err
		}
		return true, m.UnmarshalJSON(text)
	case encoding.TextUnmarshaler:
		switch tree.(type) {
		case nil, map[string]any, []any, bool:
			return false, nil
		}
		text, err := plain.encode(tree)
		if err != nil {
			return true, err
		}
		if s, err := strconv.Unquote(string(text)); err == nil {
			text = []byte(s)
		}
		return true, m.UnmarshalText(text)
	}
	return false, nil
}

// plain writes the parts of a tree that a type reads by itself.
var plain = &jsonEncoder{untagged: true}

func assignText(v reflect.Value, s string) error {
	switch v.Kind() {
	case reflect.String:
		v.SetString(s)
		return nil
	case reflect.Slice:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b, err := base64.StdEncoding.DecodeString(s)
			v.SetBytes(b)
			return err
		}
	}
	return misfit(v, s)
}

func assignNumber(v reflect.Value, n any) error {
	var text string
	switch n := n.(type) {
	case int64:
		text = strconv.FormatInt(n, 10)
	case float64:
		text = strconv.FormatFloat(n, 'g', -1, 64)
	case json.Number:
		text = n.String()
	}
	switch v.Kind() {
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		i, err := strconv.ParseInt(text, 10, 64)
		if err != nil || v.OverflowInt(i) {
			return fmt.Errorf("number %s does not fit a %s", text, v.Type())
		}
		v.SetInt(i)
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64, reflect.Uintptr:
		u, err := strconv.ParseUint(text, 10, 64)
		if err != nil || v.OverflowUint(u) {
			return fmt.Errorf("number %s does not fit a %s", text, v.Type())
		}
		v.SetUint(u)
	case reflect.Float32, reflect.Float64:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || v.OverflowFloat(f) && !math.IsInf(f, 0) {
			return fmt.Errorf("number %s does not fit a %s", text, v.Type())
		}
		v.SetFloat(f)
	default:
		if v.Type() != reflect.TypeFor[json.Number]() {
			return misfit(v, n)
		}
		v.SetString(text)
	}
	return nil
}

func assignList(v reflect.Value, list []any, depth int) error {
	switch v.Kind() {
	case reflect.Slice:
		v.Set(reflect.MakeSlice(v.Type(), len(list), len(list)))
	case reflect.Array:
		v.SetZero()
	default:
		return misfit(v, list)
	}
	for i := range min(len(list), v.Len()) {
		if err := assign(v.Index(i), list[i], depth+1); err != nil {
			return fmt.Errorf("[%d]: %w", i, err)
		}
	}
	return nil
}

func assignTable(v reflect.Value, table map[string]any, depth int) error {
	switch v.Kind() {
	case reflect.Map:
		if v.IsNil() {
			v.Set(reflect.MakeMapWithSize(v.Type(), len(table)))
		}
		for k, member := range table {
			key := reflect.New(v.Type().Key()).Elem()
			if err := assignKey(key, k); err != nil {
				return err
			}
			value := reflect.New(v.Type().Elem()).Elem()
			if err := assign(value, member, depth+1); err != nil {
				return fmt.Errorf("%q: %w", k, err)
			}
			v.SetMapIndex(key, value)
		}
		return nil
	case reflect.Struct:
		return assignStruct(v, table, depth)
	}
	return misfit(v, table)
}

func assignKey(key reflect.Value, text string) error {
	if m, ok := reflect.TypeAssert[encoding.TextUnmarshaler](key.Addr()); ok {
		return m.UnmarshalText([]byte(text))
	}
	if key.Kind() == reflect.String || key.Kind() == reflect.Interface {
		return assign(key, text, 0)
	}
	return assignNumber(key, json.Number(text))
}

// assignStruct matches names exactly, else without case, as encoding/json.
func assignStruct(v reflect.Value, table map[string]any, depth int) error {
	for _, f := range fieldsOf(v.Type()) {
		member, ok := table[f.name]
		if !ok {
			for k, m := range table {
				if strings.EqualFold(k, f.name) {
					member, ok = m, true
				}
			}
		}
		if !ok {
			continue
		}
		if text, isText := member.(string); isText && f.quoted {
			member = json.Number(text)
		}
		target := v
		for _, i := range f.index {
			if target.Kind() == reflect.Pointer {
				if target.IsNil() {
					target.Set(reflect.New(target.Type().Elem()))
				}
				target = target.Elem()
			}
			target = target.Field(i)
		}
		if err := assign(target, member, depth+1); err != nil {
			return fmt.Errorf("%q: %w", f.name, err)
		}
	}
	return nil
}

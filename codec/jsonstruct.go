package codec

import (
	"fmt"
	"reflect"
	"unicode"
	"unicode/utf8"
)

// A structPlan finds the fields of a struct by a member's name.
type structPlan struct {
	fields []field
	plans  []plan
	exact  map[string]int // by name
	folded map[string]int // by name without regard to case; of equal ones the first
}

func (p *planner) structPlan(t reflect.Type) plan {
	fields := fieldsOf(t)
	s := &structPlan{fields: fields, plans: make([]plan, len(fields)), exact: map[string]int{}, folded: map[string]int{}}
	for i, f := range fields {
		s.plans[i] = p.plan(t.FieldByIndex(f.index).Type)
		if f.quoted {
			s.plans[i] = quotedPlan(s.plans[i])
		}
		s.exact[f.name] = i
		if _, taken := s.folded[fold([]byte(f.name))]; !taken {
			s.folded[fold([]byte(f.name))] = i
		}
	}
	return s.read
}

func (s *structPlan) read(r *reader, v reflect.Value) {
	if r.Peek() != '{' {
		readNothing(r, v)
		return
	}
	r.Open('{')
	next := 0 // members mostly come in the order of the fields
	for first := true; r.More('}', first); first = false {
		i := s.find(r.Key(), next)
		if i < 0 {
			r.Skip()
			continue
		}
		next = i + 1
		target := s.fields[i].settle(r, v)
		if r.Err == nil {
			r.into(s.plans[i], target)
		}
		if r.Err != nil {
			r.within(s.fields[i].name)
			return
		}
	}
}

// find returns the field of a name, -1 when there is none. It looks at next first.
func (s *structPlan) find(name []byte, next int) int {
	if next < len(s.fields) && s.fields[next].name == string(name) {
		return next
	}
	if i, ok := s.exact[string(name)]; ok {
		return i
	}
	if i, ok := s.folded[fold(name)]; ok {
		return i
	}
	return -1
}

// fold makes names equal that differ in case only: of all cases of a letter it
// takes the lowest code point.
func fold(name []byte) string {
	var room [64]byte
	out := room[:0]
	for i := 0; i < len(name); {
		c, size := rune(name[i]), 1
		switch {
		case 'a' <= c && c <= 'z':
			c -= 'a' - 'A'
		case c >= utf8.RuneSelf:
			c, size = utf8.DecodeRune(name[i:])
			for above := true; above; {
				next := unicode.SimpleFold(c)
				c, above = next, next > c
			}
		}
		out = utf8.AppendRune(out, c)
		i += size
	}
	return string(out)
}

// settle returns the field of v, with embedded pointers on the way set.
func (f *field) settle(r *reader, v reflect.Value) reflect.Value {
	for n, i := range f.index {
		if n > 0 && v.Kind() == reflect.Pointer {
			if v.IsNil() {
				if !v.CanSet() {
					r.Fail(fmt.Sprintf("the embedded pointer to an unexported %s cannot be set", v.Type().Elem()))
					return v
				}
				v.Set(reflect.New(v.Type().Elem()))
			}
			v = v.Elem()
		}
		v = v.Field(i)
	}
	return v
}

// quotedPlan reads a value from inside a string, or null.
func quotedPlan(p plan) plan {
	return func(r *reader, v reflect.Value) {
		if r.Peek() != '"' {
			if r.Peek() != 'n' {
				r.misfit(v.Type())
				return
			}
			p(r, v)
			return
		}
		in := reader{types: r.types}
		in.B = r.Bytes()
		if r.Err != nil {
			return
		}
		if len(in.B) == 0 || in.B[0] <= ' ' {
			r.misfit(v.Type())
			return
		}
		if p(&in, v); in.Err == nil && in.I < len(in.B) {
			in.Fail("text behind the value in the string")
		}
		r.Err = in.Err
	}
}

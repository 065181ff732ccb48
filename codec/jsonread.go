package codec

import (
	"fmt"
	"reflect"
	"sync"

	"github.com/gombu/gombu/internal/kjson"
)

// A reader reads one body. Its error sticks, as the Scanner's does.
type reader struct {
	kjson.Scanner
	types map[string]func(any) (any, error)
	open  []any // the members of the lists that are being read; nil behind its end
}

// maxOpen is how much room for members is kept for the next body.
const maxOpen = 4 << 10

var readers = sync.Pool{New: func() any { return new(reader) }}

// release gives r back without what it read.
func (r *reader) release() {
	r.Reset(nil)
	r.types = nil
	if cap(r.open) > maxOpen {
		r.open = nil
	}
	readers.Put(r)
}

func (r *reader) end() {
	if r.Peek() != 0 || r.I < len(r.B) {
		r.Fail("text behind the value")
	}
}

// null reads a null, if there is one.
func (r *reader) null() bool {
	return r.Peek() == 'n' && r.Word("null")
}

// misfit fails because of what comes next.
func (r *reader) misfit(t reflect.Type) {
	what := "a number"
	switch r.Peek() {
	case '{':
		what = "an object"
	case '[':
		what = "an array"
	case '"':
		what = "a string"
	case 't', 'f':
		what = "a bool"
	case 'n':
		what = "null"
	}
	r.Fail(fmt.Sprintf("%s does not fit a %s", what, t))
}

// within adds to the error in which member it is.
func (r *reader) within(name string) {
	r.Err = fmt.Errorf("%q: %w", name, r.Err)
}

// into reads one value by p, or what a tag makes of it.
func (r *reader) into(p plan, v reflect.Value) {
	if r.Peek() == '{' && r.tagAhead() && r.tagged(v) {
		return
	}
	p(r, v)
}

// raw reads over a value and returns its text, which points into B.
func (r *reader) raw() []byte {
	r.Peek()
	start := r.I
	r.Skip()
	return r.B[start:r.I]
}

// value reads any value into maps, lists and the types of the tags.
func (r *reader) value() any {
	switch r.Peek() {
	case '{':
		v, _ := r.object()
		return v
	case '[':
		return r.list()
	}
	return r.Value()
}

func (r *reader) list() any {
	if !r.Open('[') {
		return nil
	}
	start := len(r.open)
	for first := true; r.More(']', first); first = false {
		r.open = append(r.open, r.value())
	}
	list := append([]any{}, r.open[start:]...)
	clear(r.open[start:])
	r.open = r.open[:start]
	return list
}

// object reads an object; tagged says that it was a tag, and v is what that
// stands for.
func (r *reader) object() (v any, tagged bool) {
	m := map[string]any{}
	r.members(m)
	if len(m) != 2 || r.Err != nil {
		return m, false
	}
	kind, ok := m["__type__"]
	value, both := m["__value__"]
	if !ok || !both {
		return m, false
	}
	v, err := r.untag(kind, value)
	if err != nil {
		r.Err = err
	}
	return v, true
}

// members reads an object into m.
func (r *reader) members(m map[string]any) {
	if !r.Open('{') {
		return
	}
	for first := true; r.More('}', first); first = false {
		name := r.Name()
		m[name] = r.value()
	}
}

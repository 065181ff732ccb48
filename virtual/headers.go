package virtual

import (
	"bytes"
	"math"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/gombu/gombu/driver"
)

// headersIndex finds the bindings of a headers exchange. Every binding is kept
// under a header that a matching message must have (with x-match any: under
// each of those that suffice), so that a message asks for its own headers only.
//
// As in RabbitMQ, x-match is all (default), any, all-with-x or any-with-x; the
// first two ignore arguments that begin with "x-"; an argument without a value
// asks for the header's presence.
type headersIndex struct {
	byHeader map[headerKey][]*headersBinding
	always   dests // bindings that ask for nothing
}

type headersBinding struct {
	all  bool
	want driver.Headers
	to   dest
	from *binding
}

// headerKey is a header with a value that can be compared, or (kind 0) the
// mere presence of one.
type headerKey struct {
	name string
	kind byte
	bits uint64
	text string
}

func (x *headersIndex) add(b *binding) {
	h := newHeadersBinding(b)
	switch {
	case len(h.want) == 0 && h.all:
		x.always.add(h.to)
	case len(h.want) == 0:
	case h.all:
		x.put(keyOf(h.want[0]), h)
	default:
		for _, w := range h.want {
			x.put(keyOf(w), h)
		}
	}
}

func (x *headersIndex) put(k headerKey, h *headersBinding) {
	if x.byHeader == nil {
		x.byHeader = map[headerKey][]*headersBinding{}
	}
	x.byHeader[k] = append(x.byHeader[k], h)
}

func (x *headersIndex) remove(b *binding) {
	h := newHeadersBinding(b)
	if len(h.want) == 0 && h.all {
		x.always.remove(h.to)
	}
	for _, w := range h.want {
		k := keyOf(w)
		x.byHeader[k] = slices.DeleteFunc(x.byHeader[k], func(o *headersBinding) bool { return o.from == b })
		if len(x.byHeader[k]) == 0 {
			delete(x.byHeader, k)
		}
	}
}

func newHeadersBinding(b *binding) *headersBinding {
	how, _ := b.args.Get("x-match").(string)
	h := &headersBinding{all: !strings.HasPrefix(how, "any"), to: b.to, from: b}
	for _, a := range b.args {
		if a.Key == "x-match" || strings.HasPrefix(a.Key, "x-") && !strings.HasSuffix(how, "-with-x") {
			continue
		}
		h.want = append(h.want, a)
	}
	return h
}

func (x *headersIndex) match(s *search) {
	s.take(x.always)
	for _, have := range s.message.headers {
		k := keyOf(have)
		x.matchKey(k, s)
		if k.kind != 0 {
			x.matchKey(headerKey{name: have.Key}, s)
		}
	}
}

func (x *headersIndex) matchKey(k headerKey, s *search) {
	for _, h := range x.byHeader[k] {
		if h.takes(s.message.headers) {
			s.takeOne(h.to)
		}
	}
}

func (h *headersBinding) takes(have driver.Headers) bool {
	for _, w := range h.want {
		v, ok := have.Lookup(w.Key)
		if ok = ok && (w.Value == nil || equalValues(v, w.Value)); ok != h.all {
			return ok
		}
	}
	return h.all
}

func keyOf(h driver.Header) headerKey {
	k := headerKey{name: h.Key}
	switch v := normal(h.Value).(type) {
	case bool:
		k.kind = 'b'
		if v {
			k.bits = 1
		}
	case int64:
		k.kind, k.bits = 'i', uint64(v)
	case float64:
		k.kind, k.bits = 'f', math.Float64bits(v)
	case string:
		k.kind, k.text = 's', v
	}
	return k // anything else: by presence, then compared in full
}

// normal brings the widths of numbers together.
func normal(v any) any {
	switch v := v.(type) {
	case int:
		return int64(v)
	case int8:
		return int64(v)
	case int16:
		return int64(v)
	case int32:
		return int64(v)
	case uint:
		return wide(uint64(v))
	case uint8:
		return int64(v)
	case uint16:
		return int64(v)
	case uint32:
		return int64(v)
	case uint64:
		return wide(v)
	case float32:
		return float64(v)
	}
	return v
}

func wide(v uint64) any {
	if v > math.MaxInt64 {
		return float64(v)
	}
	return int64(v)
}

// equalValues compares header or argument values as a broker does: by value,
// not by the width of a number.
func equalValues(a, b any) bool {
	a, b = normal(a), normal(b)
	switch x := a.(type) {
	case []byte:
		y, ok := b.([]byte)
		return ok && bytes.Equal(x, y)
	case time.Time:
		y, ok := b.(time.Time)
		return ok && x.Equal(y)
	case driver.Headers:
		y, ok := b.(driver.Headers)
		return ok && len(x) == len(y) && !slices.ContainsFunc(x, func(h driver.Header) bool {
			v, ok := y.Lookup(h.Key)
			return !ok || !equalValues(h.Value, v)
		})
	case []any:
		y, ok := b.([]any)
		return ok && slices.EqualFunc(x, y, equalValues)
	}
	return reflect.DeepEqual(a, b)
}

package codec

import (
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"sync"

	"github.com/gombu/gombu/internal/kjson"
)

// jsonEncoder writes Go values as Python's json.dumps would.
type jsonEncoder struct {
	untagged bool
}

// room is where bodies grow; what the caller gets is a copy of just the size.
var room = sync.Pool{New: func() any { return new([]byte) }}

// maxRoom is how large a body's room is kept.
const maxRoom = 256 << 10

func (e *jsonEncoder) encode(v any) ([]byte, error) { return e.append(nil, v) }

// append writes to the end of dst, straight when that has room to grow in.
func (e *jsonEncoder) append(dst []byte, v any) ([]byte, error) {
	if cap(dst) > len(dst) {
		return e.any(dst, v, 0)
	}
	buf := room.Get().(*[]byte)
	b, err := e.any((*buf)[:0], v, 0)
	if err == nil {
		dst = append(dst, b...)
	}
	if cap(b) <= maxRoom {
		*buf = b
		room.Put(buf)
	}
	return dst, err
}

// any writes what is mostly met in an any without asking for its type's writer.
func (e *jsonEncoder) any(b []byte, v any, depth int) ([]byte, error) {
	switch v := v.(type) {
	case nil:
		return append(b, `null`...), nil
	case string:
		return kjson.AppendString(b, v), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case float64:
		return kjson.AppendFloat(b, v, 64), nil
	case []any:
		return e.anyList(b, v, depth)
	case map[string]any:
		return e.anyTable(b, v, depth)
	}
	return writerOf(reflect.TypeOf(v))(e, b, reflect.ValueOf(v), depth)
}

var errDeep = errors.New("nested too deeply (a cycle?)")

func (e *jsonEncoder) anyList(b []byte, list []any, depth int) ([]byte, error) {
	if list == nil {
		return append(b, `null`...), nil
	}
	if depth > kjson.MaxDepth {
		return b, errDeep
	}
	b = append(b, '[')
	var err error
	for i, v := range list {
		if i > 0 {
			b = append(b, `, `...)
		}
		if b, err = e.any(b, v, depth+1); err != nil {
			return b, err
		}
	}
	return append(b, ']'), nil
}

func (e *jsonEncoder) anyTable(b []byte, table map[string]any, depth int) ([]byte, error) {
	if table == nil {
		return append(b, `null`...), nil
	}
	if depth > kjson.MaxDepth {
		return b, errDeep
	}
	var few [16]string
	names := slices.AppendSeq(few[:0], maps.Keys(table))
	slices.Sort(names)
	b = append(b, '{')
	var err error
	for i, name := range names {
		if i > 0 {
			b = append(b, `, `...)
		}
		b = append(kjson.AppendString(b, name), `: `...)
		if b, err = e.any(b, table[name], depth+1); err != nil {
			return b, fmt.Errorf("%q: %w", name, err)
		}
	}
	return append(b, '}'), nil
}

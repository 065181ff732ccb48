package virtual

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/big"
	"time"

	"github.com/gombu/gombu/driver"
)

// CloneHeaders copies a table so deeply that nobody else can write to it; an
// empty one is nil. Stores that keep messages as they are need it.
func CloneHeaders(h driver.Headers) driver.Headers {
	if len(h) == 0 {
		return nil
	}
	out := make(driver.Headers, len(h))
	for i := range h {
		out[i] = driver.Header{Key: h[i].Key, Value: cloneValue(h[i].Value)}
	}
	return out
}

func cloneValue(v any) any {
	switch v := v.(type) {
	case []byte:
		return bytes.Clone(v)
	case driver.Headers:
		if v != nil && len(v) == 0 {
			return driver.Headers{}
		}
		return CloneHeaders(v)
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = cloneValue(v[i])
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k := range v {
			out[k] = cloneValue(v[k])
		}
		return out
	}
	return v
}

// checkHeaders is ErrInvalid when a table holds what no transport carries. A
// store that keeps messages as they are must not be the one that does.
func (e *engine) checkHeaders(tables ...driver.Headers) error {
	for _, h := range tables {
		for i := range h {
			if !carried(h[i].Value) {
				return e.fail("publish", fmt.Sprintf("header %q", h[i].Key), driver.ErrInvalid, "a %T cannot be carried", h[i].Value)
			}
		}
	}
	return nil
}

func carried(v any) bool {
	switch v := v.(type) {
	case nil, string, bool, []byte, time.Time, float64, float32, int, int8, int16, int32, int64,
		uint, uint8, uint16, uint32, uint64, json.Number, *big.Int, [16]byte:
		return true
	case driver.Headers:
		for i := range v {
			if !carried(v[i].Value) {
				return false
			}
		}
		return true
	case map[string]any:
		for _, o := range v {
			if !carried(o) {
				return false
			}
		}
		return true
	case []any:
		for _, o := range v {
			if !carried(o) {
				return false
			}
		}
		return true
	}
	return false
}

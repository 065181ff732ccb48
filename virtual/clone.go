package virtual

import (
	"bytes"

	"github.com/gombu/gombu/driver"
)

// cloneHeaders copies a table so deeply that nobody else can write to it.
func cloneHeaders(h driver.Headers) driver.Headers {
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
		return cloneHeaders(v)
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

package kombu

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gombu/gombu/driver"
)

// naive is the zone of a datetime that was stored without one, so that it is
// written without one again.
var naive = time.FixedZone("naive", 0)

func inTable(what, key string, err error) error {
	return &driver.Error{Op: "encode envelope", Entity: fmt.Sprintf("%s %q", what, key), Kind: driver.ErrInvalid, Err: err}
}

func appendTable(b []byte, h driver.Headers, depth int) ([]byte, error) {
	b = append(b, '{')
	var err error
	for i := range h {
		if i > 0 {
			b = append(b, `, `...)
		}
		b = append(appendString(b, h[i].Key), `: `...)
		if b, err = appendValue(b, h[i].Value, depth+1); err != nil {
			if depth == 1 {
				err = inTable("header", h[i].Key, err)
			}
			return b, err
		}
	}
	return append(b, '}'), nil
}

// appendValue writes v as Kombu's tagged JSON (envelope.md section 3). A
// [16]byte is a UUID.
func appendValue(b []byte, v any, depth int) ([]byte, error) {
	if depth+2 > maxDepth { // + the envelope and a UUID's own object
		return b, errors.New("nested too deeply")
	}
	switch v := v.(type) {
	case nil:
		return append(b, `null`...), nil
	case string:
		return appendString(b, v), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case float64:
		return appendFloat(b, v, 64), nil
	case float32:
		return appendFloat(b, float64(v), 32), nil
	case []byte:
		return appendBytes(b, v), nil
	case time.Time:
		return appendTime(b, v)
	case [16]byte:
		b = append(b, `{"__type__": "uuid", "__value__": {"hex": "`...)
		return append(hex.AppendEncode(b, v[:]), `"}}`...), nil
	case driver.Headers:
		return appendTable(b, v, depth)
	case map[string]any:
		table := make(driver.Headers, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			table = append(table, driver.Header{Key: k, Value: v[k]})
		}
		return appendTable(b, table, depth)
	case []any:
		return appendList(b, v, depth)
	}
	return appendWhole(b, v)
}

func appendList(b []byte, list []any, depth int) ([]byte, error) {
	b = append(b, '[')
	var err error
	for i, v := range list {
		if i > 0 {
			b = append(b, `, `...)
		}
		if b, err = appendValue(b, v, depth+1); err != nil {
			return b, err
		}
	}
	return append(b, ']'), nil
}

func appendWhole(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case int:
		return strconv.AppendInt(b, int64(v), 10), nil
	case int8:
		return strconv.AppendInt(b, int64(v), 10), nil
	case int16:
		return strconv.AppendInt(b, int64(v), 10), nil
	case int32:
		return strconv.AppendInt(b, int64(v), 10), nil
	case int64:
		return strconv.AppendInt(b, v, 10), nil
	case uint:
		return strconv.AppendUint(b, uint64(v), 10), nil
	case uint8:
		return strconv.AppendUint(b, uint64(v), 10), nil
	case uint16:
		return strconv.AppendUint(b, uint64(v), 10), nil
	case uint32:
		return strconv.AppendUint(b, uint64(v), 10), nil
	case uint64:
		return strconv.AppendUint(b, v, 10), nil
	case *big.Int:
		if v != nil {
			return v.Append(b, 10), nil
		}
	case json.Number:
		s := scanner{b: []byte(v)}
		if _ = s.number(); s.err == nil && s.i == len(v) {
			return append(b, v...), nil
		}
	}
	return b, fmt.Errorf("a %T cannot be stored", v)
}

// appendFloat writes what Python's repr does: the shortest text that reads
// back the same, with an exponent below 1e-4 and from 1e16, and never a whole
// number without ".0".
func appendFloat(b []byte, f float64, bits int) []byte {
	switch {
	case math.IsNaN(f):
		return append(b, `NaN`...)
	case math.IsInf(f, 1):
		return append(b, `Infinity`...)
	case math.IsInf(f, -1):
		return append(b, `-Infinity`...)
	}
	if a := math.Abs(f); a != 0 && (a < 1e-4 || a >= 1e16) {
		return strconv.AppendFloat(b, f, 'e', -1, bits)
	}
	n := len(b)
	b = strconv.AppendFloat(b, f, 'f', -1, bits)
	if !slices.Contains(b[n:], '.') {
		b = append(b, `.0`...)
	}
	return b
}

func appendBytes(b, v []byte) []byte {
	if utf8.Valid(v) {
		b = append(b, `{"__type__": "bytes", "__value__": `...)
		return append(appendString(b, string(v)), '}')
	}
	b = append(b, `{"__type__": "base64", "__value__": "`...)
	return append(base64.StdEncoding.AppendEncode(b, v), `"}`...)
}

// appendTime writes Python's isoformat: microseconds only when there are any,
// the offset never as Z, none for a naive time.
func appendTime(b []byte, t time.Time) ([]byte, error) {
	if y := t.Year(); y < 1 || y > 9999 {
		return b, fmt.Errorf("year %d is outside 1 to 9999", y)
	}
	layout := "2006-01-02T15:04:05"
	if t.Nanosecond() >= 1000 {
		layout += ".000000"
	}
	if t.Location() != naive {
		layout += "-07:00"
		if _, offset := t.Zone(); offset%60 != 0 {
			layout += ":00"
		}
	}
	b = append(b, `{"__type__": "datetime", "__value__": "`...)
	return append(t.AppendFormat(b, layout), `"}`...), nil
}

// appendText is appendString with Kombu's null for nothing.
func appendText(b []byte, s string) []byte {
	if s == "" {
		return append(b, `null`...)
	}
	return appendString(b, s)
}

const digits = "0123456789abcdef"

// appendString writes s as json.dumps does with ensure_ascii.
func appendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		b = append(b, s[start:i]...)
		r, size := utf8.DecodeRuneInString(s[i:])
		b = appendEscape(b, r)
		i += size
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

func appendEscape(b []byte, r rune) []byte {
	switch r {
	case '"', '\\':
		return append(b, '\\', byte(r))
	case '\n':
		return append(b, '\\', 'n')
	case '\r':
		return append(b, '\\', 'r')
	case '\t':
		return append(b, '\\', 't')
	case '\b':
		return append(b, '\\', 'b')
	case '\f':
		return append(b, '\\', 'f')
	}
	if r >= 0x10000 {
		r -= 0x10000
		b = appendUnit(b, 0xd800+uint16(r>>10))
		r = 0xdc00 + r&0x3ff
	}
	return appendUnit(b, uint16(r))
}

func appendUnit(b []byte, u uint16) []byte {
	return append(b, '\\', 'u', digits[u>>12], digits[u>>8&15], digits[u>>4&15], digits[u&15])
}

package kjson

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"math/big"
	"math/bits"
	"slices"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/gombu/gombu/driver"
)

// Naive is the zone of a datetime that was stored without one, so that it is
// written without one again.
var Naive = time.FixedZone("naive", 0)

// AppendTable writes an object; the error names the key that cannot be written.
func AppendTable(b []byte, h driver.Headers, depth int) ([]byte, error) {
	b = append(b, '{')
	var err error
	for i := range h {
		if i > 0 {
			b = append(b, `, `...)
		}
		b = append(AppendString(b, h[i].Key), `: `...)
		if b, err = AppendValue(b, h[i].Value, depth+1); err != nil {
			return b, fmt.Errorf("%q: %w", h[i].Key, err)
		}
	}
	return append(b, '}'), nil
}

// AppendValue writes v as Kombu's tagged JSON (envelope.md section 3). A
// [16]byte is a UUID.
func AppendValue(b []byte, v any, depth int) ([]byte, error) {
	if depth+2 > MaxDepth { // + the envelope and a UUID's own object
		return b, errors.New("nested too deeply")
	}
	switch v := v.(type) {
	case nil:
		return append(b, `null`...), nil
	case string:
		return AppendString(b, v), nil
	case bool:
		return strconv.AppendBool(b, v), nil
	case float64:
		return AppendFloat(b, v, 64), nil
	case float32:
		return AppendFloat(b, float64(v), 32), nil
	case []byte:
		return AppendBytes(b, v), nil
	case time.Time:
		return AppendTime(b, v)
	case [16]byte:
		b = append(b, `{"__type__": "uuid", "__value__": {"hex": "`...)
		return append(hex.AppendEncode(b, v[:]), `"}}`...), nil
	case driver.Headers:
		return AppendTable(b, v, depth)
	case map[string]any:
		table := make(driver.Headers, 0, len(v))
		for _, k := range slices.Sorted(maps.Keys(v)) {
			table = append(table, driver.Header{Key: k, Value: v[k]})
		}
		return AppendTable(b, table, depth)
	case []any:
		return appendList(b, v, depth)
	}
	return AppendWhole(b, v)
}

func appendList(b []byte, list []any, depth int) ([]byte, error) {
	b = append(b, '[')
	var err error
	for i, v := range list {
		if i > 0 {
			b = append(b, `, `...)
		}
		if b, err = AppendValue(b, v, depth+1); err != nil {
			return b, err
		}
	}
	return append(b, ']'), nil
}

// AppendWhole writes a whole number.
func AppendWhole(b []byte, v any) ([]byte, error) {
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
		s := Scanner{B: []byte(v)}
		if _ = s.Number(); s.Err == nil && s.I == len(v) {
			return append(b, v...), nil
		}
	}
	return b, fmt.Errorf("a %T cannot be stored", v)
}

// AppendFloat writes what Python's repr does: the shortest text that reads
// back the same, with an exponent below 1e-4 and from 1e16, and never a whole
// number without ".0".
func AppendFloat(b []byte, f float64, bits int) []byte {
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

// AppendBytes writes a tagged bytes object.
func AppendBytes(b, v []byte) []byte {
	if utf8.Valid(v) {
		b = append(b, `{"__type__": "bytes", "__value__": `...)
		return append(AppendString(b, string(v)), '}')
	}
	b = append(b, `{"__type__": "base64", "__value__": "`...)
	return append(base64.StdEncoding.AppendEncode(b, v), `"}`...)
}

// AppendTime writes a tagged datetime in Python's isoformat: microseconds only when there are any,
// the offset never as Z, none for a Naive time.
func AppendTime(b []byte, t time.Time) ([]byte, error) {
	if y := t.Year(); y < 1 || y > 9999 {
		return b, fmt.Errorf("year %d is outside 1 to 9999", y)
	}
	layout := "2006-01-02T15:04:05"
	if t.Nanosecond() >= 1000 {
		layout += ".000000"
	}
	if t.Location() != Naive {
		layout += "-07:00"
		if _, offset := t.Zone(); offset%60 != 0 {
			layout += ":00"
		}
	}
	b = append(b, `{"__type__": "datetime", "__value__": "`...)
	return append(t.AppendFormat(b, layout), `"}`...), nil
}

const digits = "0123456789abcdef"

// AppendString writes s as json.dumps does with ensure_ascii.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		if i+8 <= len(s) {
			m := unplain(eight(s[i:]))
			if m == 0 {
				i += 8
				continue
			}
			i += bits.TrailingZeros64(m) / 8
		} else if c := s[i]; c >= ' ' && c < 0x7f && c != '"' && c != '\\' {
			i++
			continue
		}
		if start < i {
			b = append(b, s[start:i]...)
		}
		r, size := rune(s[i]), 1
		if r >= utf8.RuneSelf {
			r, size = utf8.DecodeRuneInString(s[i:])
		}
		b = appendEscape(b, r)
		i += size
		start = i
	}
	return append(append(b, s[start:]...), '"')
}

// eight is the first eight bytes of s in a word.
func eight(s string) uint64 {
	_ = s[7]
	return uint64(s[0]) | uint64(s[1])<<8 | uint64(s[2])<<16 | uint64(s[3])<<24 |
		uint64(s[4])<<32 | uint64(s[5])<<40 | uint64(s[6])<<48 | uint64(s[7])<<56
}

// unplain marks the lowest of eight bytes that is not written as it is, by its
// highest bit: what special marks, and what is above '~'.
func unplain(x uint64) uint64 {
	const lo, hi = 0x0101010101010101, 0x8080808080808080
	return special(x) | (x|(x+lo))&hi
}

// letters are what some characters are escaped as.
var letters = [utf8.RuneSelf]byte{'"': '"', '\\': '\\', '\n': 'n', '\r': 'r', '\t': 't', '\b': 'b', '\f': 'f'}

func appendEscape(b []byte, r rune) []byte {
	if r < utf8.RuneSelf && letters[r] != 0 {
		return append(b, '\\', letters[r])
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

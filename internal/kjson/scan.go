// Package kjson reads and writes JSON as Kombu does: Python's json module with
// its defaults (", " and ": " between members, ASCII only, NaN and Infinity),
// and Kombu's tags for dates, bytes and UUIDs (wire: envelope.md section 3).
package kjson

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/gombu/gombu/driver"
)

// MaxDepth bounds nesting, both ways.
const MaxDepth = 128

// A Scanner reads JSON as Python's json module does (so NaN and Infinity too).
// Its error sticks: after the first one every method returns zero values, and
// err is looked at once, at the end.
type Scanner struct {
	B     []byte
	I     int
	depth int
	Err   error

	// Strings are cut from one copy of b[base:], made when the first is
	// wanted: one allocation for all the short texts behind the body.
	text string
	base int
}

// shareMax is how much of the input one string may keep alive.
const shareMax = 4 << 10

func (s *Scanner) Fail(why string) {
	if s.Err == nil {
		s.Err = fmt.Errorf("%s at byte %d", why, s.I)
	}
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *Scanner) Peek() byte {
	for ; s.I < len(s.B); s.I++ {
		switch c := s.B[s.I]; c {
		case ' ', '\n', '\r', '\t':
		default:
			return c
		}
	}
	return 0
}

// open enters an object or array; false when there is none.
func (s *Scanner) Open(c byte) bool {
	if s.Err != nil || s.Peek() != c {
		s.Fail(fmt.Sprintf("want %q", c))
		return false
	}
	if s.depth++; s.depth > MaxDepth {
		s.Fail("nested too deeply")
		return false
	}
	s.I++
	return true
}

// more says whether another member follows; it consumes the comma before it
// or the closing byte.
func (s *Scanner) More(end byte, first bool) bool {
	if s.Err != nil {
		return false
	}
	switch c := s.Peek(); {
	case c == end:
		s.I++
		s.depth--
		return false
	case first:
		return true
	case c == ',':
		s.I++
		return true
	}
	s.Fail(fmt.Sprintf("want ',' or %q", end))
	return false
}

// key reads a member's name and the colon. The bytes are valid until b changes.
func (s *Scanner) Key() []byte {
	k := s.Bytes()
	if s.Err == nil && s.Peek() != ':' {
		s.Fail("want ':'")
		return nil
	}
	s.I++
	return k
}

// special says whether one of eight bytes is a quote, a backslash or a control
// character.
func special(x uint64) bool {
	const lo, hi = 0x0101010101010101, 0x8080808080808080
	q, s := x^lo*'"', x^lo*'\\'
	return ((x-lo*0x20)&^x|(q-lo)&^q|(s-lo)&^s)&hi != 0
}

// span reads a string and returns where its text stands, quotes excluded.
func (s *Scanner) span() (from, to int, escaped bool) {
	if s.Err != nil || s.Peek() != '"' {
		s.Fail("want a string")
		return 0, 0, false
	}
	s.I++
	from = s.I
	for {
		for s.I+8 <= len(s.B) && !special(binary.LittleEndian.Uint64(s.B[s.I:])) {
			s.I += 8
		}
		if s.I >= len(s.B) {
			s.Fail("unfinished string")
			return 0, 0, false
		}
		switch c := s.B[s.I]; {
		case c == '"':
			s.I++
			return from, s.I - 1, escaped
		case c == '\\':
			escaped = true
			s.I++
		case c < ' ':
			s.Fail("control character in a string")
			return 0, 0, false
		}
		s.I++
	}
}

// bytes reads a string; the result may point into b.
func (s *Scanner) Bytes() []byte {
	from, to, escaped := s.span()
	if !escaped {
		return s.B[from:to]
	}
	return s.unescape(s.B[from:to])
}

func (s *Scanner) String() string {
	from, to, escaped := s.span()
	switch {
	case escaped:
		return string(s.unescape(s.B[from:to]))
	case from == to:
		return ""
	case s.text != "" && from >= s.base && to <= s.base+len(s.text):
		return s.text[from-s.base : to-s.base]
	case s.text == "" && len(s.B)-from <= shareMax:
		s.base, s.text = from, string(s.B[from:])
		return s.text[:to-from]
	}
	return string(s.B[from:to])
}

func (s *Scanner) unescape(in []byte) []byte {
	out := make([]byte, 0, len(in))
	for i := 0; i < len(in); {
		if in[i] != '\\' {
			out = append(out, in[i])
			i++
			continue
		}
		if i+1 >= len(in) {
			s.Fail("bad escape")
			return nil
		}
		c := in[i+1]
		i += 2
		switch c {
		case '"', '\\', '/':
			out = append(out, c)
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, n := unit(in[i:]), 4
			if r < 0 {
				s.Fail("bad \\u escape")
				return nil
			}
			if utf16.IsSurrogate(r) {
				r, n = surrogate(r, in[i:])
			}
			out = utf8.AppendRune(out, r)
			i += n
		default:
			s.Fail("bad escape")
			return nil
		}
	}
	return out
}

// unit reads four hex digits, -1 when they are none.
func unit(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	n, err := strconv.ParseUint(string(b[:4]), 16, 16)
	if err != nil {
		return -1
	}
	return rune(n)
}

// surrogate joins hi with the escape that follows; alone it is U+FFFD.
func surrogate(hi rune, in []byte) (rune, int) {
	if len(in) >= 10 && in[4] == '\\' && in[5] == 'u' {
		if r := utf16.DecodeRune(hi, unit(in[6:])); r != utf8.RuneError {
			return r, 10
		}
	}
	return utf8.RuneError, 4
}

// word consumes a literal.
func (s *Scanner) Word(w string) bool {
	if len(s.B)-s.I < len(w) || string(s.B[s.I:s.I+len(w)]) != w {
		s.Fail("want a value")
		return false
	}
	s.I += len(w)
	return true
}

// value reads any value: nil, bool, int64 (json.Number when it does not fit),
// float64, string, []any, driver.Headers; of Kombu's tags time.Time and
// []byte. Tags without a Go type here stay tables, so that they are written
// back as they were.
func (s *Scanner) Value() any {
	if s.Err != nil {
		return nil
	}
	switch s.Peek() {
	case '"':
		return s.String()
	case '{':
		return Untag(s.Table())
	case '[':
		list := []any{}
		if s.Open('[') {
			for first := true; s.More(']', first); first = false {
				list = append(list, s.Value())
			}
		}
		return list
	case 't':
		return s.Word("true")
	case 'f':
		return !s.Word("false")
	case 'n':
		s.Word("null")
		return nil
	case 'N':
		s.Word("NaN")
		return math.NaN()
	case 'I':
		s.Word("Infinity")
		return math.Inf(1)
	}
	return s.Number()
}

// table reads an object; of equal keys the last value wins, in the first's
// place, as in a Python dict.
func (s *Scanner) Table() driver.Headers {
	if !s.Open('{') {
		return nil
	}
	var (
		h    = driver.Headers{}
		seen map[string]int // only for long tables: a scan of short ones is faster
	)
	for first := true; s.More('}', first); first = false {
		key := s.memberName()
		v := s.Value()
		at := -1
		if seen == nil {
			for i := range h {
				if h[i].Key == key {
					at = i
				}
			}
			if len(h) == 32 {
				seen = make(map[string]int, 64)
				for i := range h {
					seen[h[i].Key] = i
				}
			}
		} else if i, ok := seen[key]; ok {
			at = i
		}
		if at >= 0 {
			h[at].Value = v
			continue
		}
		if seen != nil {
			seen[key] = len(h)
		}
		h = append(h, driver.Header{Key: key, Value: v})
	}
	return h
}

func (s *Scanner) memberName() string {
	k := s.String()
	if s.Err == nil && s.Peek() != ':' {
		s.Fail("want ':'")
	}
	s.I++
	return k
}

// number reads by JSON's grammar.
func (s *Scanner) Number() any {
	start, whole := s.I, true
	if s.I < len(s.B) && s.B[s.I] == '-' {
		s.I++
		if s.I < len(s.B) && s.B[s.I] == 'I' {
			s.Word("Infinity")
			return math.Inf(-1)
		}
	}
	lead := s.I
	if n := s.run(); n == 0 || n > 1 && s.B[lead] == '0' {
		s.Fail("want a value")
		return nil
	}
	if s.I < len(s.B) && s.B[s.I] == '.' {
		whole = false
		s.I++
		if s.run() == 0 {
			s.Fail("bad number")
			return nil
		}
	}
	if s.I < len(s.B) && s.B[s.I]|0x20 == 'e' {
		whole = false
		if s.I++; s.I < len(s.B) && (s.B[s.I] == '+' || s.B[s.I] == '-') {
			s.I++
		}
		if s.run() == 0 {
			s.Fail("bad number")
			return nil
		}
	}
	text := string(s.B[start:s.I])
	if !whole {
		f, _ := strconv.ParseFloat(text, 64) // out of range is infinite, as in Python
		return f
	}
	if n, err := strconv.ParseInt(text, 10, 64); err == nil {
		return n
	}
	return json.Number(text)
}

// run consumes digits and returns their number.
func (s *Scanner) run() int {
	start := s.I
	for s.I < len(s.B) && s.B[s.I] >= '0' && s.B[s.I] <= '9' {
		s.I++
	}
	return s.I - start
}

// Untag turns a tagged table into the value it stands for.
func Untag(h driver.Headers) any {
	if len(h) != 2 {
		return h
	}
	kind, _ := h.Get("__type__").(string)
	text, ok := h.Get("__value__").(string)
	if !ok {
		return h
	}
	switch kind {
	case "bytes":
		return []byte(text)
	case "base64":
		if b, err := base64.StdEncoding.DecodeString(text); err == nil {
			return b
		}
	case "datetime":
		if t, ok := ParseTime(text); ok {
			return t
		}
	}
	return h
}

// ParseTime reads an isoformat datetime; one without a zone is in Naive.
func ParseTime(text string) (time.Time, bool) {
	for _, layout := range [...]string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05-07:00:00"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	t, err := time.ParseInLocation("2006-01-02T15:04:05", text, Naive)
	return t, err == nil
}

package kombu

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

// A scanner reads JSON as Python's json module does (so NaN and Infinity too).
// Its error sticks: after the first one every method returns zero values, and
// err is looked at once, at the end.
type scanner struct {
	b     []byte
	i     int
	depth int
	err   error

	// Strings are cut from one copy of b[base:], made when the first is
	// wanted: one allocation for all the short texts behind the body.
	text string
	base int
}

// shareMax is how much of the input one string may keep alive.
const shareMax = 4 << 10

func (s *scanner) fail(why string) {
	if s.err == nil {
		s.err = undecodable(fmt.Sprintf("%s at byte %d", why, s.i))
	}
}

// peek skips white space and returns the next byte, 0 at the end.
func (s *scanner) peek() byte {
	for ; s.i < len(s.b); s.i++ {
		switch c := s.b[s.i]; c {
		case ' ', '\n', '\r', '\t':
		default:
			return c
		}
	}
	return 0
}

// open enters an object or array; false when there is none.
func (s *scanner) open(c byte) bool {
	if s.err != nil || s.peek() != c {
		s.fail(fmt.Sprintf("want %q", c))
		return false
	}
	if s.depth++; s.depth > maxDepth {
		s.fail("nested too deeply")
		return false
	}
	s.i++
	return true
}

// more says whether another member follows; it consumes the comma before it
// or the closing byte.
func (s *scanner) more(end byte, first bool) bool {
	if s.err != nil {
		return false
	}
	switch c := s.peek(); {
	case c == end:
		s.i++
		s.depth--
		return false
	case first:
		return true
	case c == ',':
		s.i++
		return true
	}
	s.fail(fmt.Sprintf("want ',' or %q", end))
	return false
}

// key reads a member's name and the colon. The bytes are valid until b changes.
func (s *scanner) key() []byte {
	k := s.bytes()
	if s.err == nil && s.peek() != ':' {
		s.fail("want ':'")
		return nil
	}
	s.i++
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
func (s *scanner) span() (from, to int, escaped bool) {
	if s.err != nil || s.peek() != '"' {
		s.fail("want a string")
		return 0, 0, false
	}
	s.i++
	from = s.i
	for {
		for s.i+8 <= len(s.b) && !special(binary.LittleEndian.Uint64(s.b[s.i:])) {
			s.i += 8
		}
		if s.i >= len(s.b) {
			s.fail("unfinished string")
			return 0, 0, false
		}
		switch c := s.b[s.i]; {
		case c == '"':
			s.i++
			return from, s.i - 1, escaped
		case c == '\\':
			escaped = true
			s.i++
		case c < ' ':
			s.fail("control character in a string")
			return 0, 0, false
		}
		s.i++
	}
}

// bytes reads a string; the result may point into b.
func (s *scanner) bytes() []byte {
	from, to, escaped := s.span()
	if !escaped {
		return s.b[from:to]
	}
	return s.unescape(s.b[from:to])
}

func (s *scanner) string() string {
	from, to, escaped := s.span()
	switch {
	case escaped:
		return string(s.unescape(s.b[from:to]))
	case from == to:
		return ""
	case s.text != "" && from >= s.base && to <= s.base+len(s.text):
		return s.text[from-s.base : to-s.base]
	case s.text == "" && len(s.b)-from <= shareMax:
		s.base, s.text = from, string(s.b[from:])
		return s.text[:to-from]
	}
	return string(s.b[from:to])
}

func (s *scanner) unescape(in []byte) []byte {
	out := make([]byte, 0, len(in))
	for i := 0; i < len(in); {
		if in[i] != '\\' {
			out = append(out, in[i])
			i++
			continue
		}
		if i+1 >= len(in) {
			s.fail("bad escape")
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
				s.fail("bad \\u escape")
				return nil
			}
			if utf16.IsSurrogate(r) {
				r, n = surrogate(r, in[i:])
			}
			out = utf8.AppendRune(out, r)
			i += n
		default:
			s.fail("bad escape")
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
func (s *scanner) word(w string) bool {
	if len(s.b)-s.i < len(w) || string(s.b[s.i:s.i+len(w)]) != w {
		s.fail("want a value")
		return false
	}
	s.i += len(w)
	return true
}

// value reads any value: nil, bool, int64 (json.Number when it does not fit),
// float64, string, []any, driver.Headers; of Kombu's tags time.Time and
// []byte. Tags without a Go type here stay tables, so that they are written
// back as they were.
func (s *scanner) value() any {
	if s.err != nil {
		return nil
	}
	switch s.peek() {
	case '"':
		return s.string()
	case '{':
		return untag(s.table())
	case '[':
		list := []any{}
		if s.open('[') {
			for first := true; s.more(']', first); first = false {
				list = append(list, s.value())
			}
		}
		return list
	case 't':
		return s.word("true")
	case 'f':
		return !s.word("false")
	case 'n':
		s.word("null")
		return nil
	case 'N':
		s.word("NaN")
		return math.NaN()
	case 'I':
		s.word("Infinity")
		return math.Inf(1)
	}
	return s.number()
}

// table reads an object; of equal keys the last value wins, in the first's
// place, as in a Python dict.
func (s *scanner) table() driver.Headers {
	if !s.open('{') {
		return nil
	}
	var (
		h    = driver.Headers{}
		seen map[string]int // only for long tables: a scan of short ones is faster
	)
	for first := true; s.more('}', first); first = false {
		key := s.memberName()
		v := s.value()
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

func (s *scanner) memberName() string {
	k := s.string()
	if s.err == nil && s.peek() != ':' {
		s.fail("want ':'")
	}
	s.i++
	return k
}

// number reads by JSON's grammar.
func (s *scanner) number() any {
	start, whole := s.i, true
	if s.i < len(s.b) && s.b[s.i] == '-' {
		s.i++
		if s.i < len(s.b) && s.b[s.i] == 'I' {
			s.word("Infinity")
			return math.Inf(-1)
		}
	}
	lead := s.i
	if n := s.run(); n == 0 || n > 1 && s.b[lead] == '0' {
		s.fail("want a value")
		return nil
	}
	if s.i < len(s.b) && s.b[s.i] == '.' {
		whole = false
		s.i++
		if s.run() == 0 {
			s.fail("bad number")
			return nil
		}
	}
	if s.i < len(s.b) && s.b[s.i]|0x20 == 'e' {
		whole = false
		if s.i++; s.i < len(s.b) && (s.b[s.i] == '+' || s.b[s.i] == '-') {
			s.i++
		}
		if s.run() == 0 {
			s.fail("bad number")
			return nil
		}
	}
	text := string(s.b[start:s.i])
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
func (s *scanner) run() int {
	start := s.i
	for s.i < len(s.b) && s.b[s.i] >= '0' && s.b[s.i] <= '9' {
		s.i++
	}
	return s.i - start
}

// untag turns a tagged table into the value it stands for.
func untag(h driver.Headers) any {
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
		if t, ok := parseTime(text); ok {
			return t
		}
	}
	return h
}

func parseTime(text string) (time.Time, bool) {
	for _, layout := range [...]string{"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05-07:00:00"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t, true
		}
	}
	t, err := time.ParseInLocation("2006-01-02T15:04:05", text, naive)
	return t, err == nil
}

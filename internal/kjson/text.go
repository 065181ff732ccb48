package kjson

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"unicode/utf16"
	"unicode/utf8"
)

// Short strings are cut from copies of the input, so that one allocation does
// for many: a string of at most shortMax bytes keeps up to shareMax alive.
const (
	shareMax = 1 << 10
	shortMax = shareMax / 8
)

// special marks the lowest of eight bytes that is a quote, a backslash or a
// control character, by its highest bit; 0 when there is none.
func special(x uint64) uint64 {
	const lo, hi = 0x0101010101010101, 0x8080808080808080
	q, s := x^lo*'"', x^lo*'\\'
	return ((x-lo*0x20)&^x | (q-lo)&^q | (s-lo)&^s) & hi
}

// span reads a string and returns where its text stands, quotes excluded.
func (s *Scanner) span() (from, to int, escaped bool) {
	if s.Err != nil || s.Peek() != '"' {
		s.Fail("want a string")
		return 0, 0, false
	}
	b, i := s.B, s.I+1
	from = i
	for {
		for i+8 <= len(b) {
			if m := special(binary.LittleEndian.Uint64(b[i:])); m != 0 {
				i += bits.TrailingZeros64(m) / 8
				break
			}
			i += 8
		}
		if i >= len(b) {
			s.I = len(b)
			s.Fail("unfinished string")
			return 0, 0, false
		}
		switch c := b[i]; {
		case c == '"':
			s.I = i + 1
			return from, i, escaped
		case c == '\\':
			escaped = true
			i++
		case c < ' ':
			s.I = i
			s.Fail("control character in a string")
			return 0, 0, false
		}
		i++
	}
}

// Bytes reads a string; the result may point into B.
func (s *Scanner) Bytes() []byte {
	from, to, escaped := s.span()
	if !escaped {
		return s.B[from:to]
	}
	return s.unescape(make([]byte, 0, to-from), s.B[from:to])
}

// String reads a string; the result never points into B.
func (s *Scanner) String() string {
	from, to, escaped := s.span()
	switch {
	case escaped:
		s.scratch = s.unescape(slices.Grow(s.scratch[:0], to-from), s.B[from:to])
		return string(s.scratch)
	case to-from > shortMax:
		return string(s.B[from:to])
	case from == to:
		return ""
	case from < s.base || to > s.base+len(s.text):
		s.base, s.text = from, string(s.B[from:min(len(s.B), from+shareMax)])
	}
	return s.text[from-s.base : to-s.base]
}

// plainEscapes are the escapes of one letter.
var plainEscapes = [256]byte{'"': '"', '\\': '\\', '/': '/', 'b': '\b', 'f': '\f', 'n': '\n', 'r': '\r', 't': '\t'}

// unescape appends in to out, with its escapes undone.
func (s *Scanner) unescape(out, in []byte) []byte {
	for {
		if len(in) == 0 || in[0] != '\\' {
			at := bytes.IndexByte(in, '\\')
			if at < 0 {
				return append(out, in...)
			}
			out = append(out, in[:at]...)
			in = in[at:]
		}
		c := in[1] // span has seen it
		in = in[2:]
		if plain := plainEscapes[c]; plain != 0 {
			out = append(out, plain)
			continue
		}
		r, n := rune(-1), 4
		if c == 'u' {
			r = unit(in)
		}
		if r < 0 {
			s.Fail("bad escape")
			return out
		}
		if utf16.IsSurrogate(r) {
			r, n = surrogate(r, in)
		}
		out = utf8.AppendRune(out, r)
		in = in[n:]
	}
}

// hexDigits are the values of hex digits; of other bytes 0xff.
var hexDigits = func() (t [256]byte) {
	for i := range t {
		t[i] = 0xff
	}
	for i := range byte(16) {
		t[digits[i]] = i
		t["0123456789ABCDEF"[i]] = i
	}
	return t
}()

// unit reads four hex digits, -1 when they are none.
func unit(b []byte) rune {
	if len(b) < 4 {
		return -1
	}
	h0, h1, h2, h3 := hexDigits[b[0]], hexDigits[b[1]], hexDigits[b[2]], hexDigits[b[3]]
	if h0|h1|h2|h3 > 15 {
		return -1
	}
	return rune(h0)<<12 | rune(h1)<<8 | rune(h2)<<4 | rune(h3)
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

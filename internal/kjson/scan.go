// Package kjson reads and writes JSON as Kombu does: Python's json module with
// its defaults (", " and ": " between members, ASCII only, NaN and Infinity),
// and Kombu's tags for dates, bytes and UUIDs (wire: envelope.md section 3).
package kjson

import "fmt"

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

	text    string // a copy of B from base on, from which short strings are cut
	base    int
	scratch []byte // where escapes are undone
}

// maxScratch is how much room is kept for the next input.
const maxScratch = 64 << 10

// Reset makes s read b; only its room for escapes is kept.
func (s *Scanner) Reset(b []byte) {
	*s = Scanner{B: b, scratch: s.scratch[:0]}
	if cap(s.scratch) > maxScratch {
		s.scratch = nil
	}
}

// Fail sets Err, unless there is one.
func (s *Scanner) Fail(why string) {
	if s.Err == nil {
		s.Err = fmt.Errorf("%s at byte %d", why, s.I)
	}
}

// Peek skips white space and returns the next byte, 0 at the end.
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

// Open enters an object or array; false when there is none.
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

// More says whether another member follows; it consumes the comma before it
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

// Key reads a member's name and the colon. The bytes are valid until B changes.
func (s *Scanner) Key() []byte {
	k := s.Bytes()
	if s.Err == nil && s.Peek() != ':' {
		s.Fail("want ':'")
		return nil
	}
	s.I++
	return k
}

// Word consumes a literal.
func (s *Scanner) Word(w string) bool {
	if len(s.B)-s.I < len(w) || string(s.B[s.I:s.I+len(w)]) != w {
		s.Fail("want a value")
		return false
	}
	s.I += len(w)
	return true
}

// Skip reads over a value and keeps nothing of it.
func (s *Scanner) Skip() {
	if s.Err != nil {
		return
	}
	switch s.Peek() {
	case '"':
		s.Bytes()
	case '{':
		s.Open('{')
		for first := true; s.More('}', first); first = false {
			s.Key()
			s.Skip()
		}
	case '[':
		s.Open('[')
		for first := true; s.More(']', first); first = false {
			s.Skip()
		}
	case 't':
		s.Word("true")
	case 'f':
		s.Word("false")
	case 'n':
		s.Word("null")
	default:
		s.Digits()
	}
}

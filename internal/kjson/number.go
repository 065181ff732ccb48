package kjson

import (
	"encoding/json"
	"strconv"
)

// Digits reads a number by JSON's grammar and returns its text, which points
// into B; whole says that it has neither fraction nor exponent. Python's NaN,
// Infinity and -Infinity are numbers too, and not whole.
func (s *Scanner) Digits() (text []byte, whole bool) {
	if s.Err != nil {
		return nil, false
	}
	s.Peek()
	start, b := s.I, s.B
	i := start
	if i < len(b) && b[i] == '-' {
		i++
	}
	lead := i
	for i < len(b) && b[i]-'0' < 10 {
		i++
	}
	if i == lead {
		return s.beyond(i), false
	}
	if i > lead+1 && b[lead] == '0' {
		s.Fail("want a value")
		return nil, false
	}
	whole = true
	if i < len(b) && (b[i] == '.' || b[i]|0x20 == 'e') {
		whole = false
		if i = fraction(b, i); i < 0 {
			s.Fail("bad number")
			return nil, false
		}
	}
	s.I = i
	return b[start:i], whole
}

// fraction returns where the fraction and the exponent at b[i:] end, -1 when
// they lack digits.
func fraction(b []byte, i int) int {
	run := func() bool {
		start := i
		for i < len(b) && b[i]-'0' < 10 {
			i++
		}
		return i > start
	}
	if b[i] == '.' {
		if i++; !run() {
			return -1
		}
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		if i++; i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		if !run() {
			return -1
		}
	}
	return i
}

// beyond reads what Python writes for a number that JSON has not; its sign, if
// any, stands before b[i].
func (s *Scanner) beyond(i int) []byte {
	start := s.I
	switch {
	case i < len(s.B) && s.B[i] == 'I':
		s.I = i
		s.Word("Infinity")
	case i == start:
		s.Word("NaN")
	default:
		s.Fail("want a value")
	}
	if s.Err != nil {
		return nil
	}
	return s.B[start:s.I]
}

// Number reads a number: int64, json.Number when it does not fit, float64 when
// it is not whole. One out of range is infinite, as in Python.
func (s *Scanner) Number() any {
	text, whole := s.Digits()
	if s.Err != nil {
		return nil
	}
	if !whole {
		f, _ := strconv.ParseFloat(string(text), 64)
		return f
	}
	if n, ok := Int(text); ok {
		return n
	}
	return json.Number(text)
}

// Int is the value of a whole number's text; false when it does not fit.
func Int(text []byte) (int64, bool) {
	digits, negative := text, false
	if len(digits) > 0 && digits[0] == '-' {
		digits, negative = digits[1:], true
	}
	if len(digits) > 18 { // may not fit, so with more care
		n, err := strconv.ParseInt(string(text), 10, 64)
		return n, err == nil
	}
	var n int64
	for _, c := range digits {
		n = n*10 + int64(c-'0')
	}
	if negative {
		n = -n
	}
	return n, true
}

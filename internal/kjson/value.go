package kjson

import (
	"encoding/base64"
	"time"

	"github.com/gombu/gombu/driver"
)

// Value reads any value: nil, bool, int64 (json.Number when it does not fit),
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
	}
	return s.Number()
}

// Table reads an object; of equal keys the last value wins, in the first's
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
		key := s.Name()
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

// Name reads a member's name and the colon.
func (s *Scanner) Name() string {
	k := s.String()
	if s.Err == nil && s.Peek() != ':' {
		s.Fail("want ':'")
	}
	s.I++
	return k
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

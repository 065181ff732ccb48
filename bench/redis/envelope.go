package redis

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
)

// A form writes the envelopes of one queue by hand: all but the body and the
// delivery tag is the same each time. It is for one goroutine.
type form struct {
	middle, end []byte
	tag         [36]byte
	n           uint64
}

func newForm(queue string, raw bool) *form {
	kind, encoding := "application/json", "utf-8"
	if raw {
		kind, encoding = "application/data", "binary"
	}
	f := &form{
		middle: []byte(`", "content-encoding": "` + encoding + `", "content-type": "` + kind +
			`", "headers": {}, "properties": {"delivery_mode": 2, "delivery_info": {"exchange": "", "routing_key": ` + strconv.Quote(queue) +
			`}, "priority": 0, "body_encoding": "base64", "delivery_tag": "`),
		end: []byte(`"}}`),
	}
	f.tag = newTag()
	return f
}

// newTag is a random UUID.
func newTag() (tag [36]byte) {
	var b [16]byte
	_, _ = rand.Read(b[:]) // it never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	hex.Encode(tag[:8], b[:4])
	hex.Encode(tag[9:13], b[4:6])
	hex.Encode(tag[14:18], b[6:8])
	hex.Encode(tag[19:23], b[8:10])
	hex.Encode(tag[24:], b[10:])
	tag[8], tag[13], tag[18], tag[23] = '-', '-', '-', '-'
	return tag
}

// size is the length of an envelope.
func (f *form) size(body []byte) int {
	return len(`{"body": "`) + base64.StdEncoding.EncodedLen(len(body)) + len(f.middle) + len(f.tag) + len(f.end)
}

func (f *form) append(dst, body []byte) []byte {
	dst = append(dst, `{"body": "`...)
	dst = base64.StdEncoding.AppendEncode(dst, body)
	dst = append(dst, f.middle...)
	f.n++ // the last digits count, the first are random
	const digits = "0123456789abcdef"
	for i, n := len(f.tag)-1, f.n; i > 23 && n > 0; i, n = i-1, n>>4 {
		f.tag[i] = digits[n&15]
	}
	dst = append(dst, f.tag[:]...)
	return append(dst, f.end...)
}

var errEnvelope = errors.New("not an envelope that this program reads")

// open finds the body and the delivery tag of an envelope of any order and
// spacing, without escapes in what it needs. The body is appended to dst; the tag
// is raw[from:to].
func open(dst, raw []byte) (body []byte, from, to int, err error) {
	s := scanner{b: raw}
	s.object(func(key []byte) {
		switch string(key) {
		case "body":
			dst, s.err = base64.StdEncoding.AppendDecode(dst, s.text())
		case "properties":
			s.object(func(key []byte) {
				if string(key) == "delivery_tag" {
					from = -len(s.text())
					to = s.i - 1
					from += to
				} else {
					s.skip()
				}
			})
		default:
			s.skip()
		}
	})
	if s.err == nil && to == 0 {
		s.err = errEnvelope
	}
	return dst, from, to, s.err
}

// A scanner walks over JSON.
type scanner struct {
	b   []byte
	i   int
	err error
}

func (s *scanner) next() byte {
	for s.i < len(s.b) {
		switch c := s.b[s.i]; c {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) take(c byte) bool {
	if s.err == nil && s.next() != c {
		s.err = errEnvelope
	}
	s.i++
	return s.err == nil
}

func (s *scanner) text() []byte {
	if !s.take('"') {
		return nil
	}
	for at := s.i; s.i < len(s.b); s.i++ {
		switch s.b[s.i] {
		case '\\':
			s.err = errEnvelope
			return nil
		case '"':
			s.i++
			return s.b[at : s.i-1]
		}
	}
	s.err = errEnvelope
	return nil
}

func (s *scanner) object(field func(key []byte)) {
	for open := byte('{'); s.take(open); open = ',' {
		if open == '{' && s.next() == '}' {
			break
		}
		key := s.text()
		if !s.take(':') {
			return
		}
		field(key)
		if s.err != nil || s.next() == '}' {
			break
		}
	}
	s.i++
}

// skip passes over one value.
func (s *scanner) skip() {
	for depth := 0; s.err == nil; {
		switch s.next() {
		case 0:
			s.err = errEnvelope
		case '"':
			s.text()
		case '{', '[':
			depth++
			s.i++
			continue
		case '}', ']':
			depth--
			s.i++
		case ',', ':':
			s.i++
			continue
		default: // a number or a name
			for s.i < len(s.b) && s.b[s.i] != ',' && s.b[s.i] != '}' && s.b[s.i] != ']' && s.b[s.i] != ' ' {
				s.i++
			}
		}
		if depth == 0 {
			return
		}
	}
}

// A plain is the envelope as a Go program that is in no hurry has it.
type plain struct {
	Body            string         `json:"body"`
	ContentEncoding string         `json:"content-encoding"`
	ContentType     string         `json:"content-type"`
	Headers         map[string]any `json:"headers"`
	Properties      properties     `json:"properties"`
}

type properties struct {
	DeliveryMode int    `json:"delivery_mode"`
	DeliveryInfo info   `json:"delivery_info"`
	Priority     int    `json:"priority"`
	BodyEncoding string `json:"body_encoding"`
	DeliveryTag  string `json:"delivery_tag"`
}

type info struct {
	Exchange   string `json:"exchange"`
	RoutingKey string `json:"routing_key"`
}

// plainEnvelope writes an envelope with encoding/json.
func plainEnvelope(queue string, raw bool, body []byte) ([]byte, error) {
	tag := newTag()
	e := plain{
		Body: base64.StdEncoding.EncodeToString(body), ContentEncoding: "utf-8", ContentType: "application/json", Headers: map[string]any{},
		Properties: properties{2, info{"", queue}, 0, "base64", string(tag[:])},
	}
	if raw {
		e.ContentEncoding, e.ContentType = "binary", "application/data"
	}
	return json.Marshal(e)
}

// plainOpen reads an envelope with encoding/json.
func plainOpen(raw []byte) (body []byte, tag string, err error) {
	var e plain
	if err := json.Unmarshal(raw, &e); err != nil {
		return nil, "", err
	}
	body, err = base64.StdEncoding.DecodeString(e.Body)
	return body, e.Properties.DeliveryTag, err
}

// entry appends what Kombu keeps of a delivery in unacked.
func entry(dst, envelope []byte, queue string) []byte {
	dst = append(append(dst, '['), envelope...)
	dst = append(dst, `, "", `...)
	return append(strconv.AppendQuote(dst, queue), ']')
}

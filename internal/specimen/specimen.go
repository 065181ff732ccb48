// Package specimen has what codecs and envelopes are measured with: the same for
// the micro-benchmarks beside them and for the bench module.
package specimen

import (
	"strconv"
	"strings"

	"github.com/gombu/gombu/driver"
)

const size = 16 << 10

// Kinds are the kinds of JSON that Body knows.
var Kinds = []string{"string", "fields", "escapes", "numbers"}

// Body returns 16 KiB of JSON: one long string, a list of small objects, a string
// of escapes, or a list of numbers. It panics when there is no such kind.
func Body(kind string) []byte {
	switch kind {
	case "string":
		return note("The quick brown fox jumps over the lazy dog; ")
	case "escapes":
		return note(`l\u00e4ngst \"da\"\n\ud83d\ude00 `)
	case "fields":
		return list("[", "]", func(i int) string {
			return `{"id": ` + strconv.Itoa(i) + `, "name": "user` + strconv.Itoa(i) + `", "active": true, "score": 0.5, "city": "Oslo"}`
		})
	case "numbers":
		return list(`{"values": [`, "]}", func(i int) string {
			if i%2 == 0 {
				return strconv.Itoa(i * 7919)
			}
			return strconv.FormatFloat(float64(i)*1.0625+1e-3, 'g', -1, 64)
		})
	}
	panic("specimen: no body of kind " + kind)
}

func note(text string) []byte {
	return []byte(`{"id": 7, "kind": "note", "at": 1700000000.25, "ok": true, "text": "` + strings.Repeat(text, size/len(text)) + `"}`)
}

func list(open, end string, part func(i int) string) []byte {
	var b strings.Builder
	b.WriteString(open)
	for i := 0; b.Len() < size-64; i++ {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(part(i))
	}
	return []byte(b.String() + end)
}

// Tag is the delivery tag of Message's envelope.
const Tag = "00000000-0000-4000-8000-000000000001"

// Message returns a message with a body of so many bytes.
func Message(bytes int) *driver.Outgoing {
	m := driver.Outgoing{Exchange: "media", Key: "video.new", Body: make([]byte, bytes)}
	m.Props.ContentType, m.Props.ContentEncoding, m.Props.MessageID = "application/json", "utf-8", "0b2f5f7e-1111-4222-8333-444444444444"
	return &m
}

// An Envelope is Kombu's, as encoding/json and its like need it to read and write
// the same.
type Envelope struct {
	Body            []byte         `json:"body"`
	ContentEncoding string         `json:"content-encoding"`
	ContentType     string         `json:"content-type"`
	Headers         map[string]any `json:"headers"`
	Properties      struct {
		MessageID    string `json:"message_id"`
		DeliveryMode int    `json:"delivery_mode"`
		DeliveryInfo struct {
			Exchange   string `json:"exchange"`
			RoutingKey string `json:"routing_key"`
		} `json:"delivery_info"`
		Priority     int    `json:"priority"`
		BodyEncoding string `json:"body_encoding"`
		DeliveryTag  string `json:"delivery_tag"`
	} `json:"properties"`
}

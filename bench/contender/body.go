package contender

import (
	"encoding/json"
	"strings"
)

// A Body is what every message carries: five fields, of which one fills it up
// to its size, as a user's task or event would be.
type Body struct {
	ID      string  `json:"id"`
	Seq     int64   `json:"seq"`
	Sent    int64   `json:"sent"` // nanoseconds, for Latency
	Price   float64 `json:"price"`
	Payload string  `json:"payload"`
}

const bodyFrame = len(`{"id": "0123456789abcdef", "seq": 1000000, "sent": 1700000000000000000, "price": 19.5, "payload": ""}`)

// NewBody returns a body whose JSON has about size bytes.
func NewBody(size int) Body {
	return Body{ID: "0123456789abcdef", Seq: 1_000_000, Sent: 1_700_000_000_000_000_000, Price: 19.5,
		Payload: strings.Repeat("The quick brown fox jumps over the lazy dog. ", size/45+1)[:max(0, size-bodyFrame)]}
}

// JSON is the text of such a body, for those that send bytes.
func JSON(size int) []byte {
	text, err := json.Marshal(NewBody(size))
	if err != nil {
		panic(err) // there is nothing in it that could fail
	}
	return text
}

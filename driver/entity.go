package driver

import (
	"bytes"
	"encoding/json"
	"fmt"
	"time"
)

// Exchange types, as AMQP 0-9-1 names them.
const (
	TypeDirect  = "direct"
	TypeTopic   = "topic"
	TypeFanout  = "fanout"
	TypeHeaders = "headers"
)

// DeliveryMode says whether a message survives a broker restart. Zero is
// "unset": the exchange's mode, and persistent where the exchange has none.
// The numbers are AMQP's.
type DeliveryMode uint8

// Delivery modes.
const (
	Transient  DeliveryMode = 1
	Persistent DeliveryMode = 2
)

// An Exchange routes messages to queues. The zero value of every field is the
// safe one: a durable direct exchange that lives until it is deleted.
type Exchange struct {
	Name         string       `json:"name"`
	Type         string       `json:"type,omitempty"` // TypeDirect when empty
	Transient    bool         `json:"transient,omitempty"`
	AutoDelete   bool         `json:"auto_delete,omitempty"`
	Internal     bool         `json:"internal,omitempty"`
	Passive      bool         `json:"passive,omitempty"`       // check that it exists, create nothing
	NoDeclare    bool         `json:"no_declare,omitempty"`    // known to exist: never sent to the broker
	DeliveryMode DeliveryMode `json:"delivery_mode,omitempty"` // of messages that set none
	Alternate    string       `json:"alternate,omitempty"`     // alternate-exchange
	Args         Headers      `json:"args,omitempty"`
}

// A Queue holds messages. The zero value is durable, shared and without limits.
//
// Expires, MessageTTL and the Max fields become AMQP's x- arguments and win
// over the same key in Args; durations are sent in whole milliseconds
// (wire: amqp.md section 2).
//
// A queue with PerSession set gets a fresh broker name each session (Name, a
// dot and a random part); Name stays its handle everywhere in this API.
type Queue struct {
	Name           string        `json:"name"`
	Transient      bool          `json:"transient,omitempty"`
	Exclusive      bool          `json:"exclusive,omitempty"` // implies AutoDelete
	AutoDelete     bool          `json:"auto_delete,omitempty"`
	PerSession     bool          `json:"per_session,omitempty"`
	Passive        bool          `json:"passive,omitempty"`
	NoDeclare      bool          `json:"no_declare,omitempty"`
	Expires        time.Duration `json:"expires,omitempty"`     // ns in JSON; the unused queue goes after this
	MessageTTL     time.Duration `json:"message_ttl,omitempty"` // ns in JSON
	MaxLength      int           `json:"max_length,omitempty"`
	MaxLengthBytes int           `json:"max_length_bytes,omitempty"`
	MaxPriority    uint8         `json:"max_priority,omitempty"`
	Args           Headers       `json:"args,omitempty"`
}

// Arguments returns Args with the x- arguments of the typed limits, which win
// over the same key in Args. Durations are int64 milliseconds.
func (q *Queue) Arguments() Headers {
	args := q.Args
	set := func(key string, on bool, value int64) {
		if on {
			args = args.With(key, value)
		}
	}
	set("x-expires", q.Expires > 0, q.Expires.Milliseconds())
	set("x-message-ttl", q.MessageTTL > 0, q.MessageTTL.Milliseconds())
	set("x-max-length", q.MaxLength > 0, int64(q.MaxLength))
	set("x-max-length-bytes", q.MaxLengthBytes > 0, int64(q.MaxLengthBytes))
	set("x-max-priority", q.MaxPriority > 0, int64(q.MaxPriority))
	return args
}

// A Binding lets messages flow from Exchange to Queue, or to the exchange
// ToExchange; exactly one of the two is set.
type Binding struct {
	Exchange   string  `json:"exchange"`
	Queue      string  `json:"queue,omitempty"`
	ToExchange string  `json:"to_exchange,omitempty"`
	Key        string  `json:"key,omitempty"`
	Args       Headers `json:"args,omitempty"`
}

// Topology is what is declared together, in the order exchanges, queues, bindings.
type Topology struct {
	Exchanges []Exchange `json:"exchanges,omitempty"`
	Queues    []Queue    `json:"queues,omitempty"`
	Bindings  []Binding  `json:"bindings,omitempty"`
}

// QueueInfo is what the broker knows of a queue. A count of -1 is unknown.
type QueueInfo struct {
	Name                                 string
	Ready, Unsettled, Delayed, Consumers int
	Oldest                               time.Duration // age of the oldest ready message; 0: unknown
}

// A Header is one entry of a header table.
type Header struct {
	Key   string
	Value any
}

// Headers is an ordered header or argument table. Values are bool, integers,
// floats, string, []byte, time.Time, nil, []any, Headers or map[string]any;
// a transport that cannot carry another type fails the publish with
// ErrInvalid. It marshals as a JSON object.
//
// The methods never write to the receiver's array: Headers may be shared
// between goroutines as long as nobody assigns to its elements.
type Headers []Header

// Get returns the value under key, nil when there is none.
func (h Headers) Get(key string) any {
	v, _ := h.Lookup(key)
	return v
}

// Lookup returns the value under key and whether it is there.
func (h Headers) Lookup(key string) (any, bool) {
	for i := range h {
		if h[i].Key == key {
			return h[i].Value, true
		}
	}
	return nil, false
}

// With returns a copy in which key has value.
func (h Headers) With(key string, value any) Headers {
	out := make(Headers, len(h), len(h)+1)
	copy(out, h)
	for i := range out {
		if out[i].Key == key {
			out[i].Value = value
			return out
		}
	}
	return append(out, Header{key, value})
}

// Without returns h when key is absent, else a copy without it.
func (h Headers) Without(key string) Headers {
	if _, ok := h.Lookup(key); !ok {
		return h
	}
	out := make(Headers, 0, len(h)-1)
	for _, e := range h {
		if e.Key != key {
			out = append(out, e)
		}
	}
	return out
}

// Map returns the table as a new map; the last of equal keys wins.
func (h Headers) Map() map[string]any {
	m := make(map[string]any, len(h))
	for _, e := range h {
		m[e.Key] = e.Value
	}
	return m
}

// MarshalJSON writes an object with the keys in order.
func (h Headers) MarshalJSON() ([]byte, error) {
	if h == nil {
		return []byte("null"), nil
	}
	var b bytes.Buffer
	b.WriteByte('{')
	for i, e := range h {
		if i > 0 {
			b.WriteByte(',')
		}
		k, err := json.Marshal(e.Key)
		if err != nil {
			return nil, fmt.Errorf("header %q: %w", e.Key, err)
		}
		v, err := json.Marshal(e.Value)
		if err != nil {
			return nil, fmt.Errorf("header %q: %w", e.Key, err)
		}
		b.Write(k)
		b.WriteByte(':')
		b.Write(v)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// UnmarshalJSON reads an object, keeping the order of its keys. Whole numbers
// that fit become int64, other numbers float64; nested objects become Headers.
func (h *Headers) UnmarshalJSON(data []byte) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	v, err := decodeOrdered(d)
	if err != nil {
		return err
	}
	switch v := v.(type) {
	case nil:
		*h = nil
	case Headers:
		*h = v
	default:
		return &Error{Op: "headers", Kind: ErrInvalid, Err: fmt.Errorf("want a JSON object, have %.40s", data)}
	}
	return nil
}

func decodeOrdered(d *json.Decoder) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Number:
		if n, err := t.Int64(); err == nil {
			return n, nil
		}
		return t.Float64()
	case json.Delim:
		if t == '[' {
			list := []any{}
			for d.More() {
				v, err := decodeOrdered(d)
				if err != nil {
					return nil, err
				}
				list = append(list, v)
			}
			_, err := d.Token()
			return list, err
		}
		table := Headers{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			v, err := decodeOrdered(d)
			if err != nil {
				return nil, err
			}
			table = append(table, Header{key.(string), v})
		}
		_, err := d.Token()
		return table, err
	}
	return t, nil
}

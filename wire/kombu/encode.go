package kombu

import (
	"fmt"
	"strconv"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/b64"
	"github.com/gombu/gombu/internal/kjson"
)

// AppendEnvelope appends m as Kombu stores it and returns the longer slice.
// deliveryTag is a text that no other stored copy has, in another queue
// neither. Keys stand in Kombu's order; priority is written as given, delivery
// mode 2 unless m is Transient, an expiration as whole milliseconds in a
// string (a part of one counts as one, a negative one is "0").
//
// The error is ErrInvalid when a header or an extra property has a type that
// JSON and Kombu's tags cannot carry; dst is then returned as it was. It may be
// called from any goroutine and keeps nothing of m.
// Source: envelope.md 1.1 to 1.3.
func AppendEnvelope(dst []byte, m *driver.Outgoing, deliveryTag string) ([]byte, error) {
	p := &m.Props
	b := dst
	if n := len(b) + size(m) + len(deliveryTag); n > cap(b) {
		b = append(make([]byte, 0, max(n, 2*len(b))), b...)
	}
	b = append(b, `{"body": "`...)
	b = b64.AppendEncode(b, m.Body)
	b = append(b, `", "content-encoding": `...)
	b = appendText(b, p.ContentEncoding)
	b = append(b, `, "content-type": `...)
	b = appendText(b, p.ContentType)
	b = append(b, `, "headers": `...)
	b, err := kjson.AppendTable(b, p.Headers, 1)
	if err != nil {
		return dst, invalid("header", err)
	}
	b = append(b, `, "properties": {`...)
	b = appendBasic(b, p)
	if b, err = appendExtra(b, p); err != nil {
		return dst, err
	}
	mode := byte('2')
	if p.DeliveryMode == driver.Transient {
		mode = '1'
	}
	b = append(append(b, `"delivery_mode": `...), mode)
	if p.Expiration != 0 {
		b = append(b, `, "expiration": "`...)
		b = strconv.AppendInt(b, milliseconds(p.Expiration), 10)
		b = append(b, '"')
	}
	b = append(b, `, "delivery_info": {"exchange": `...)
	b = kjson.AppendString(b, m.Exchange)
	b = append(b, `, "routing_key": `...)
	b = kjson.AppendString(b, m.Key)
	b = append(b, `}, "priority": `...)
	b = strconv.AppendUint(b, uint64(p.Priority), 10)
	b = append(b, `, "body_encoding": "base64", "delivery_tag": `...)
	b = kjson.AppendString(b, deliveryTag)
	return append(b, `}}`...), nil
}

// size is about how long the envelope of m gets, so that it is made in one
// piece; only header values that are long make it longer.
func size(m *driver.Outgoing) int {
	p := &m.Props
	const keys, member = 256, 48
	return keys + b64.EncodedLen(len(m.Body)) + len(m.Exchange) + len(m.Key) + len(p.ContentType) + len(p.MessageID) +
		len(p.CorrelationID) + len(p.ReplyTo) + len(p.Type) + len(p.AppID) + len(p.UserID) + member*(len(p.Headers)+len(p.Extra)+2)
}

// milliseconds rounds up, so that a short life does not become none at all.
func milliseconds(d time.Duration) int64 {
	if d < 0 {
		return 0
	}
	return int64((d + time.Millisecond - 1) / time.Millisecond)
}

// appendBasic writes the properties that Kombu's publish takes as keywords,
// in the order of AMQP users' habit, which is that of the golden samples.
func appendBasic(b []byte, p *driver.Properties) []byte {
	for _, f := range [...]struct{ name, value string }{
		{`"correlation_id": `, p.CorrelationID}, {`"reply_to": `, p.ReplyTo}, {`"message_id": `, p.MessageID},
	} {
		b = appendProperty(b, f.name, f.value)
	}
	if !p.Timestamp.IsZero() {
		b = append(b, `"timestamp": `...)
		b = strconv.AppendInt(b, p.Timestamp.Unix(), 10)
		b = append(b, `, `...)
	}
	for _, f := range [...]struct{ name, value string }{
		{`"type": `, p.Type}, {`"app_id": `, p.AppID}, {`"user_id": `, p.UserID},
	} {
		b = appendProperty(b, f.name, f.value)
	}
	return b
}

func appendProperty(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	b = kjson.AppendString(append(b, name...), value)
	return append(b, `, `...)
}

// appendExtra writes the properties of other names, each followed by a comma.
// One that a typed field has written, or that the encoder owns, is left out.
func appendExtra(b []byte, p *driver.Properties) ([]byte, error) {
	var err error
	for i := range p.Extra {
		e := &p.Extra[i]
		if taken(e.Key, p) {
			continue
		}
		b = append(kjson.AppendString(b, e.Key), `: `...)
		if b, err = kjson.AppendValue(b, e.Value, 2); err != nil {
			return b, invalid(fmt.Sprintf("property %q", e.Key), err)
		}
		b = append(b, `, `...)
	}
	return b, nil
}

func taken(key string, p *driver.Properties) bool {
	switch key {
	case "delivery_mode", "delivery_info", "delivery_tag", "priority", "body_encoding":
		return true
	case "expiration":
		return p.Expiration != 0
	case "correlation_id":
		return p.CorrelationID != ""
	case "reply_to":
		return p.ReplyTo != ""
	case "message_id":
		return p.MessageID != ""
	case "timestamp":
		return !p.Timestamp.IsZero()
	case "type":
		return p.Type != ""
	case "app_id":
		return p.AppID != ""
	case "user_id":
		return p.UserID != ""
	}
	return false
}

// appendText is AppendString with Kombu's null for nothing.
func appendText(b []byte, s string) []byte {
	if s == "" {
		return append(b, `null`...)
	}
	return kjson.AppendString(b, s)
}

func invalid(what string, err error) error {
	return &driver.Error{Op: "encode envelope", Entity: what, Kind: driver.ErrInvalid, Err: err}
}

// AppendRetagged appends an envelope that AppendEnvelope wrote under the tag
// old, with tag in its place: a copy for a further queue. Both are plain texts
// (ASCII without quotes and backslashes).
func AppendRetagged(dst, envelope []byte, old, tag string) []byte {
	const end = len(`"}}`)
	at := len(envelope) - end - len(old)
	dst = append(dst, envelope[:at]...)
	dst = append(dst, tag...)
	return append(dst, envelope[at+len(old):]...)
}

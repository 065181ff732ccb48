package kombu

import (
	"encoding/base64"
	"strconv"
	"time"

	"github.com/gombu/gombu/driver"
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
	b := append(dst, `{"body": "`...)
	b = base64.StdEncoding.AppendEncode(b, m.Body)
	b = append(b, `", "content-encoding": `...)
	b = appendText(b, p.ContentEncoding)
	b = append(b, `, "content-type": `...)
	b = appendText(b, p.ContentType)
	b = append(b, `, "headers": `...)
	b, err := appendTable(b, p.Headers, 1)
	if err != nil {
		return dst, err
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
	b = appendString(b, m.Exchange)
	b = append(b, `, "routing_key": `...)
	b = appendString(b, m.Key)
	b = append(b, `}, "priority": `...)
	b = strconv.AppendUint(b, uint64(p.Priority), 10)
	b = append(b, `, "body_encoding": "base64", "delivery_tag": `...)
	b = appendString(b, deliveryTag)
	return append(b, `}}`...), nil
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
	b = appendString(append(b, name...), value)
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
		b = append(appendString(b, e.Key), `: `...)
		if b, err = appendValue(b, e.Value, 2); err != nil {
			return b, inTable("property", e.Key, err)
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

package kombu

import (
	"encoding/base64"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gombu/gombu/driver"
)

// Decode reads an envelope into in: Exchange, Key, Props and Body are set anew,
// Redelivered and Attempt only when the envelope tells, the rest is left alone.
// Nothing of raw is kept. It may be called from any goroutine.
//
// Any white space and key order will do; unknown properties land in
// Props.Extra. An error is ErrUndecodable and says why (no JSON, no properties
// or delivery_info, a body that its body_encoding does not fit); then only
// Tag, Queue and ConsumerTag are set.
// Source: envelope.md sections 1 and 3.
func Decode(raw []byte, in *driver.Incoming) error {
	d := decoder{scanner: scanner{b: raw}, in: in}
	in.Exchange, in.Key, in.Props, in.Body = "", "", driver.Properties{}, nil
	d.envelope()
	if d.err != nil {
		*in = driver.Incoming{Tag: in.Tag, Queue: in.Queue, ConsumerTag: in.ConsumerTag}
	}
	return d.err
}

type decoder struct {
	scanner
	in *driver.Incoming

	body                    []byte // armoured, points into b
	encoding                string
	hasProperties, hasRoute bool
}

func (d *decoder) envelope() {
	if !utf8.Valid(d.b) {
		d.fail("not UTF-8")
	}
	if !d.open('{') {
		return
	}
	in := d.in
	for first := true; d.more('}', first); first = false {
		switch key := d.key(); string(key) {
		case "body":
			d.readBody()
		case "content-type":
			in.Props.ContentType = d.textOrNull()
		case "content-encoding":
			in.Props.ContentEncoding = d.textOrNull()
		case "headers":
			d.headers()
		case "properties":
			d.properties()
		case "redelivered":
			d.redelivered()
		case TryKey:
			if n, ok := d.value().(int64); ok && n >= 0 && n < math.MaxInt32 {
				in.Attempt, in.Redelivered = int(n)+1, true
			}
		default:
			d.value()
		}
	}
	if d.peek() != 0 || d.i < len(d.b) {
		d.fail("text behind the envelope")
	}
	switch {
	case d.err != nil:
	case !d.hasProperties:
		d.err = undecodable("no properties")
	case !d.hasRoute:
		d.err = undecodable("no delivery_info")
	default:
		d.armour()
	}
}

// textOrNull reads a string; of anything else nothing.
func (d *decoder) textOrNull() string {
	if d.peek() == '"' {
		return d.string()
	}
	d.value()
	return ""
}

// redelivered reads a flag and returns whether it was true.
func (d *decoder) redelivered() bool {
	yes, _ := d.value().(bool)
	d.in.Redelivered = d.in.Redelivered || yes
	return yes
}

func (d *decoder) readBody() {
	d.body = nil
	switch d.peek() {
	case '"':
		d.body = d.bytes()
	case '{': // body_encoding utf-8 writes a Python bytes object tagged (1.6)
		b, ok := untag(d.table()).([]byte)
		if !ok {
			d.fail("the body is an object without a type that is known")
		}
		d.body = b
	default:
		if d.value() != nil {
			d.fail("the body is no text")
		}
	}
}

// armour takes off body_encoding: only now is it known.
func (d *decoder) armour() {
	switch {
	case len(d.body) == 0:
	case d.encoding == "base64":
		out := make([]byte, base64.StdEncoding.DecodedLen(len(d.body)))
		n, err := base64.StdEncoding.Decode(out, d.body)
		if err != nil {
			d.err = undecodable("the body is not base64: " + err.Error())
			return
		}
		d.in.Body = out[:n]
	case d.encoding == "" || strings.EqualFold(d.encoding, "utf-8"):
		d.in.Body = append([]byte(nil), d.body...)
	default:
		d.err = undecodable(fmt.Sprintf("unknown body_encoding %.40q", d.encoding))
	}
}

func (d *decoder) headers() {
	if d.peek() != '{' {
		d.in.Props.Headers = nil
		if d.value() != nil {
			d.fail("the headers are no object")
		}
		return
	}
	h := d.table()
	if yes, _ := h.Get("redelivered").(bool); yes {
		// Kombu's restore puts it there; a copy published onward must not look
		// redelivered itself.
		h, d.in.Redelivered = h.Without("redelivered"), true
	}
	if len(h) == 0 {
		h = nil
	}
	d.in.Props.Headers = h
}

func (d *decoder) properties() {
	if !d.open('{') {
		return
	}
	d.hasProperties = true
	p := &d.in.Props
	for first := true; d.more('}', first); first = false {
		switch key := d.key(); string(key) {
		case "correlation_id":
			d.property("correlation_id", &p.CorrelationID)
		case "reply_to":
			d.property("reply_to", &p.ReplyTo)
		case "message_id":
			d.property("message_id", &p.MessageID)
		case "type":
			d.property("type", &p.Type)
		case "app_id":
			d.property("app_id", &p.AppID)
		case "user_id":
			d.property("user_id", &p.UserID)
		case "timestamp":
			d.timestamp()
		case "expiration":
			d.expiration()
		case "priority":
			p.Priority = clamp(d.value())
		case "delivery_mode":
			if n, _ := d.value().(int64); n == 1 || n == 2 {
				p.DeliveryMode = driver.DeliveryMode(n)
			}
		case "body_encoding":
			d.bodyEncoding()
		case "delivery_tag": // claims have ids of their own
			d.textOrNull()
		case "delivery_info":
			d.deliveryInfo()
		default:
			name := string(key)
			d.extra(name, d.value())
		}
	}
}

// property reads a text; another value is kept as an extra property.
func (d *decoder) property(name string, dst *string) {
	if d.peek() == '"' {
		*dst = d.string()
	} else if v := d.value(); v != nil {
		d.extra(name, v)
	}
}

func (d *decoder) extra(name string, v any) {
	p := &d.in.Props
	if _, twice := p.Extra.Lookup(name); twice {
		p.Extra = p.Extra.With(name, v)
		return
	}
	if len(p.Extra) >= maxExtra {
		d.fail("too many properties")
		return
	}
	p.Extra = append(p.Extra, driver.Header{Key: name, Value: v})
}

// maxExtra bounds the properties of other names, which are searched in order.
const maxExtra = 1000

func (d *decoder) timestamp() {
	switch v := d.value().(type) {
	case nil:
	case int64:
		d.in.Props.Timestamp = time.Unix(v, 0).UTC()
	case time.Time:
		d.in.Props.Timestamp = v
	default:
		d.extra("timestamp", v)
	}
}

// expiration is milliseconds in a string; 0 means at once.
func (d *decoder) expiration() {
	v := d.value()
	ms, ok := whole(v)
	switch {
	case v == nil:
	case !ok || ms > math.MaxInt64/int64(time.Millisecond):
		d.extra("expiration", v)
	case ms <= 0:
		d.in.Props.Expiration = -time.Millisecond
	default:
		d.in.Props.Expiration = time.Duration(ms) * time.Millisecond
	}
}

func (d *decoder) bodyEncoding() {
	if d.peek() == '"' {
		d.encoding = d.string()
	} else if d.encoding = ""; d.value() != nil {
		d.fail("body_encoding is no text")
	}
}

func (d *decoder) deliveryInfo() {
	if d.peek() != '{' || !d.open('{') {
		d.value()
		return
	}
	d.hasRoute = true
	for first := true; d.more('}', first); first = false {
		switch key := d.key(); string(key) {
		case "exchange":
			d.in.Exchange = d.textOrNull()
		case "routing_key":
			d.in.Key = d.textOrNull()
		case "redelivered":
			d.redelivered()
		default:
			d.value()
		}
	}
}

// clamp is Kombu's reading of a priority: int(), within 0 to 9, else 0.
func clamp(v any) uint8 {
	n, _ := whole(v)
	return uint8(min(max(n, 0), 9))
}

// whole is Python's int() of a JSON value.
func whole(v any) (int64, bool) {
	switch v := v.(type) {
	case int64:
		return v, true
	case float64:
		if math.Abs(v) < 1<<62 {
			return int64(v), true
		}
	case string:
		n, err := strconv.ParseInt(strings.TrimSpace(v), 10, 64)
		return n, err == nil
	case bool:
		if v {
			return 1, true
		}
		return 0, true
	}
	return 0, false
}

package kombu

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/b64"
	"github.com/gombu/gombu/internal/kjson"
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
	d := decoder{Scanner: kjson.Scanner{B: raw}, in: in}
	in.Exchange, in.Key, in.Props, in.Body = "", "", driver.Properties{}, nil
	d.envelope()
	if d.Err != nil && !errors.Is(d.Err, driver.ErrUndecodable) {
		d.Err = undecodable(d.Err.Error())
	}
	if d.Err != nil {
		*in = driver.Incoming{Tag: in.Tag, Queue: in.Queue, ConsumerTag: in.ConsumerTag}
	}
	return d.Err
}

type decoder struct {
	kjson.Scanner
	in *driver.Incoming

	body                    []byte // armoured, points into b
	encoding                string
	hasProperties, hasRoute bool
}

func (d *decoder) envelope() {
	if !utf8.Valid(d.B) {
		d.Fail("not UTF-8")
	}
	if !d.Open('{') {
		return
	}
	in := d.in
	for first := true; d.More('}', first); first = false {
		switch key := d.Key(); string(key) {
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
			if n, ok := d.Value().(int64); ok && n >= 0 && n < math.MaxInt32 {
				in.Attempt, in.Redelivered = int(n)+1, true
			}
		default:
			d.Value()
		}
	}
	if d.Peek() != 0 || d.I < len(d.B) {
		d.Fail("text behind the envelope")
	}
	switch {
	case d.Err != nil:
	case !d.hasProperties:
		d.Err = undecodable("no properties")
	case !d.hasRoute:
		d.Err = undecodable("no delivery_info")
	default:
		d.armour()
	}
}

// textOrNull reads a string; of anything else nothing.
func (d *decoder) textOrNull() string {
	if d.Peek() == '"' {
		return d.String()
	}
	d.Value()
	return ""
}

// redelivered reads a flag and returns whether it was true.
func (d *decoder) redelivered() bool {
	yes, _ := d.Value().(bool)
	d.in.Redelivered = d.in.Redelivered || yes
	return yes
}

func (d *decoder) readBody() {
	d.body = nil
	switch d.Peek() {
	case '"':
		d.body = d.Bytes()
	case '{': // body_encoding utf-8 writes a Python bytes object tagged (1.6)
		b, ok := kjson.Untag(d.Table()).([]byte)
		if !ok {
			d.Fail("the body is an object without a type that is known")
		}
		d.body = b
	default:
		if d.Value() != nil {
			d.Fail("the body is no text")
		}
	}
}

// armour takes off body_encoding: only now is it known.
func (d *decoder) armour() {
	switch {
	case len(d.body) == 0:
	case d.encoding == "base64":
		body, err := b64.Decode(d.body)
		if err != nil {
			d.Err = undecodable("the body is not base64: " + err.Error())
			return
		}
		d.in.Body = body
	case d.encoding == "" || strings.EqualFold(d.encoding, "utf-8"):
		d.in.Body = append([]byte(nil), d.body...)
	default:
		d.Err = undecodable(fmt.Sprintf("unknown body_encoding %.40q", d.encoding))
	}
}

func (d *decoder) headers() {
	if d.Peek() != '{' {
		d.in.Props.Headers = nil
		if d.Value() != nil {
			d.Fail("the headers are no object")
		}
		return
	}
	h := d.Table()
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
	if !d.Open('{') {
		return
	}
	d.hasProperties = true
	p := &d.in.Props
	for first := true; d.More('}', first); first = false {
		switch key := d.Key(); string(key) {
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
			p.Priority = clamp(d.Value())
		case "delivery_mode":
			if n, _ := d.Value().(int64); n == 1 || n == 2 {
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
			d.extra(name, d.Value())
		}
	}
}

// property reads a text; another value is kept as an extra property.
func (d *decoder) property(name string, dst *string) {
	if d.Peek() == '"' {
		*dst = d.String()
	} else if v := d.Value(); v != nil {
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
		d.Fail("too many properties")
		return
	}
	p.Extra = append(p.Extra, driver.Header{Key: name, Value: v})
}

// maxExtra bounds the properties of other names, which are searched in order.
const maxExtra = 1000

func (d *decoder) timestamp() {
	switch v := d.Value().(type) {
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
	v := d.Value()
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
	if d.Peek() == '"' {
		d.encoding = d.String()
	} else if d.encoding = ""; d.Value() != nil {
		d.Fail("body_encoding is no text")
	}
}

func (d *decoder) deliveryInfo() {
	if d.Peek() != '{' || !d.Open('{') {
		d.Value()
		return
	}
	d.hasRoute = true
	for first := true; d.More('}', first); first = false {
		switch key := d.Key(); string(key) {
		case "exchange":
			d.in.Exchange = d.textOrNull()
		case "routing_key":
			d.in.Key = d.textOrNull()
		case "redelivered":
			d.redelivered()
		default:
			d.Value()
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

package codec

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/gombu/gombu/internal/kjson"
)

// untag turns a tagged object into what it stands for. A tag that nobody knows
// is an error, as in Kombu.
func (r *reader) untag(kind, value any) (any, error) {
	name, _ := kind.(string)
	if f := r.types[name]; f != nil {
		return f(value)
	}
	if name == "uuid" {
		return uuidOf(value)
	}
	text, ok := value.(string)
	if !ok {
		return nil, fmt.Errorf("unknown type %q, or a value that does not fit it", kind)
	}
	switch name {
	case "bytes":
		return []byte(text), nil
	case "base64":
		return base64.StdEncoding.DecodeString(text)
	case "decimal":
		return Decimal(text), nil
	case "time":
		return TimeOfDay(text), nil
	case "date":
		var day Date
		return day, day.UnmarshalText([]byte(text))
	case "datetime":
		return parseDatetime(text)
	}
	return nil, fmt.Errorf("unknown type %q", name)
}

func uuidOf(value any) (any, error) {
	m, _ := value.(map[string]any)
	text, _ := m["hex"].(string)
	var u UUID
	if err := u.UnmarshalText([]byte(text)); err != nil {
		return nil, err
	}
	if v, ok := m["version"].(int64); ok && v >= 1 && v <= 15 { // older senders; Python sets the bits by it
		u[6] = u[6]&0x0f | byte(v)<<4
		u[8] = u[8]&0x3f | 0x80
	}
	return u, nil
}

// parseDatetime reads isoformat, with a space for the T and a Z too.
func parseDatetime(text string) (time.Time, error) {
	if len(text) > 10 && text[10] == ' ' {
		text = text[:10] + "T" + text[11:]
	}
	if t, ok := kjson.ParseTime(text); ok {
		return t, nil
	}
	if t, err := time.ParseInLocation(time.DateOnly, text, Naive); err == nil {
		return t, nil
	}
	return time.Time{}, fmt.Errorf("%q is no datetime", text)
}

// tagged writes v as a tagged object, or plain for a peer without tags.
func (e *jsonEncoder) tagged(b []byte, kind, text string) []byte {
	if e.untagged {
		return kjson.AppendString(b, text)
	}
	b = append(b, `{"__type__": "`...)
	b = append(append(b, kind...), `", "__value__": `...)
	return append(kjson.AppendString(b, text), '}')
}

// special writes the types that have a tag, and only those.
func (e *jsonEncoder) special(b []byte, v any) ([]byte, error) {
	switch v := v.(type) {
	case time.Time:
		if !e.untagged {
			return kjson.AppendTime(b, v)
		}
		return kjson.AppendString(b, oldTime(v)), nil
	case Date:
		if e.untagged {
			return kjson.AppendString(b, v.String()+"T00:00:00"), nil
		}
		return e.tagged(b, "date", v.String()), nil
	case TimeOfDay:
		return e.tagged(b, "time", string(v)), nil
	case Decimal:
		return e.tagged(b, "decimal", string(v)), nil
	case UUID:
		if e.untagged {
			return kjson.AppendString(b, v.String()), nil
		}
		b = append(b, `{"__type__": "uuid", "__value__": {"hex": "`...)
		return append(append(b, strings.ReplaceAll(v.String(), "-", "")...), `"}}`...), nil
	case []byte:
		if e.untagged {
			return b, errors.New("bytes cannot be sent untagged: Kombu up to 5.2 has no form for them")
		}
		return kjson.AppendBytes(b, v), nil
	case json.Number:
		if v == "" {
			v = "0" // as encoding/json
		}
		return kjson.AppendWhole(b, v)
	}
	return b, fmt.Errorf("no tag for a %T", v)
}

// oldTime is what Kombu up to 5.2 writes: UTC as Z, a naive time as it is.
func oldTime(t time.Time) string {
	layout := "2006-01-02T15:04:05"
	if t.Nanosecond() >= 1000 {
		layout += ".000000"
	}
	if t.Location() != Naive {
		layout += "Z07:00"
	}
	return t.Format(layout)
}

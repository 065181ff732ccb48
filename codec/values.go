package codec

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/gombu/gombu/internal/kjson"
)

// Values that Kombu's json has and Go's standard library has not. Decoding a
// body into an any yields them; they can be fields of what is encoded and
// decoded. As JSON of other codecs they are plain strings.
type (
	// Date is a day without a time. The zero value is no valid date.
	Date struct {
		Year  int
		Month time.Month
		Day   int
	}
	// TimeOfDay is Python's time: what its isoformat shows, such as
	// "03:04:05.000006+00:00".
	TimeOfDay string
	// Decimal is an exact decimal number as Python shows it: "1.10", "1E+5", "NaN".
	Decimal string
	// UUID is a UUID of any version.
	UUID [16]byte
)

// Naive is the location of datetimes that were sent without a zone; a time in
// it is sent without one.
var Naive = kjson.Naive

// String is YYYY-MM-DD.
func (d Date) String() string { return fmt.Sprintf("%04d-%02d-%02d", d.Year, d.Month, d.Day) }

// MarshalText is String.
func (d Date) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText reads YYYY-MM-DD, and a datetime's day.
func (d *Date) UnmarshalText(text []byte) error {
	s := string(text)
	if len(s) > 10 && (s[10] == 'T' || s[10] == ' ') {
		s = s[:10]
	}
	t, err := time.Parse(time.DateOnly, s)
	if err != nil {
		return fmt.Errorf("%q is no date", text)
	}
	d.Year, d.Month, d.Day = t.Date()
	return nil
}

// UnmarshalJSON takes a string or a number.
func (d *Decimal) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		s = string(data)
	}
	*d = Decimal(s)
	return nil
}

// String is the form with dashes.
func (u UUID) String() string {
	h := hex.EncodeToString(u[:])
	return strings.Join([]string{h[:8], h[8:12], h[12:16], h[16:20], h[20:]}, "-")
}

// MarshalText is String.
func (u UUID) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// UnmarshalText reads 32 hex digits, with or without dashes.
func (u *UUID) UnmarshalText(text []byte) error {
	b, err := hex.DecodeString(strings.ReplaceAll(string(text), "-", ""))
	if err != nil || len(b) != len(u) {
		return fmt.Errorf("%q is no UUID", text)
	}
	copy(u[:], b)
	return nil
}

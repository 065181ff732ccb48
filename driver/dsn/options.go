package dsn

import (
	"errors"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/near"
)

// Options reads query keys one by one; Finish rejects what is left, so that a
// misspelled option is an error. Not for concurrent use.
type Options struct {
	scheme string
	q      url.Values
	known  []string
	errs   []error
}

// Options starts reading u's query.
func (u *URL) Options() *Options { return &Options{scheme: u.Scheme, q: u.Query} }

func (o *Options) take(key string) (string, bool) {
	o.known = append(o.known, key)
	v, ok := o.q[key]
	if !ok || len(v) == 0 {
		return "", false
	}
	return v[len(v)-1], true
}

func (o *Options) bad(key, value, want string) {
	if secretKey(key) {
		value = "**"
	}
	o.errs = append(o.errs, fmt.Errorf("option %s=%s: want %s", key, value, want))
}

// String sets *dst when key is there.
func (o *Options) String(key string, dst *string) bool {
	v, ok := o.take(key)
	if ok {
		*dst = v
	}
	return ok
}

// Int sets *dst when key is there.
func (o *Options) Int(key string, dst *int) bool {
	v, ok := o.take(key)
	if !ok {
		return false
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		o.bad(key, v, "a whole number")
		return false
	}
	*dst = n
	return true
}

// Bool sets *dst when key is there: 1, true, yes, on and their opposites, in any case.
func (o *Options) Bool(key string, dst *bool) bool {
	v, ok := o.take(key)
	if !ok {
		return false
	}
	switch strings.ToLower(v) {
	case "1", "true", "yes", "on":
		*dst = true
	case "0", "false", "no", "off":
		*dst = false
	default:
		o.bad(key, v, "true or false")
		return false
	}
	return true
}

// Seconds sets *dst when key is there: a number of seconds, as Kombu's options
// are, or a Go duration such as 250ms.
func (o *Options) Seconds(key string, dst *time.Duration) bool {
	v, ok := o.take(key)
	if !ok {
		return false
	}
	if f, err := strconv.ParseFloat(v, 64); err == nil && f >= 0 && f < 1e9 {
		*dst = time.Duration(f * float64(time.Second))
		return true
	}
	d, err := time.ParseDuration(v)
	if err != nil || d < 0 {
		o.bad(key, v, "seconds or a duration such as 250ms")
		return false
	}
	*dst = d
	return true
}

// Enum sets *dst when key is there and one of the values, compared without case.
func (o *Options) Enum(key string, dst *string, values ...string) bool {
	v, ok := o.take(key)
	if !ok {
		return false
	}
	for _, w := range values {
		if strings.EqualFold(v, w) {
			*dst = w
			return true
		}
	}
	o.bad(key, v, "one of "+strings.Join(values, ", "))
	return false
}

// Finish returns the first bad value, or an error for each unknown key that
// names the near ones; nil when all was well.
func (o *Options) Finish() error {
	for _, k := range slices.Sorted(maps.Keys(o.q)) {
		if !slices.Contains(o.known, k) {
			o.errs = append(o.errs, fmt.Errorf("unknown option %q%s", k, near.Hint(k, o.known)))
		}
	}
	if len(o.errs) == 0 {
		return nil
	}
	return invalid(o.scheme+"://", errors.Join(o.errs...))
}

// DialOptions reads the keys that every dialing transport shares:
// connect_timeout, heartbeat (0 turns it off), login_method.
func (o *Options) DialOptions(d *driver.DialConfig) {
	o.Seconds("connect_timeout", &d.ConnectTimeout)
	if o.Seconds("heartbeat", &d.Heartbeat) && d.Heartbeat == 0 {
		d.Heartbeat = -1
	}
	o.Enum("login_method", &d.LoginMethod, "PLAIN", "AMQPLAIN", "EXTERNAL")
}

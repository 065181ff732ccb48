package amqp

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
)

func init() {
	for _, scheme := range []string{"amqp", "amqps", "pyamqp"} {
		dsn.Register(scheme, open)
	}
}

// elsewhere names the options that Kombu's URLs or transport options have and
// that are set in another place here.
var elsewhere = map[string]string{
	"confirm_publish":   "publishing is always confirmed; ProducerConfig.NoConfirm turns that off",
	"confirm_timeout":   "the context given to Publish bounds the wait",
	"read_timeout":      "each call is bounded by its context, a dead link is found by heartbeat",
	"max_retries":       "set Config.Retry",
	"interval_start":    "set Config.Retry",
	"interval_step":     "set Config.Retry",
	"interval_max":      "set Config.Retry",
	"failover_strategy": "several URLs are tried in turn, or in random order with Config.Shuffle",
	"socket_settings":   "set DialConfig.Dial",
	"client_properties": "set DialConfig.ClientProperties",
	"virtual_host":      "it is the path of the URL",
	"insist":            "it has had no effect since AMQP 0-8; leave it out",
}

func open(u *dsn.URL, d driver.DialConfig) (driver.Connector, error) {
	for _, key := range slices.Sorted(maps.Keys(u.Query)) {
		if hint := elsewhere[key]; hint != "" {
			return nil, failure("open", u.Scheme+"://", driver.ErrInvalid, fmt.Errorf("option %s does not belong in the URL: %s", key, hint))
		}
	}
	cfg := Config{
		DialConfig: d,
		Host:       u.Host, Port: u.Port, User: u.User, Password: u.Password,
		VHost:  u.Path,
		UseTLS: u.Scheme == "amqps",
	}
	o := u.Options()
	o.DialOptions(&cfg.DialConfig)
	o.Int("frame_max", &cfg.FrameMax)
	o.Int("channel_max", &cfg.ChannelMax)
	o.Seconds("write_timeout", &cfg.WriteTimeout)
	o.String("management", &cfg.Management)
	o.Bool("ssl", &cfg.UseTLS)
	tlsErr := tlsOptions(o, &cfg, u.Scheme)
	if err := cmp.Or(o.Finish(), tlsErr); err != nil {
		return nil, err
	}
	c := newConnector(cfg)
	if c.err != nil {
		return nil, c.err
	}
	return c, nil
}

// tlsOptions reads Kombu's ssl_ keys into cfg.TLS. Certificates and names are
// verified unless the URL says otherwise.
func tlsOptions(o *dsn.Options, cfg *Config, scheme string) error {
	t, given := o.TLS(cfg.TLS)
	bad := func(text string) error { return failure("open", scheme+"://", driver.ErrInvalid, errors.New(text)) }
	switch {
	case scheme == "amqps" && !cfg.UseTLS:
		return bad("ssl=false contradicts amqps://")
	case given && !cfg.UseTLS:
		return bad("TLS options need amqps:// or ssl=true")
	}
	cfg.TLS = t
	return nil
}

package amqp

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"math"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
)

const version = "0.1.0" // of this library, shown to the broker's operators

// Defaults of Config.
const (
	defaultConnectTimeout = 5 * time.Second
	defaultHeartbeat      = 10 * time.Second
	defaultWriteTimeout   = 10 * time.Second
	defaultFrameMax       = 131072
	defaultChannelMax     = 2047
	minFrameMax           = 4096 // AMQP 0-9-1, section 4.2.3
	maxHeartbeat          = math.MaxUint16 * time.Second
	managementPortOffset  = 10000
)

// Config says how to reach one RabbitMQ. The zero value is guest at
// 127.0.0.1:5672, virtual host "/", without TLS.
type Config struct {
	// DialConfig's heartbeat is rounded up to whole seconds; 0 is 10 s and a
	// negative one is the longest that the protocol knows, 18 hours. Its
	// Password wins over the field below.
	driver.DialConfig
	// Host is a name or an address. Empty and "localhost" are dialed as
	// 127.0.0.1, as Kombu does.
	Host string
	// Port; 0: 5672, and 5671 with UseTLS.
	Port int
	// User and Password, each "guest" when empty.
	User, Password string
	// VHost is the virtual host; empty: "/".
	VHost string
	// UseTLS encrypts the connection, with DialConfig.TLS where that is set.
	UseTLS bool
	// ChannelMax is the number of channels asked for, 0: 2047. The broker may
	// allow fewer; a tenth of what it allows is kept back.
	ChannelMax int
	// FrameMax is the largest frame asked for, in bytes, 0: 131072.
	FrameMax int
	// WriteTimeout is how long the broker may leave a write unread before the
	// session counts as lost, 0: 10 s. It is suspended while the broker says
	// that it is blocked.
	WriteTimeout time.Duration
	// Management is the base URL of the management API, with which queues are
	// listed. Empty: http (https with UseTLS) at the same host and a port that
	// is 10000 above. A user part in it wins over User and Password.
	Management string
}

// New returns a Connector that opens sessions as cfg says. It dials nothing; a
// wrong value in cfg is ErrInvalid at Connect. The Connector is safe for use by
// several goroutines and keeps a copy of cfg.
func New(cfg Config) driver.Connector { return newConnector(cfg) }

type connector struct {
	cfg Config
	err error // of cfg
}

func newConnector(cfg Config) *connector {
	c := &connector{cfg: cfg.withDefaults()}
	c.err = c.cfg.validate()
	return c
}

func (c *connector) Features() driver.Features {
	return driver.Features{
		Types:          []string{driver.TypeDirect, driver.TypeTopic, driver.TypeFanout, driver.TypeHeaders},
		Confirm:        true,
		Mandatory:      true,
		SplitRoles:     true,
		SharedBindings: true,
		Keeps:          []string{driver.KeepsAll},
	}
}

// String is the URL of the broker with the password masked.
// String is the URL, without its password.
func (c Config) String() string { return newConnector(c).String() }

func (c *connector) String() string {
	u := dsn.URL{
		Scheme: "amqp", User: c.cfg.User, Password: c.cfg.Password, HasUser: true,
		Host: c.cfg.Host, Port: c.cfg.Port, Path: c.cfg.VHost, HasPath: true,
	}
	if c.cfg.UseTLS {
		u.Scheme = "amqps"
	}
	return u.String()
}

func (cfg Config) withDefaults() Config {
	cfg.User = cmp.Or(cfg.User, "guest")
	cfg.Password = cmp.Or(cfg.Password, "guest")
	cfg.Host = cmp.Or(cfg.Host, "localhost")
	port := 5672
	if cfg.UseTLS {
		port = 5671
	}
	cfg.Port = cmp.Or(cfg.Port, port)
	cfg.VHost = cmp.Or(cfg.VHost, "/")
	cfg.ChannelMax = cmp.Or(cfg.ChannelMax, defaultChannelMax)
	cfg.FrameMax = cmp.Or(cfg.FrameMax, defaultFrameMax)
	cfg.WriteTimeout = cmp.Or(cfg.WriteTimeout, defaultWriteTimeout)
	cfg.ConnectTimeout = cmp.Or(cfg.ConnectTimeout, defaultConnectTimeout)
	cfg.Heartbeat = cmp.Or(cfg.Heartbeat, defaultHeartbeat)
	cfg.LoginMethod = strings.ToUpper(cmp.Or(cfg.LoginMethod, "PLAIN"))
	return cfg
}

func (cfg *Config) validate() error {
	var errs []error
	check := func(ok bool, format string, args ...any) {
		if !ok {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	check(cfg.Port > 0 && cfg.Port <= math.MaxUint16, "bad port %d: want 1 to 65535", cfg.Port)
	check(cfg.ChannelMax > 1 && cfg.ChannelMax <= math.MaxUint16, "bad channel_max %d: want 2 to 65535", cfg.ChannelMax)
	check(cfg.FrameMax >= minFrameMax && cfg.FrameMax <= math.MaxInt32, "bad frame_max %d: want 4096 or more", cfg.FrameMax)
	check(cfg.ConnectTimeout > 0, "bad connect timeout %v: want more than 0", cfg.ConnectTimeout)
	check(cfg.WriteTimeout > 0, "bad write timeout %v: want more than 0", cfg.WriteTimeout)
	check(cfg.Heartbeat <= maxHeartbeat, "bad heartbeat %v: want at most %v", cfg.Heartbeat, maxHeartbeat)
	check(len(cfg.VHost) <= maxShortstr, "the virtual host's name is longer than %d bytes", maxShortstr)
	switch cfg.LoginMethod {
	case "PLAIN", "AMQPLAIN", "EXTERNAL":
	default:
		check(false, "bad login method %q: want PLAIN, AMQPLAIN or EXTERNAL", cfg.LoginMethod)
	}
	if cfg.Management != "" {
		u, err := url.Parse(cfg.Management)
		check(err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Host != "",
			"bad management address: want http://host:port")
	}
	if _, _, err := fromHeaders(cfg.ClientProperties); err != nil {
		errs = append(errs, fmt.Errorf("client properties: %w", err))
	}
	if len(errs) == 0 {
		return nil
	}
	return failure("open", "", driver.ErrInvalid, errors.Join(errs...))
}

// address is what is dialed.
func (cfg *Config) address() string {
	host := cfg.Host
	if strings.EqualFold(host, "localhost") {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, strconv.Itoa(cfg.Port))
}

// tlsConfig verifies the name that is dialed, whichever alternate that is.
func (cfg *Config) tlsConfig() *tls.Config {
	if cfg.TLS == nil {
		return &tls.Config{ServerName: cfg.Host, MinVersion: tls.VersionTLS12}
	}
	t := cfg.TLS.Clone()
	t.ServerName = cmp.Or(t.ServerName, cfg.Host)
	return t
}

// password is asked for at every dial, so that short-lived tokens work.
func (cfg *Config) password(ctx context.Context) (string, error) {
	if cfg.DialConfig.Password == nil {
		return cfg.Password, nil
	}
	p, err := cfg.DialConfig.Password(ctx)
	if err != nil {
		return "", failure("connect", "", driver.ErrUnavailable, fmt.Errorf("password function: %w", err))
	}
	return p, nil
}

package redis

import (
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
)

// Scheme of plain connections; rediss is the same over TLS.
const Scheme = "redis"

func init() {
	dsn.Register(Scheme, open)
	dsn.Register("rediss", open)
}

func open(u *dsn.URL, d driver.DialConfig) (driver.Connector, error) {
	c, err := FromURL(u, d)
	if err != nil {
		return nil, err
	}
	return New(c)
}

// FromURL reads a URL of wire page redis.md section 7: redis://, rediss:// or
// redis+socket://. Errors are ErrInvalid and name what is wrong; for an option
// of Kombu's that has no meaning here they say what happens instead.
func FromURL(u *dsn.URL, d driver.DialConfig) (Config, error) {
	c := Config{DialConfig: d, User: u.User, Pass: u.Password, Secure: u.Scheme == "rediss"}
	o := u.Options()
	db := u.Path
	if u.Rest != "" {
		path, isSocket := strings.CutPrefix(u.Rest, "socket://")
		path, _, _ = strings.Cut(path, "?")
		path, err := url.PathUnescape(path)
		if !isSocket || err != nil || path == "" {
			return c, invalid(u.String(), errors.New("want redis+socket:///path/of/the.sock"))
		}
		c.Socket = path
		o.String("password", &c.Pass)
		o.String("username", &c.User)
		o.String("virtual_host", &db)
	} else {
		c.Addr = u.Addr("127.0.0.1", 6379)
	}
	if db = strings.TrimPrefix(db, "/"); db != "" {
		n, err := strconv.ParseUint(db, 10, 31)
		if err != nil {
			return c, invalid(u.String(), fmt.Errorf("the path is a database number, not %q", db))
		}
		c.DB = int(n)
	}
	for _, key := range superseded {
		if u.Query.Has(key.name) {
			return c, invalid("option "+key.name, errors.New(key.instead))
		}
	}
	o.DialOptions(&c.DialConfig)
	if err := c.options(o); err != nil {
		return c, err
	}
	if err := c.tlsOptions(o); err != nil {
		return c, err
	}
	return c, o.Finish()
}

// superseded are Kombu's options that this transport has no use for.
var superseded = []struct{ name, instead string }{
	{"unacked_restore_throttle", "the look for overdue messages is part of the one script a second: unacked_restore_interval alone spaces it"},
	{"polling_interval", "waiting does not poll: the server tells of new messages"},
	{"max_connections", "a session has one connection, and one more when it subscribes to a fan-out"},
	{"health_check_interval", "every session is heard of once a second; heartbeat says how long a server may be silent"},
	{"retry_on_timeout", "the connection's supervisor reconnects; a publish that may have arrived is not repeated"},
	{"socket_keepalive", "TCP keep-alive is on, and heartbeat finds a silent server earlier"},
	{"socket_keepalive_options", "TCP keep-alive is on, and heartbeat finds a silent server earlier"},
	{"reauth_check_interval", "a password function is asked at every dial"},
	{"credential_provider", "set Config.Password, a function asked at every dial"},
	{"queue_order_strategy", "the queues of a Consumer are served in turn"},
	{"max_retries", "set Config.Retry"},
	{"interval_start", "set Config.Retry"},
	{"interval_step", "set Config.Retry"},
	{"interval_max", "set Config.Retry"},
	{"connect_retries_timeout", "set Config.Retry"},
	{"failover_strategy", "several URLs are tried in turn, or in random order with Config.Shuffle"},
	{"body_encoding", "bodies are written in base64, and read in any form that Kombu writes"},
	{"deadletter_queue", "an unroutable message is ErrUnroutable; declare an alternate exchange to keep it"},
	{"master_name", "Sentinel is not supported by this version"},
	{"min_other_sentinels", "Sentinel is not supported by this version"},
	{"sentinel_kwargs", "Sentinel is not supported by this version"},
}

func (c *Config) options(o *dsn.Options) error {
	o.String("client_name", &c.ClientName)
	o.Seconds("socket_connect_timeout", &c.ConnectTimeout)
	o.Seconds("socket_timeout", &c.Heartbeat)
	o.String("global_keyprefix", &c.Prefix)
	o.String("sep", &c.Sep)
	o.Bool("priority_high_first", &c.PriorityHighFirst)
	o.String("unacked_key", &c.UnackedKey)
	o.String("unacked_index_key", &c.UnackedIndex)
	o.String("unacked_mutex_key", &c.UnackedMutex)
	o.Seconds("unacked_mutex_expire", &c.MutexExpire)
	o.Seconds("visibility_timeout", &c.VisibilityTimeout)
	o.Seconds("unacked_restore_interval", &c.RestoreInterval)
	o.Int("unacked_restore_limit", &c.RestoreLimit)
	o.Seconds("lease", &c.Lease)
	o.Int("fanout_buffer", &c.FanoutBuffer)

	patterns := true
	o.Bool("fanout_patterns", &patterns)
	c.NoFanoutPatterns = !patterns

	var prefix string
	if o.String("fanout_prefix", &prefix) {
		switch strings.ToLower(prefix) {
		case "true", "1":
		case "false", "0", "":
			c.NoFanoutPrefix = true
		default:
			c.FanoutPrefix = prefix
		}
	}
	mirror, emulation := "", true
	o.Enum("mirror", &mirror, "lazy", "always", "never")
	o.Bool("ack_emulation", &emulation)
	switch {
	case mirror == "always":
		c.Mirror = MirrorAlways
	case mirror == "never" || mirror == "" && !emulation:
		c.Mirror = MirrorNever
	}
	var steps string
	if o.String("priority_steps", &steps) {
		for text := range strings.SplitSeq(strings.Trim(steps, "[]()"), ",") {
			n, err := strconv.Atoi(strings.TrimSpace(text))
			if err != nil {
				return invalid("option priority_steps", fmt.Errorf("want numbers such as 0,3,6,9, not %q", steps))
			}
			c.Steps = append(c.Steps, n)
		}
	}
	return nil
}

// tlsOptions reads Kombu's ssl_ keys. Unlike Kombu's, a rediss URL without
// them verifies the certificate and the host name.
func (c *Config) tlsOptions(o *dsn.Options) error {
	t, given := o.TLS(c.TLS)
	if given && !c.Secure {
		return invalid("ssl_ options", errors.New("want the scheme rediss"))
	}
	c.TLS = t
	return nil
}

func invalid(entity string, err error) error {
	return &driver.Error{Op: "open", Transport: Scheme, Entity: entity, Kind: driver.ErrInvalid, Err: err}
}

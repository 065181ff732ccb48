package redis

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"strconv"
	"strings"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
)

// Scheme of plain connections; rediss is the same over TLS, and with
// SentinelScheme sentinels are asked where the server is. ClusterScheme is a
// Redis Cluster's, rediss+cluster the same over TLS.
const (
	Scheme         = "redis"
	SentinelScheme = "sentinel"
	ClusterScheme  = "redis+cluster"
)

func init() {
	one := func(u *dsn.URL, d driver.DialConfig) (driver.Connector, error) { return open([]*dsn.URL{u}, d) }
	dsn.Register(Scheme, one)
	dsn.Register("rediss", one)
	for _, scheme := range []string{SentinelScheme, ClusterScheme, "rediss+cluster"} {
		dsn.RegisterGroup(scheme, open)
	}
}

func open(us []*dsn.URL, d driver.DialConfig) (driver.Connector, error) {
	c, err := FromURLs(us, d)
	if err != nil {
		return nil, err
	}
	return New(c)
}

// FromURL is FromURLs with one.
func FromURL(u *dsn.URL, d driver.DialConfig) (Config, error) { return FromURLs([]*dsn.URL{u}, d) }

// FromURLs reads URLs of wire page redis.md section 7: redis://, rediss:// or
// redis+socket://, or one sentinel:// for each sentinel, or one redis+cluster://
// for each node to ask, of which any may carry user, password, database and
// options. Errors are ErrInvalid and name what is
// wrong; for an option of Kombu's that has no meaning here they say what
// happens instead.
func FromURLs(us []*dsn.URL, d driver.DialConfig) (Config, error) {
	secure, cluster := us[0].Scheme == "rediss", strings.HasPrefix(us[0].Rest, clusterRest)
	if cluster {
		inner := make([]*dsn.URL, len(us))
		for i, u := range us {
			var err error
			if inner[i], err = dsn.Parse(u.Rest); err != nil {
				return Config{}, err
			}
		}
		us = inner
	}
	u := joined(us)
	c := Config{DialConfig: d, User: u.User, Pass: u.Password, Secure: secure}
	o := u.Options()
	db := u.Path
	if cluster {
		for _, u := range us {
			c.Cluster = append(c.Cluster, u.Addr("127.0.0.1", 6379))
		}
	} else if u.Scheme == SentinelScheme {
		for _, u := range us {
			c.Sentinels = append(c.Sentinels, u.Addr("127.0.0.1", 26379))
		}
		if err := c.sentinelOptions(o); err != nil {
			return c, err
		}
	} else if u.Rest != "" {
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
		if u.Query.Has(key.name) && (key.instead != onlySentinels || len(c.Sentinels) == 0) {
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

// joined is the first URL with what it lacks from the others.
func joined(us []*dsn.URL) *dsn.URL {
	all := *us[0]
	all.Query = maps.Clone(all.Query)
	for _, u := range us[1:] {
		if !all.HasUser {
			all.HasUser, all.User, all.Password = u.HasUser, u.User, u.Password
		}
		if !all.HasPath {
			all.HasPath, all.Path = u.HasPath, u.Path
		}
		for k, v := range u.Query {
			if !all.Query.Has(k) {
				all.Query[k] = v
			}
		}
	}
	return &all
}

// sentinelOptions reads Kombu's transport options of a Sentinel, of which
// sentinel_kwargs is a table in JSON, and ssl, which a sentinel URL has no
// scheme to say.
func (c *Config) sentinelOptions(o *dsn.Options) error {
	var kwargs string
	o.String("master_name", &c.MasterName)
	o.Int("min_other_sentinels", &c.MinOtherSentinels)
	o.Bool("ssl", &c.Secure)
	if o.String("sentinel_kwargs", &kwargs) {
		var table struct {
			Username, Password string
			SSL                bool
		}
		d := json.NewDecoder(strings.NewReader(kwargs))
		d.DisallowUnknownFields()
		if d.Decode(&table) != nil { // its text may hold the password
			return invalid("option sentinel_kwargs", errors.New(`want a table in JSON with username, password and ssl, such as {"password": "…", "ssl": true}`))
		}
		c.SentinelUser, c.SentinelPass, c.SentinelSecure = table.Username, table.Password, table.SSL
	}
	o.String("sentinel_username", &c.SentinelUser)
	o.String("sentinel_password", &c.SentinelPass)
	o.Bool("sentinel_ssl", &c.SentinelSecure)
	return nil
}

const clusterRest = "cluster://"

const onlySentinels = "want the scheme sentinel"

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
	{"master_name", onlySentinels},
	{"min_other_sentinels", onlySentinels},
	{"sentinel_kwargs", onlySentinels},
	{"deadletter_queue", "an unroutable message is ErrUnroutable; declare an alternate exchange to keep it"},
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
	if given && !c.Secure && !c.SentinelSecure {
		return invalid("ssl_ options", errors.New("want the scheme rediss, or with sentinel the option ssl=true"))
	}
	c.TLS = t
	return nil
}

func invalid(entity string, err error) error {
	return &driver.Error{Op: "open", Transport: Scheme, Entity: entity, Kind: driver.ErrInvalid, Err: err}
}

package redis

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gombu/gombu/driver"
)

// Mirror says when claims are copied into Kombu's unacked hash, which is what
// lets a Python peer take over from a Go process that died.
type Mirror uint8

// Ways of mirroring.
const (
	MirrorLazy   Mirror = iota // claims older than a second, once a second
	MirrorAlways               // before Claim returns: at small rates only, each claim disturbs Python's WATCH unacked
	MirrorNever                // Kombu's ack_emulation=False: only Go processes take over
)

// Config of a Redis connector. The zero value is redis://127.0.0.1:6379/0 with
// Kombu's defaults. Every field has a URL key, given in brackets; they are
// Kombu's transport options. Source: wire page redis.md sections 7 and 8.
type Config struct {
	driver.DialConfig

	Addr   string // host:port; empty: 127.0.0.1:6379
	Socket string // path of a unix socket; wins over Addr
	Secure bool   // TLS (rediss://); certificate and host name are verified unless TLS says otherwise
	DB     int    // database number, the URL's path
	User   string // ACL user; empty: default
	// Pass is the password; DialConfig.Password, when set, wins.
	Pass string

	// Sentinels, host:port each, know where the master is that they call
	// MasterName [master_name]; Addr and Socket are not used then. One that
	// knows fewer than MinOtherSentinels [min_other_sentinels] is not believed.
	Sentinels         []string
	MasterName        string
	MinOtherSentinels int
	SentinelUser      string // at the sentinels [sentinel_username, sentinel_kwargs]
	SentinelPass      string // at the sentinels [sentinel_password, sentinel_kwargs]
	SentinelSecure    bool   // TLS to the sentinels [sentinel_ssl, sentinel_kwargs]

	// Cluster is where some nodes of a Redis Cluster listen, host:port each;
	// Addr and Socket are not used then, and DB is 0. Gombu's own form: Kombu
	// has no such transport.
	Cluster []string
	home    string   // of a queue's store within a cluster, and
	cluster *cluster // where it finds its node
	byTurns bool     // of the connections of outlets

	ClientName string // shown by CLIENT LIST; empty: ClientProperties' connection_name, then gombu [client_name]

	Prefix            string // before every key and channel [global_keyprefix]
	Sep               string // parts binding members and priority lists; empty: "\x06\x16" [sep]
	Steps             []int  // ascending, 0 to 9, one list each; nil: 0, 3, 6, 9 [priority_steps]
	PriorityHighFirst bool   // take the highest step first; for fleets without Python [priority_high_first]

	FanoutPrefix     string // of channels, {db} is the database; empty: "/{db}." [fanout_prefix]
	NoFanoutPrefix   bool   // [fanout_prefix=false]
	NoFanoutPatterns bool   // leave the routing key out of channel names [fanout_patterns=false]
	FanoutBuffer     int    // messages kept for a slow subscriber; 0: 1024 [fanout_buffer]

	UnackedKey   string // empty: unacked [unacked_key]
	UnackedIndex string // empty: unacked_index [unacked_index_key]
	UnackedMutex string // empty: unacked_mutex [unacked_mutex_key]

	MutexExpire       time.Duration // of the sweep's lock; 0: 300 s [unacked_mutex_expire]
	VisibilityTimeout time.Duration // Python's claims older than this are restored; 0: 1 h; all peers should agree [visibility_timeout]
	RestoreInterval   time.Duration // between looks for them; 0: 1 s [unacked_restore_interval]
	RestoreLimit      int           // entries per sweep; 0: no limit [unacked_restore_limit]

	known *entities // set by withDefaults, shared by the sessions

	Mirror Mirror        // [mirror=lazy|always|never, ack_emulation=false]
	Lease  time.Duration // a Go process silent for this long loses its claims, even when its connection stands; 0: 30 s, at least 5 s [lease]
}

// Heartbeat of a session that is not told otherwise: how long a server that has
// something to answer may send no byte before the connection is given up.
const defaultHeartbeat = 10 * time.Second

const (
	defaultSep   = "\x06\x16"
	maxPriority  = 9
	minimumLease = 5 * time.Second
)

// withDefaults returns a copy in which nothing is left to be guessed.
func (c Config) withDefaults() (*Config, error) {
	text := func(p *string, v string) {
		if *p == "" {
			*p = v
		}
	}
	span := func(p *time.Duration, v time.Duration) {
		if *p == 0 {
			*p = v
		}
	}
	if len(c.Cluster) == 0 {
		text(&c.Addr, "127.0.0.1:6379")
	}
	if name, ok := c.ClientProperties.Get("connection_name").(string); ok {
		text(&c.ClientName, name)
	}
	text(&c.ClientName, "gombu")
	text(&c.Sep, defaultSep)
	text(&c.UnackedKey, "unacked")
	text(&c.UnackedIndex, "unacked_index")
	text(&c.UnackedMutex, "unacked_mutex")
	text(&c.FanoutPrefix, "/{db}.")
	if c.NoFanoutPrefix {
		c.FanoutPrefix = ""
	}
	c.FanoutPrefix = strings.ReplaceAll(c.FanoutPrefix, "{db}", fmt.Sprint(c.DB))
	if c.Steps == nil {
		c.Steps = []int{0, 3, 6, 9}
	}
	c.Steps, c.Sentinels, c.Cluster = slices.Clone(c.Steps), slices.Clone(c.Sentinels), slices.Clone(c.Cluster)
	if len(c.Cluster) > 0 && c.Mirror == MirrorLazy {
		c.Mirror = MirrorNever // there are no Kombu peers
	}
	if c.FanoutBuffer == 0 {
		c.FanoutBuffer = 1024
	}
	span(&c.ConnectTimeout, 5*time.Second)
	span(&c.Heartbeat, defaultHeartbeat)
	span(&c.MutexExpire, 300*time.Second)
	span(&c.VisibilityTimeout, time.Hour)
	span(&c.RestoreInterval, time.Second)
	span(&c.Lease, 30*time.Second)
	c.known = &entities{queues: map[string]declared{}, bound: map[string]struct{}{}, mine: map[string]map[string]struct{}{}}
	return &c, c.check()
}

func (c *Config) check() error {
	bad := func(option, format string, args ...any) error {
		return &driver.Error{Op: "open", Transport: Scheme, Entity: option, Kind: driver.ErrInvalid, Err: fmt.Errorf(format, args...)}
	}
	switch {
	case c.DB < 0:
		return bad("db", "want a database number, have %d", c.DB)
	case len(c.Steps) == 0 || !slices.IsSorted(c.Steps) || len(slices.Compact(slices.Clone(c.Steps))) != len(c.Steps):
		return bad("priority_steps", "want ascending numbers, have %v", c.Steps)
	case c.Steps[0] < 0 || c.Steps[len(c.Steps)-1] > maxPriority:
		return bad("priority_steps", "want numbers from 0 to 9, have %v", c.Steps)
	case c.FanoutBuffer < 0:
		return bad("fanout_buffer", "want a positive number, have %d", c.FanoutBuffer)
	case c.RestoreLimit < 0:
		return bad("unacked_restore_limit", "want a positive number, have %d", c.RestoreLimit)
	case c.Lease < minimumLease:
		return bad("lease", "want at least %v, have %v: a pause of the collector or of the machine would end it", minimumLease, c.Lease)
	case c.MutexExpire < time.Millisecond || c.VisibilityTimeout < 0 || c.RestoreInterval < 0:
		return bad("", "%w", errors.New("a duration is negative"))
	case strings.ContainsFunc(c.ClientName, func(r rune) bool { return r <= ' ' || r > '~' }):
		return bad("client_name", "want printable ASCII without blanks, have %q", c.ClientName)
	case len(c.Sentinels) > 0 && c.MasterName == "":
		return bad("master_name", "the sentinels need the name of the master")
	case len(c.Sentinels) == 0 && c.MasterName != "":
		return bad("master_name", "want the addresses of sentinels, sentinel://host:26379/db")
	case c.MinOtherSentinels < 0:
		return bad("min_other_sentinels", "want a positive number, have %d", c.MinOtherSentinels)
	case len(c.Cluster) > 0 && (c.DB != 0 || len(c.Sentinels) > 0 || c.Mirror != MirrorNever || strings.Contains(c.Prefix, "{")):
		return bad("cluster", "a cluster has one database, no sentinels, no Kombu peers to mirror for, and no brace may stand in the prefix")
	case c.LoginMethod != "":
		return bad("login_method", "Redis has no login methods: a user and a password")
	}
	return nil
}

// where is the server's address, for people.
func (c *Config) where() string {
	switch {
	case len(c.Sentinels) > 0:
		return c.MasterName
	case c.cluster != nil || c.Addr == "" && len(c.Cluster) > 0:
		return strings.Join(c.Cluster, ",")
	case c.Socket != "":
		return c.Socket
	}
	return c.Addr
}

package redis

import (
	"context"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
	"github.com/gombu/gombu/virtual"
)

// New makes a Connector; it dials nothing. Errors are ErrInvalid.
func New(c Config) (driver.Connector, error) {
	full, err := c.withDefaults()
	if err != nil {
		return nil, err
	}
	return virtual.New(full.engine()), nil
}

// engine is how the virtual engine runs on this transport.
func (c *Config) engine() virtual.Config {
	return virtual.Config{
		Name:      c.name(),
		Transport: Scheme,
		Features:  features,
		Open: func(ctx context.Context, env driver.Env) (virtual.Store, error) {
			if len(c.Cluster) > 0 {
				s, err := connectCluster(ctx, c, env)
				if err != nil {
					return nil, err
				}
				return s, nil
			}
			s, err := connect(ctx, c, env)
			if err != nil {
				return nil, err // not a nil *store in an interface
			}
			return s, nil
		},
	}
}

var features = driver.Features{
	Types:          []string{driver.TypeDirect, driver.TypeTopic, driver.TypeFanout},
	Confirm:        true,
	Mandatory:      true,
	SharedBindings: true,
	SplitRoles:     true, // a lane wants a clean cut, claims outlive a connection
	Keeps:          []string{"priority", "x-expires"},
	MaxBody:        maxText / 4 * 3, // in base64
}

// String is the URL, without its password and options.
func (c Config) String() string { return c.name() }

// name is the URL without secrets and options.
func (c *Config) name() string {
	if several := slices.Concat(c.Sentinels, c.Cluster); len(several) > 0 {
		for i, addr := range several {
			at := *c
			at.Sentinels, at.Cluster, at.Addr, at.Socket = nil, nil, addr, ""
			scheme, rest, _ := strings.Cut(at.name(), "://")
			if len(c.Sentinels) > 0 {
				scheme = SentinelScheme
			} else {
				scheme += "+cluster"
			}
			several[i] = scheme + "://" + rest
		}
		return strings.Join(several, ";")
	}
	u := dsn.URL{Scheme: Scheme, User: c.User, HasUser: c.User != "" || c.Pass != "", Password: c.Pass}
	if c.Secure {
		u.Scheme = "rediss"
	}
	if c.Socket != "" {
		u.Rest = "socket://" + c.Socket + "?virtual_host=" + url.QueryEscape(strconv.Itoa(c.DB))
		return u.String()
	}
	u.Host, u.Path, u.HasPath = c.Addr, strconv.Itoa(c.DB), true
	if host, port, err := splitAddr(c.Addr); err == nil {
		u.Host, u.Port = host, port
	}
	return u.String()
}

func splitAddr(addr string) (string, int, error) {
	host, text, err := net.SplitHostPort(addr)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.Atoi(text)
	return host, port, err
}

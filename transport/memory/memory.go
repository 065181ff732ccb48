package memory

import (
	"context"
	"errors"
	"strconv"
	"sync"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
	"github.com/gombu/gombu/virtual"
)

// Scheme is the URL scheme.
const Scheme = "memory"

func init() { dsn.Register(Scheme, open) }

// Config configures a private broker.
type Config struct {
	// Name is shown in errors and by the Connector's String; no two brokers
	// are one because they have the same.
	Name string
}

// New returns a Connector to a broker of its own; its sessions share it. It
// may be used from any goroutine.
func New(c Config) driver.Connector {
	b := newBroker()
	return virtual.New(virtual.Config{
		Name: Scheme + "://" + c.Name, Transport: Scheme, Sole: true,
		Open: func(context.Context, driver.Env) (virtual.Store, error) { return &session{b: b}, nil },
		Features: driver.Features{
			Confirm: true, Mandatory: true, Inline: true,
			Keeps: []string{
				"exclusive", "auto_delete", "internal", "alternate", "to_exchange", "binding_args", "mandatory_fanout", "priority", "expiration",
				"x-expires", "x-message-ttl", "x-max-length", "x-max-length-bytes", "x-overflow", "x-max-priority",
			},
		},
	})
}

// named are the brokers that a URL can name.
var named struct {
	sync.Mutex
	brokers map[string]driver.Connector
}

func open(u *dsn.URL, _ driver.DialConfig) (driver.Connector, error) {
	if err := u.Options().Finish(); err != nil {
		return nil, err
	}
	if u.Rest != "" {
		return nil, &driver.Error{Op: "open", Transport: Scheme, Entity: u.String(), Kind: driver.ErrInvalid, Err: errors.New("want memory://NAME")}
	}
	name := u.Host
	if u.Port != 0 {
		name += ":" + strconv.Itoa(u.Port)
	}
	if u.Path != "" {
		name += "/" + u.Path
	}
	named.Lock()
	defer named.Unlock()
	if named.brokers == nil {
		named.brokers = map[string]driver.Connector{}
	}
	if named.brokers[name] == nil {
		named.brokers[name] = New(Config{Name: name})
	}
	return named.brokers[name], nil
}

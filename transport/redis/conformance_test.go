package redis

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/drivertest"
	"github.com/gombu/gombu/virtual"
	"github.com/gombu/gombu/virtual/storetest"
)

func TestConformance(t *testing.T) {
	k := &killer{sockets: map[driver.Conn]*sockets{}}
	server := newTester(t)
	k.gone = func(owner string) bool {
		return server.number("ZCOUNT", ownersKey, "-inf", "+inf") > 0 && server.do("ZSCORE", ownersKey, owner).Error() != nil
	}
	drivertest.Run(t, drivertest.Harness{
		New: func(t *testing.T) driver.Connector {
			c := serverConfig(t)
			c.Dial = k.dial
			connector, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			return killable{connector, k}
		},
		Kill:           k.kill,
		Patience:       20 * time.Second,
		ImplicitQueues: true,
		KeepsExtra:     true,
	})
}

func TestClusterConformance(t *testing.T) {
	c := clusterConfig(t)
	k := &killer{sockets: map[driver.Conn]*sockets{}}
	var other *cluster // consumes what the dead one did: in a cluster only such a session looks
	k.gone = func(owner string) bool {
		dead := false
		for key, owners := range clusterKeys(t, c, "*"+ownersKey, "ZRANGE", "0", "-1") {
			if !strings.Contains(owners, owner) {
				continue
			}
			if dead = true; other == nil {
				full, err := c.withDefaults()
				if err == nil {
					other, err = connectCluster(t.Context(), full, driver.Env{Notify: func(driver.Event) {}, Log: slog.New(slog.DiscardHandler)})
				}
				if err != nil {
					t.Fatal(err)
				}
			}
			if _, err := other.ledger(t.Context(), strings.TrimSuffix(key, "}"+ownersKey)[1:]); err != nil {
				t.Fatal(err)
			}
		}
		if !dead && other != nil {
			if err := other.Close(soon(t)); err != nil {
				t.Fatal(err)
			}
			other = nil
		}
		return !dead
	}
	drivertest.Run(t, drivertest.Harness{
		New: func(t *testing.T) driver.Connector {
			c := c
			c.Dial = k.dial
			connector, err := New(c)
			if err != nil {
				t.Fatal(err)
			}
			return killable{connector, k}
		},
		Kill:           k.kill,
		Patience:       20 * time.Second,
		ImplicitQueues: true,
		KeepsExtra:     true,
	})
}

func TestStore(tt *testing.T) {
	t := newTester(tt)
	storetest.Run(tt, storetest.Harness{
		Open: func(*testing.T) virtual.Store {
			s, _ := t.open()
			return s
		},
		ImplicitQueues: true,
	})
}

// killer knows the sockets of every session, to end it as a crash would.
type killer struct {
	gone    func(owner string) bool // another session, which lives, has taken over
	mu      sync.Mutex
	sockets map[driver.Conn]*sockets
}

type sockets struct {
	owner  string
	open   []net.Conn
	killed bool
}

type socketsKey struct{}

// killable marks the context of its sessions' dials.
type killable struct {
	driver.Connector
	k *killer
}

func (c killable) Connect(ctx context.Context, env driver.Env) (driver.Conn, error) {
	s := &sockets{owner: env.Owner}
	conn, err := c.Connector.Connect(context.WithValue(ctx, socketsKey{}, s), env)
	if err == nil {
		c.k.mu.Lock()
		c.k.sockets[conn] = s
		c.k.mu.Unlock()
	}
	return conn, err
}

func (k *killer) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	s, ours := ctx.Value(socketsKey{}).(*sockets)
	if ours {
		k.mu.Lock()
		defer k.mu.Unlock()
		if s.killed {
			return nil, errors.New("its process was killed")
		}
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
	if ours && err == nil {
		s.open = append(s.open, conn)
	}
	return conn, err
}

// kill also waits until another session, which the suite has open, has taken
// over: unlike RabbitMQ's, our claims come back after seconds, and what is
// ready meanwhile is delivered before them.
func (k *killer) kill(t *testing.T, c driver.Conn) {
	k.mu.Lock()
	s := k.sockets[c]
	if s == nil || len(s.open) == 0 {
		t.Fatal("no sockets of this session")
	}
	s.killed = true
	for _, conn := range s.open {
		conn.Close()
	}
	k.mu.Unlock()
	eventually(t, "the claims to be taken over", func() bool { return k.gone(s.owner) })
	k.mu.Lock()
	s.killed = false // it finds out, as a process that was only cut off
	k.mu.Unlock()
}

package virtual

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/gombu/gombu/driver"
)

// Config says how a Store becomes a Connector.
type Config struct {
	// Name is the connection URL with its secrets masked.
	Name string
	// Transport is the scheme shown in errors.
	Transport string
	// Open opens the store of one session. Its errors are Connect's.
	Open func(ctx context.Context, env driver.Env) (Store, error)
	// Features of the transport. Types are the exchange types that may be
	// declared; empty means all four.
	Features driver.Features
	// NewID makes the delivery tags of stored envelopes: texts that never
	// repeat, called from any goroutine. Nil: random UUIDs.
	NewID func() string
	// Sole says that nobody but this Connector uses the store, so that what
	// the engine knows of queues and consumers is all there is to know. Only
	// then does it count consumers, tell a missing queue from an empty one
	// when routing, delete exchanges and queues that delete themselves, and
	// keep x-expires.
	Sole bool
}

// New makes a Connector. Exchanges, bindings and the settings of queues belong
// to it and are shared by all its sessions; it may be used from any goroutine.
func New(c Config) driver.Connector {
	if c.NewID == nil {
		c.NewID = new(uuids).next
	}
	if len(c.Features.Types) == 0 {
		c.Features.Types = []string{driver.TypeDirect, driver.TypeTopic, driver.TypeFanout, driver.TypeHeaders}
	}
	e := &engine{
		Config: c, exchanges: map[string]*exchange{}, queues: map[string]*queue{},
		tables: map[string]*table{},
	}
	e.predeclare()
	return e
}

// engine is the routing state of one Connector. mu guards it; it is never held
// while the store is asked, and no other lock is taken under it.
type engine struct {
	Config

	mu        sync.RWMutex
	exchanges map[string]*exchange
	queues    map[string]*queue
	tables    map[string]*table // compiled shared bindings, by exchange
	bindings  uint64            // made so far; orders them
	passing   int               // queues that end by themselves
	shared    bool              // the store is a Router
}

func (e *engine) Features() driver.Features { return e.Config.Features }

func (e *engine) String() string { return e.Name }

func (e *engine) Connect(ctx context.Context, env driver.Env) (driver.Conn, error) {
	store, err := e.Open(ctx, env)
	if err != nil {
		return nil, err
	}
	c := newConn(ctx, e, store, env)
	e.mu.Lock()
	e.shared = c.router != nil
	e.mu.Unlock()
	if _, ok := store.(Lister); ok {
		return lister{c}, nil
	}
	return c, nil
}

// fail is an error of this transport; why may be empty.
func (e *engine) fail(op, entity string, kind error, why string, args ...any) error {
	err := &driver.Error{Op: op, Transport: e.Transport, Entity: entity, Kind: kind}
	if why != "" {
		err.Err = fmt.Errorf(why, args...)
	}
	return err
}

// receiversOf returns the open receivers of a queue in all sessions that live.
func (e *engine) receiversOf(queue string) []*receiver {
	e.mu.RLock()
	defer e.mu.RUnlock()
	q := e.queues[queue]
	if q == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(q.receivers), func(r *receiver) bool { return r.c.over() })
}

func isNotFound(err error) bool { return errors.Is(err, driver.ErrNotFound) }

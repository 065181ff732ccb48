// Package virtual turns a plain queue store into a driver: exchanges, bindings,
// routing, the message envelope and fair claiming live here once, so that a
// transport need only know how to push, claim and settle.
package virtual

import (
	"context"
	"time"

	"github.com/gombu/gombu/driver"
)

// A Store is named queues of opaque items, seen through one session. A claimed
// item is hidden from everyone else until it is settled, its lease runs out, or
// its Store is closed. Methods may be called from any goroutine; the rules of
// package driver hold (an error per item, no memory kept, ctx honoured).
type Store interface {
	// Create makes the queue; one that exists with other settings is ErrConflict
	// where the store can tell.
	Create(ctx context.Context, q *driver.Queue) error
	// Drop deletes the queue and all it holds; missing is not an error.
	Drop(ctx context.Context, queue string) error
	// Purge drops ready items and returns their number.
	Purge(ctx context.Context, queue string) (int, error)
	// Stat counts; ErrNotFound when the store knows that there is no such queue.
	Stat(ctx context.Context, queue string) (driver.QueueInfo, error)

	// Push adds items in order; Err per item (ErrNotFound: no such queue, where
	// the store can tell). As atomic as Info says. A sender's context never ends:
	// then Push ends with the session at the latest, and the items' memory, which
	// is the caller's again when it returns, may be read until then.
	Push(ctx context.Context, items []Item) error
	// Claim fills dst from r.Wants in their order (the engine rotates them) and
	// returns what there is; it may block up to r.Wait when all are empty, and
	// returns 0, nil then. On ctx's end it returns 0 and the cause, having
	// claimed nothing.
	Claim(ctx context.Context, r ClaimRequest, dst []Claim) (int, error)
	// Settle ends claims; Err per item, ErrLeaseLost for a claim no longer ours.
	// What one batch returns to a queue is given oldest first, and must lie
	// there so that the first of it is next.
	Settle(ctx context.Context, s []Settlement) error

	Info() Info
	// Done is closed when the store's session is over; then Err says why. A nil
	// channel never ends.
	Done() <-chan struct{}
	Err() error
	// Close gives back what is claimed and waits for the store's goroutines.
	Close(ctx context.Context) error
}

// A ClaimRequest says from which queues, and how much at most.
type ClaimRequest struct {
	Wants    []Want
	MaxBytes int           // stop after this many, but take at least one item; 0: no bound
	Lease    time.Duration // 0: until Close or death of the owner
	Wait     time.Duration // 0: do not block
	NoAck    bool          // settled by being claimed
	Again    bool          // another one that waits follows: what is believed to be empty need not be asked for
}

// A Want is one queue and how many items of it.
type Want struct {
	Queue string
	Max   int
}

// Item carries the envelope and, beside it, what a store indexes by.
type Item struct {
	Queue    string
	Priority uint8
	Due      time.Time     // zero: now
	TTL      time.Duration // 0: none; < 0: expired unless claimed at once
	ID       string        // unique per (message, queue); empty unless Info.Bytes
	Raw      []byte        // the envelope, when Info.Bytes
	Msg      *driver.Outgoing
	Err      error // out
}

// A Claim is an item taken. Stores with Info.Bytes return Raw and the engine
// decodes it, so that garbage is one case; others fill Msg.
type Claim struct {
	Queue       string
	Tag         driver.Tag // unique per claim
	Attempt     int        // known starts + 1; 0: unknown (the envelope may say)
	Redelivered bool
	Raw         []byte
	Msg         *driver.Incoming
}

// A Settlement ends one claim. Put is pushed in the same step where Info.Atomic
// says so; other stores push first and settle after. With Verbatim set the
// stored text itself is moved to the queue of that name, unchanged; a store
// without bytes moves its message and adds the headers of Put[0].Msg.
type Settlement struct {
	driver.Settlement
	Put      []Item
	Verbatim string
}

// Info says what a store is like; constant.
type Info struct {
	Bytes       bool // wants Item.Raw
	Atomic      bool // Put and settle, and all items of one Push, are one step
	ClaimQueues int  // how many queues one Claim can serve; 0: any
	Inline      bool // never blocks on a socket; then the store is Atomic, a Watcher and a driver.Counter, and no Leaser
	Queue       driver.QueueFeatures
}

// Optional interfaces of a Store, found by type assertion. Two more are
// driver.Leaser and driver.Counter, with the store's own tags: its receivers
// have these abilities then. With driver.Holder its sessions are Holders.
type (
	// A Router shares bindings between processes.
	Router interface {
		// Bind returns once a publish that starts later, in any process, sees it.
		Bind(ctx context.Context, typ string, b []driver.Binding) error
		Unbind(ctx context.Context, typ string, b []driver.Binding) error
		// Table returns an exchange's bindings with a version; since == version
		// returns ok == false quickly, so that routing need not read the set for
		// every publish. It is never staler than a read by a Kombu peer would be.
		Table(ctx context.Context, exchange, since string) (t Table, ok bool, err error)
	}
	// A Broadcaster has native fan-out.
	Broadcaster interface {
		// Broadcast publishes; nobody listening is no error.
		Broadcast(ctx context.Context, exchange, key string, items []Item) error
		// Subscribe returns once the server has the subscription.
		Subscribe(ctx context.Context, c driver.ReceiverConfig, b []driver.Binding) (Subscription, error)
	}
	// An OutletOpener has more than one way to push: without waiting for what others
	// ask of the session, or until replicas, or a disk, have what was pushed.
	OutletOpener interface {
		// OpenOutlet opens a way to push of which c.Replicas and c.Fsync hold. It fails
		// with ErrUnsupported where the server cannot. nil, where nothing is to be
		// waited for: Push is as good.
		OpenOutlet(ctx context.Context, c driver.SenderConfig) (Outlet, error)
	}
	// A Watcher says when there is something to claim, so that nobody waits in Claim.
	Watcher interface {
		// Watch makes a way to claim from one queue. ready is called under no lock.
		Watch(queue string, ready func()) Watch
	}
	// A Lister can name its queues.
	Lister interface {
		Queues(ctx context.Context) ([]driver.QueueInfo, error)
	}
)

// An Outlet is Store.Push that returns when the items are kept as was asked for.
// An item that is in its queue and not kept by its Msg.Until, or within the
// store's own patience, is ErrUncertain and says how many have it. One goroutine
// at a time pushes.
type Outlet interface {
	Push(ctx context.Context, items []Item) error
	Close(ctx context.Context) error
}

// A Watch claims from one queue. One goroutine at a time claims.
type Watch interface {
	// Claim takes what there is into dst, without waiting; Tags are the store's.
	// It stops after maxBytes, but takes at least one item. When it finds the
	// queue empty before dst is full, ready is called once, from any goroutine,
	// maybe before Claim returns: when there is something, or no such queue.
	Claim(dst []driver.Incoming, maxBytes int, noAck bool) (n int, empty bool, err error)
	// Leave says that nobody comes for what ready was called for, or would be:
	// whoever else waits for the queue is told instead. Any goroutine may call it.
	Leave()
}

// A Table is an exchange's shared bindings. Topic is set when a stored pattern
// shows that the exchange is a topic exchange.
type Table struct {
	Version  string
	Topic    bool
	Bindings []driver.Binding
}

// A Subscription receives broadcast messages: no claims, no settling, a bounded
// buffer that drops its oldest (Event Dropped). Raw is as for Claim. After Close
// Receive returns what is buffered, and then an error.
type Subscription interface {
	Receive(ctx context.Context, dst []Claim) (int, error)
	Close(ctx context.Context) error
}

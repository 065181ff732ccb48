// Package driver is the seam between gombu and a broker. Users need it only to
// write a transport; entities, properties and errors that it shares with users
// are exported by the root package as aliases.
//
// Three rules hold for every method:
//
//  1. A batch call reports per item (X.Err). Its own error speaks of the
//     session only, and then every item whose Err is nil and not Done is open.
//  2. No method keeps the caller's memory after it returns. What a method
//     returns belongs to the caller.
//  3. A method returns when ctx is done, whatever the socket does.
package driver

import (
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"time"
)

// A Connector opens sessions with one broker. It dials nothing by itself and
// is safe for use by several goroutines.
type Connector interface {
	// Connect opens one session, which is never revived once it is over: a
	// transport that connects again inside of one keeps every claim and settle
	// good meanwhile. It fails with
	// ErrDenied (credentials), ErrNotFound (virtual host) or ErrInvalid when
	// trying again cannot help, else with ErrUnavailable.
	Connect(ctx context.Context, env Env) (Conn, error)
	// Features of the transport; constant.
	Features() Features
	// String is the URL with its secrets masked.
	String() string
}

// Role says what a session is for.
type Role uint8

// Roles. With Features.SplitRoles the core opens two sessions, because a
// broker that blocks publishers must not stop acks; else one, Both.
const (
	Both    Role = iota
	Publish      // OpenSender only
	Consume      // everything else: declare, inspect, consume, settle
)

// Env is what the core lends to one session.
type Env struct {
	Role   Role
	Epoch  uint64       // number of the session within its Conn and Role, from 1
	Owner  string       // unique per session: liveness record, claim ids
	Notify func(Event)  // never blocks; from any goroutine; never nil
	Log    *slog.Logger // never nil
}

// EventKind is the kind of an Event.
type EventKind uint8

// Events that a session reports through Env.Notify.
const (
	Blocked   EventKind = iota // the broker takes no messages for now; Detail says why
	Unblocked                  // it does again
	Gone                       // the queue Entity vanished or its consumer was cancelled by the broker
	Dropped                    // N fan-out messages were lost to a full local buffer (-1: unknown number)
	Warning                    // something an operator should know; Detail says what
	Connected                  // by the core: a session stands; Detail is the URL, masked
	Lost                       // by the core: the session is over; Detail says why
	Parked                     // by the core: a message of queue Entity went to its dead-letter queue; Detail says why
)

// String is the kind in one word.
func (k EventKind) String() string {
	words := [...]string{"blocked", "unblocked", "gone", "dropped", "warning", "connected", "lost", "parked"}
	if int(k) < len(words) {
		return words[k]
	}
	return "unknown"
}

// An Event is news from a session.
type Event struct {
	Kind           EventKind
	Entity, Detail string
	N              int
}

// A Conn is one session. Its methods may be called from any goroutine.
type Conn interface {
	// Apply runs steps in order. A failing step (Step.Err) fails neither the
	// session nor the steps that do not depend on it.
	Apply(ctx context.Context, steps []Step) error
	// Inspect counts; ErrNotFound when the broker knows that there is no such queue.
	Inspect(ctx context.Context, queue string) (QueueInfo, error)
	// Purge drops the ready messages and returns their number.
	Purge(ctx context.Context, queue string) (int, error)
	// OpenSender opens a publish channel.
	OpenSender(ctx context.Context, c SenderConfig) (Sender, error)
	// OpenReceiver consumes one queue; it returns when the subscription stands.
	OpenReceiver(ctx context.Context, c ReceiverConfig) (Receiver, error)
	// Done is closed when the session is over, whoever ended it; then Err says why.
	Done() <-chan struct{}
	Err() error
	// Close ends the session; by ctx's end its sockets are closed, flushed or
	// not, and its goroutines have returned. Claims still held are given back.
	Close(ctx context.Context) error
}

// A Lister is a Conn that can name the broker's queues.
type Lister interface {
	Queues(ctx context.Context) ([]QueueInfo, error)
}

// A Puller is a Conn that can take single messages at the moment when somebody
// is there to run them: a claim that it gave was in a program's hands, not on
// its way to one. The core needs it to count handler starts where no Counter is.
type Puller interface {
	// OpenPuller opens a receiver without a subscription, which has no prefetch.
	// Its Receive asks the broker once and returns 0, nil when there is nothing;
	// ErrNotFound, of either: no such queue, and the receiver is over. A message
	// that came after ctx's end is the next one received.
	OpenPuller(ctx context.Context, queue string) (Receiver, error)
}

// A Holder is a Conn whose claims others take over when it is not heard of for
// long: it cannot know while its process does not run.
type Holder interface {
	// Hold returns nil, at once, while the claims are certain to be its own; the
	// core calls it before it starts a handler. After a gap it waits until that
	// is known. An error means that nothing is to be started: the session is
	// over, or ctx ended.
	Hold(ctx context.Context) error
}

// Op is what a Step does.
type Op uint8

// Operations of a Step.
const (
	Declare Op = iota // create, or check that it exists as described (ErrConflict)
	Check             // check that it exists (ErrNotFound), create nothing
	Delete            // missing is not an error
)

// A Step declares, checks or deletes one entity.
type Step struct {
	Op                Op
	IfUnused, IfEmpty bool      // with Delete: else ErrConflict
	Exchange          *Exchange // exactly one of the three is set
	Queue             *Queue
	Binding           *Binding
	Err               error // out
}

// A Sender is a publish channel, used by one submitting and one collecting
// goroutine at a time.
type Sender interface {
	// Submit takes batch[:n], in order, into the transport's memory; it waits
	// for room there under ctx, never for the broker. err is about batch[n:],
	// of which nothing was or will be sent. A message whose outcome is known
	// at once (rejected here, or an in-process broker) gets Done and Err in
	// place, counts in n, and yields no Receipt.
	Submit(ctx context.Context, batch []Outgoing) (n int, err error)
	// Outcomes blocks for at least one Receipt. Each submitted message that
	// was not Done gets exactly one, in any order; when the session dies the
	// rest come as ErrUncertain (a byte of it may have reached the socket) or
	// ErrNotSent, and after the last one Outcomes returns 0 and the session's error.
	Outcomes(ctx context.Context, dst []Receipt) (int, error)
	Close(ctx context.Context) error
}

// A TrySubmitter is a Sender that takes what there is room for without waiting,
// so that a publisher may submit on its own goroutine.
type TrySubmitter interface {
	// TrySubmit is Submit without the wait: it takes batch[:n] and does nothing
	// with the rest. Whoever wants to know why submits that.
	TrySubmit(batch []Outgoing) (n int)
}

// A Teller is a Sender that can say what became of messages where it comes to know
// it, so that no other goroutine need wake to hear of it.
type Teller interface {
	// Tell is called once, before anything is submitted, in place of Outcomes: told
	// gets what that would return, receipts or at the end an error, one call at a
	// time, under no lock, from a goroutine of the Sender or, when it is over
	// already, from Tell. It never blocks; the receipts are its own until it returns.
	// The last call is over before Close is.
	Tell(told func([]Receipt, error))
}

// Outgoing is a message on its way out.
type Outgoing struct {
	Seq           uint64 // set by the core, ascending per Sender
	Exchange, Key string
	NoMandatory   bool // true: being routed nowhere is no error
	Props         Properties
	Body          []byte
	Until         time.Time // with SenderConfig.Replicas or Fsync: when its caller gives up; zero: not known
	Done          bool      // out
	Err           error     // out, when Done
}

// A Receipt is the outcome of one submitted message: nil, ErrUnroutable,
// ErrRefused, ErrTooLarge, ErrNotFound (exchange), ErrDenied, ErrNotSent or
// ErrUncertain.
type Receipt struct {
	Seq uint64
	Err error
}

// A Receiver takes from one queue. At most Prefetch deliveries are unsettled,
// those it buffers included. Receive is called by one goroutine at a time;
// Settle and SetPrefetch may run beside it and beside each other.
type Receiver interface {
	// Receive blocks for at least one delivery and fills what is there; its
	// error means that this receiver is over (ErrNotFound: queue deleted or
	// consumer cancelled; else the session's error). On ctx's end it returns
	// 0 and the cause, and the receiver stays usable.
	Receive(ctx context.Context, dst []Incoming) (n int, err error)
	// Settle ends claims. Item errors: ErrLeaseLost when the claim is no longer ours.
	Settle(ctx context.Context, s []Settlement) error
	// SetPrefetch changes the prefetch live, with no redelivery. Zero stops
	// intake at the broker and gives back what was not yet received; what was
	// received can still be settled. Pause, drain, resume and shutdown are
	// this one method.
	SetPrefetch(ctx context.Context, n int) error
	Features() QueueFeatures
	// Close ends the consumer and gives back what is unsettled.
	Close(ctx context.Context) error
}

// Optional interfaces of a Receiver, found by type assertion.
type (
	// A Leaser has claims that expire unless extended. Item errors:
	// ErrLeaseLost for those already lost.
	Leaser interface {
		Extend(ctx context.Context, l []Lease, d time.Duration) error
	}
	// A Counter keeps the number of handler starts where the broker does not.
	// The core calls Begin before a handler only for redelivered messages.
	Counter interface {
		Begin(ctx context.Context, s []Start) error
	}
	// A Mover settles and publishes in one atomic step. Without it the core
	// publishes, waits for the outcome, and acks.
	Mover interface {
		Move(ctx context.Context, m []Move) error
	}
	// A TryReceiver need not be waited for: receiving never blocks on a socket.
	TryReceiver interface {
		// Notify has ready called, from any goroutine and under no lock, when another
		// TryReceive is worth it after one that did not fill dst, maybe before that
		// returns; with the error when the receiver is over. It may be called
		// more often. Notify is called once, before anything is received.
		Notify(ready func(error))
		// TryReceive is Receive without the wait: n may be 0.
		TryReceive(dst []Incoming) (n int, err error)
	}
	// A TrySettler can mostly settle without waiting for anybody, so that whoever
	// has something to settle does it on its own goroutine.
	TrySettler interface {
		// TrySettle is Settle where that needs no waiting: true, and every item has
		// its Err. Where it does, it does nothing: false.
		TrySettle(batch []Settlement) bool
	}
)

// A Lease names a claim to extend.
type Lease struct {
	Tag Tag
	Err error
}

// A Start is a handler start to be counted durably. Moved: the count could
// only be kept by publishing a copy; this delivery must not be run.
type Start struct {
	Tag     Tag
	Attempt int
	Moved   bool
	Err     error
}

// A Move takes the claim Tag out of its queue and publishes To in its stead.
// With Verbatim the message goes, exactly as it is stored, to the queue named
// by To.Key, and the rest of To but its headers is ignored; where the store
// keeps no header table the headers are ignored too.
type Move struct {
	Tag      Tag
	To       Outgoing
	Verbatim bool
	Err      error
}

// A Tag names one claim of one receiver. It is unique per claim, never per
// message: that is the fence.
type Tag struct {
	ID  uint64
	Ref string
}

// Incoming is a delivery. With DecodeErr the stored message was no message:
// only Tag, Queue, Raw and DecodeErr are set.
type Incoming struct {
	Tag           Tag
	Queue         string
	ConsumerTag   string
	Exchange, Key string
	Redelivered   bool
	Attempt       int // starts known so far + 1; 0: unknown
	Props         Properties
	Body          []byte
	Raw           []byte
	DecodeErr     error
}

// Outcome is how a claim ends.
type Outcome uint8

// Outcomes.
const (
	Ack     Outcome = iota
	Requeue         // again, at the head of its queue where the broker can; a failed attempt
	Release         // again; never started, not an attempt
	Delay           // again, after After; only with QueueFeatures.Delay
	Reject          // the broker's own dead-lettering, else dropped
)

// A Settlement ends one claim.
type Settlement struct {
	Tag     Tag
	Outcome Outcome
	After   time.Duration
	Err     error // out
}

// SenderConfig configures a Sender.
type SenderConfig struct {
	Window    int // messages submitted and not yet answered; > 0
	NoConfirm bool
	Replicas  int  // so many replicas must have a message before it is confirmed; fewer in time: ErrUncertain. OpenSender: ErrUnsupported where there are none
	Fsync     bool // and the broker's disk; with Replicas theirs too
}

// ReceiverConfig configures a Receiver.
type ReceiverConfig struct {
	Queue     string
	Prefetch  int // > 0
	NoAck     bool
	Exclusive bool
	Priority  int
	Tag       string        // consumer tag wanted; empty: the transport's choice
	Lease     time.Duration // 0: the transport's default
	Args      Headers
}

// Properties are AMQP 0-9-1's basic properties (section 1.8.1). Zero values
// are the safe ones.
type Properties struct {
	ContentType     string        `json:"content_type,omitempty"`
	ContentEncoding string        `json:"content_encoding,omitempty"`
	MessageID       string        `json:"message_id,omitempty"`
	CorrelationID   string        `json:"correlation_id,omitempty"`
	ReplyTo         string        `json:"reply_to,omitempty"`
	Type            string        `json:"type,omitempty"`
	AppID           string        `json:"app_id,omitempty"`
	UserID          string        `json:"user_id,omitempty"`
	Expiration      time.Duration `json:"expiration,omitempty"` // whole ms on the wire; 0: none, < 0: at once
	Timestamp       time.Time     `json:"timestamp,omitzero"`   // whole seconds on AMQP
	Priority        uint8         `json:"priority,omitempty"`   // which end is sooner is the transport's, see its Guarantees
	DeliveryMode    DeliveryMode  `json:"delivery_mode,omitempty"`
	Headers         Headers       `json:"headers,omitempty"`
	Extra           Headers       `json:"extra,omitempty"` // envelope properties of other names: survive requeue and move
}

// Features of a transport.
type Features struct {
	Types          []string // exchange types
	Confirm        bool     // Outcomes are the broker's word
	Mandatory      bool     // unroutable messages are known
	SplitRoles     bool     // open a Publish and a Consume session
	SharedBindings bool     // bindings made elsewhere are seen here
	Keeps          []string // see KeepsAll
	Inline         bool     // Submit and Settle never block on a socket
	MaxBody        int      // bytes; 0: no limit of its own
	MaxBatch       int      // messages per Submit; 0: no limit
}

// KeepsAll in Features.Keeps says that the broker keeps everything that is
// declared and published. Otherwise Keeps lists what it does: "exclusive",
// "auto_delete", "internal", "alternate", "to_exchange" (bindings between
// exchanges), "binding_args", "priority", "expiration", "mandatory_fanout" (it
// knows whether anybody listens) and the argument keys ("x-message-ttl"); the
// core warns of the rest, or refuses it.
const KeepsAll = "*"

// QueueFeatures are the abilities of one queue: they differ inside one broker.
type QueueFeatures struct {
	Lease, Delay, Reject, Requeue, Priority, Ordered, Durable bool
	AckPrefix                                                 bool // acks are offsets: acked messages behind an open one may come again
	Counts                                                    CountKind
}

// CountKind says what Incoming.Attempt counts.
type CountKind uint8

// Counts.
const (
	CountNone       CountKind = iota
	CountDeliveries           // by the broker, never started ones too
	CountStarts               // by Begin
)

// DialConfig is what every transport that dials understands. Transports embed
// it in their Config; the root's Config carries one for Open.
type DialConfig struct {
	// ConnectTimeout bounds dial, TLS and login of one attempt together. 0: 5 s.
	ConnectTimeout time.Duration
	// Heartbeat interval. 0: the transport's default (10 s on AMQP); < 0: off,
	// which leaves a half-open link undetected for as long as TCP does.
	Heartbeat time.Duration
	// LoginMethod: PLAIN (default), AMQPLAIN or EXTERNAL, on AMQP.
	LoginMethod string
	// TLS settings for TLS schemes; nil: the system's roots, names verified.
	TLS *tls.Config
	// ClientProperties are shown to the broker's operators, where it can.
	ClientProperties Headers
	// Password, when set, is called at every dial and wins over the URL's.
	Password func(ctx context.Context) (string, error)
	// Dial opens sockets; nil: net.Dialer. Tests cut connections through it.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// MaxBodyDefault is the largest body where nothing else is configured: 128 MiB.
const MaxBodyDefault = 128 << 20

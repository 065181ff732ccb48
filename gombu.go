package gombu

import (
	"github.com/gombu/gombu/driver"
)

// Entities and properties are plain data that the core shares with its drivers.
type (
	// Exchange routes messages to queues; see driver.Exchange.
	Exchange = driver.Exchange
	// Queue holds messages; see driver.Queue.
	Queue = driver.Queue
	// Binding lets messages flow from an exchange; see driver.Binding.
	Binding = driver.Binding
	// Topology is what is declared together; see driver.Topology.
	Topology = driver.Topology
	// QueueInfo is what the broker knows of a queue; -1 is unknown.
	QueueInfo = driver.QueueInfo
	// Properties are AMQP's basic properties; see driver.Properties.
	Properties = driver.Properties
	// Headers is an ordered header table; see driver.Headers.
	Headers = driver.Headers
	// Header is one entry of Headers.
	Header = driver.Header
	// Event is news from the connection; see driver.Event.
	Event = driver.Event
	// Error says where a failure happened; see driver.Error.
	Error = driver.Error
)

// Exchange types.
const (
	Direct       = driver.TypeDirect
	Topic        = driver.TypeTopic
	Fanout       = driver.TypeFanout
	MatchHeaders = driver.TypeHeaders
)

// Delivery modes; zero is unset, which is the exchange's, else persistent.
const (
	Transient  = driver.Transient
	Persistent = driver.Persistent
)

// The kinds of failure, for errors.Is; each is documented in package driver.
var (
	ErrClosed      = driver.ErrClosed
	ErrNotFound    = driver.ErrNotFound
	ErrConflict    = driver.ErrConflict
	ErrUnroutable  = driver.ErrUnroutable
	ErrRefused     = driver.ErrRefused
	ErrTooLarge    = driver.ErrTooLarge
	ErrUnsupported = driver.ErrUnsupported
	ErrSettled     = driver.ErrSettled
	ErrLeaseLost   = driver.ErrLeaseLost
	ErrNotSent     = driver.ErrNotSent
	ErrUncertain   = driver.ErrUncertain
	ErrUnavailable = driver.ErrUnavailable
	ErrBlocked     = driver.ErrBlocked
	ErrDenied      = driver.ErrDenied
	ErrUndecodable = driver.ErrUndecodable
	ErrInvalid     = driver.ErrInvalid
	ErrAbandoned   = driver.ErrAbandoned
)

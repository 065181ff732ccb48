package driver

import (
	"errors"
	"fmt"
	"strings"
)

// The kinds of failure. Every transport maps its broker's errors to these, so
// that errors.Is means the same everywhere. The root package exports them
// under the same names.
var (
	// ErrClosed: the Conn, Consumer or session was closed by its user.
	ErrClosed = errors.New("closed")
	// ErrNotFound: the exchange, queue, virtual host or database does not exist.
	ErrNotFound = errors.New("not found")
	// ErrConflict: the entity exists with other arguments, is not empty, is in
	// use, or is held exclusively by another connection.
	ErrConflict = errors.New("conflict")
	// ErrUnroutable: no queue takes this message, and mandatory was asked for.
	ErrUnroutable = errors.New("unroutable")
	// ErrRefused: the broker answered that it will not take the message (a nack).
	ErrRefused = errors.New("refused by the broker")
	// ErrTooLarge: the message is above MaxBody or does not fit the protocol;
	// found before anything was written.
	ErrTooLarge = errors.New("too large")
	// ErrUnsupported: this transport, queue type or server version cannot do it.
	ErrUnsupported = errors.New("not supported")
	// ErrSettled: the delivery was acknowledged, rejected or requeued before.
	ErrSettled = errors.New("already settled")
	// ErrLeaseLost: the claim on the delivery is no longer ours (lost session,
	// expired lease, taken over); the broker redelivers it.
	ErrLeaseLost = errors.New("lease lost")
	// ErrNotSent: nothing of the message reached the broker; repeating is safe.
	ErrNotSent = errors.New("not sent")
	// ErrUncertain: the message was sent and its outcome is unknown; repeating
	// may duplicate it.
	ErrUncertain = errors.New("outcome unknown")
	// ErrUnavailable: there is no session with the broker now.
	ErrUnavailable = errors.New("broker unavailable")
	// ErrBlocked: the broker takes no messages for now (an alarm).
	ErrBlocked = errors.New("blocked by the broker")
	// ErrDenied: credentials or permissions were refused.
	ErrDenied = errors.New("access denied")
	// ErrUndecodable: the body or the stored message cannot be decoded, or its
	// content type is not accepted.
	ErrUndecodable = errors.New("undecodable")
	// ErrInvalid: an argument, URL or configuration value is wrong.
	ErrInvalid = errors.New("invalid")
	// ErrAbandoned: handlers ignored their context beyond Grace and were left behind.
	ErrAbandoned = errors.New("abandoned")
)

// A ReplicaError is why a message that is in its queues is ErrUncertain all the
// same: fewer replicas, or disks, than were asked for had it in time.
type ReplicaError struct {
	Replicas, Want int  // that had it, and SenderConfig.Replicas
	Fsync          bool // they and the broker were asked for their disks
	Disk           bool // the broker's own disk had it
}

// Error says how many had it.
func (e *ReplicaError) Error() string {
	if !e.Fsync {
		return fmt.Sprintf("it is in its queues; %d of %d replicas had it in time", e.Replicas, e.Want)
	}
	own := "not on the broker's disk"
	if e.Disk {
		own = "on the broker's disk"
	}
	return fmt.Sprintf("it is in its queues; in time it was %s and on %d of %d replicas' disks", own, e.Replicas, e.Want)
}

// Error says where a failure happened. Kind is one of the sentinels above (or
// several, joined); Err is the cause, often the client library's own error, and
// may be nil. errors.Is and errors.As see both. Secrets are never in it.
type Error struct {
	Op        string // the call, such as "publish"; may be empty
	Transport string // scheme, such as "amqp"; may be empty
	Entity    string // queue, exchange, option or address; may be empty
	Kind      error
	Err       error
}

// Error says transport, operation, entity, kind and cause in one line.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString("gombu")
	if e.Transport != "" {
		b.WriteString("/" + e.Transport)
	}
	for _, s := range []string{e.Op, e.Entity} {
		if s != "" {
			b.WriteString(": " + s)
		}
	}
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			b.WriteString(": " + strings.ReplaceAll(err.Error(), "\n", "; "))
		}
	}
	return b.String()
}

// Unwrap gives errors.Is and errors.As the kind and the cause.
func (e *Error) Unwrap() []error {
	var errs []error
	for _, err := range []error{e.Kind, e.Err} {
		if err != nil {
			errs = append(errs, err)
		}
	}
	return errs
}

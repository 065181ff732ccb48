package amqp

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

func failure(op, entity string, kind, err error) error {
	return &driver.Error{Op: op, Transport: "amqp", Entity: entity, Kind: kind, Err: err}
}

// at says where err, one of ours, happened.
func at(op, entity string, err error) error {
	if e, ok := errors.AsType[*driver.Error](err); ok {
		return failure(op, entity, e.Kind, e.Err)
	}
	return failure(op, entity, driver.ErrUnavailable, err)
}

// cause is why ctx ended; it is also ctx.Err(), whatever cause was given.
func cause(ctx context.Context) error {
	err, c := ctx.Err(), context.Cause(ctx)
	if errors.Is(c, err) {
		return c
	}
	return fmt.Errorf("%w: %w", err, c)
}

// brokerError wraps what a call on a channel or connection failed with. The
// kind comes from AMQP's reply code; an error that is none of the broker's is
// the link's.
func brokerError(op, entity string, err error) error {
	if err == nil {
		return nil
	}
	if known, ok := errors.AsType[*driver.Error](err); ok {
		return known
	}
	e, ok := errors.AsType[*amqp091.Error](err)
	if !ok || !e.Server {
		return failure(op, entity, driver.ErrUnavailable, err)
	}
	return failure(op, entity, kindOf(e), explain(e))
}

// kindOf maps reply codes (AMQP 0-9-1, section 1.1) as RabbitMQ uses them.
func kindOf(e *amqp091.Error) error {
	switch e.Code {
	case amqp091.NotFound, amqp091.InvalidPath:
		return driver.ErrNotFound
	case amqp091.AccessRefused:
		if strings.Contains(e.Reason, "in exclusive use") {
			return driver.ErrConflict
		}
		return driver.ErrDenied
	case amqp091.NotAllowed:
		if strings.Contains(e.Reason, "not found") { // the virtual host
			return driver.ErrNotFound
		}
		return driver.ErrDenied
	case amqp091.ResourceLocked:
		return driver.ErrConflict
	case amqp091.PreconditionFailed:
		if strings.Contains(e.Reason, "nvalid ") { // an argument or property, not a difference
			return driver.ErrInvalid
		}
		return driver.ErrConflict
	case amqp091.ContentTooLarge:
		return driver.ErrTooLarge
	case amqp091.NotImplemented:
		return driver.ErrUnsupported
	case amqp091.CommandInvalid:
		if strings.Contains(e.Reason, "unknown exchange type") {
			return driver.ErrUnsupported
		}
	}
	return driver.ErrUnavailable
}

// An explained error says in our words what the broker's error says in its own.
type explained struct {
	text  string
	cause *amqp091.Error
}

func (e *explained) Error() string { return e.text }
func (e *explained) Unwrap() error { return e.cause }

// RabbitMQ's rabbit_misc:assert_args_equivalence1 writes two forms:
//
//	inequivalent arg 'durable' for queue 'q' in vhost '/': received 'false' but current is 'true'
//	inequivalent arg 'x-max-length' …: received the value '10' of type 'long' but current is none
var inequivalent = regexp.MustCompile(
	`inequivalent arg '(.*?)' for .*: received (?:none|(?:the value )?'(.*?)'(?: of type '\w+')?)` +
		` but current is (?:none|(?:the value )?'(.*?)'(?: of type '\w+')?)$`)

func explain(e *amqp091.Error) error {
	m := inequivalent.FindStringSubmatch(e.Reason)
	if m == nil {
		return e
	}
	for i := 2; i < 4; i++ {
		if m[i] == "" {
			m[i] = "none"
		}
	}
	return &explained{fmt.Sprintf("%s: have %s, want %s", m[1], m[3], m[2]), e}
}

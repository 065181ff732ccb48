package amqp

import (
	"errors"
	"regexp"
	"strconv"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// When a channel ends, each message that the broker had not answered gets the
// outcome that can be said of it. After an error about one message the broker
// reads no further on its channel: it took those before in, dropped those
// behind. It says which exchange or size it was, not which message; where
// several fit, those between them are uncertain.

var (
	refusedExchange = regexp.MustCompile(`exchange '(.*?)' in vhost '`)
	refusedSize     = regexp.MustCompile(`message size (\d+) is larger than`)
)

// judge sets the fate of all that is pending, on a channel that is over. n.mu
// is held.
func (n *sender) judge() {
	culprit, kind := culpritOf(n.ch.err)
	last := -1
	for i := range n.pending {
		if culprit(&n.pending[i]) && !n.pending[i].acked() {
			last = i
		}
	}
	for i := range n.pending {
		m := &n.pending[i]
		fate := driver.ErrUncertain
		switch {
		case culprit(m):
			fate = kind
		case last >= 0 && i > last, !n.s.link.reached(m.position):
			fate = driver.ErrNotSent
		}
		m.fate = failure("publish", m.exchange, fate, n.ch.err)
	}
}

// culpritOf returns a test for the message that err is about, and its outcome.
// The end of a session is about none.
func culpritOf(err error) (func(*sent) bool, error) {
	e, ok := errors.AsType[*amqp091.Error](err)
	if !ok {
		return func(*sent) bool { return false }, nil
	}
	if m := refusedExchange.FindStringSubmatch(e.Reason); m != nil {
		name := m[1]
		if name == "amq.default" {
			name = ""
		}
		return func(m *sent) bool { return m.exchange == name }, kindOf(e)
	}
	if m := refusedSize.FindStringSubmatch(e.Reason); m != nil {
		size, _ := strconv.Atoi(m[1])
		return func(m *sent) bool { return m.size == size }, driver.ErrTooLarge
	}
	return func(*sent) bool { return false }, nil
}

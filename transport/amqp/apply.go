package amqp

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// Apply implements driver.Conn. Each step is one question and answer on the
// scratch channel.
func (s *session) Apply(ctx context.Context, steps []driver.Step) error {
	for i := range steps {
		err := s.apply(ctx, &steps[i])
		select {
		case <-s.done:
			return s.errClosed("apply", "")
		default:
		}
		if err != nil && ctx.Err() != nil {
			return s.ctxError(ctx, "apply", "", driver.ErrUnavailable)
		}
		steps[i].Err = err
	}
	return nil
}

func (s *session) apply(ctx context.Context, step *driver.Step) error {
	switch {
	case step.Exchange != nil:
		return s.applyExchange(ctx, *step, *step.Exchange)
	case step.Queue != nil:
		return s.applyQueue(ctx, *step, *step.Queue)
	case step.Binding != nil:
		return s.applyBinding(ctx, *step, *step.Binding)
	}
	return failure("apply", "", driver.ErrInvalid, errors.New("a step without an entity"))
}

// builtIn says whether the broker has the exchange of its own accord.
func builtIn(exchange string) bool { return exchange == "" || strings.HasPrefix(exchange, "amq.") }

func (s *session) applyExchange(ctx context.Context, step driver.Step, e driver.Exchange) error {
	op, args := "declare", e.Args
	if e.Type == "" {
		e.Type = driver.TypeDirect
	}
	if e.Alternate != "" {
		args = args.With("alternate-exchange", e.Alternate)
	}
	table, err := checked(op, args, e.Name, e.Type)
	if err != nil {
		return err
	}
	switch step.Op {
	case driver.Delete:
		return absentIsFine(s.onScratch(ctx, "delete", e.Name, func(ch *amqp091.Channel) error {
			return ch.ExchangeDelete(e.Name, step.IfUnused, false)
		}))
	case driver.Check:
		if e.Name == "" {
			return nil // RabbitMQ refuses the question, and it is always there
		}
		e.Passive = true
	case driver.Declare:
		if e.NoDeclare || builtIn(e.Name) {
			return nil
		}
	}
	if e.Passive {
		return s.onScratch(ctx, "check", e.Name, func(ch *amqp091.Channel) error {
			return ch.ExchangeDeclarePassive(e.Name, e.Type, !e.Transient, e.AutoDelete, e.Internal, false, nil)
		})
	}
	if !s.apart && !slices.Contains(s.connector.Features().Types, e.Type) {
		return s.applyApart(ctx, &step)
	}
	return s.onScratch(ctx, op, e.Name, func(ch *amqp091.Channel) error {
		return ch.ExchangeDeclare(e.Name, e.Type, !e.Transient, e.AutoDelete, e.Internal, false, table)
	})
}

// applyApart takes the step on a connection of its own: RabbitMQ closes the
// whole connection over an exchange type that it does not know.
func (s *session) applyApart(ctx context.Context, step *driver.Step) error {
	env := s.env
	env.Notify = func(driver.Event) {}
	other, err := s.connector.connect(ctx, env)
	if err != nil {
		return at("declare", step.Exchange.Name, err)
	}
	other.apart = true
	err = other.apply(ctx, step)
	// The answer is here; how the goodbye goes changes nothing.
	_ = other.Close(ctx)
	return err
}

func (s *session) applyQueue(ctx context.Context, step driver.Step, q driver.Queue) error {
	if q.Name == "" {
		return failure("apply", "", driver.ErrInvalid, errors.New("a queue needs a name: one that the broker chooses is not found again after a reconnect"))
	}
	table, err := checked("declare", q.Arguments(), q.Name)
	if err != nil {
		return err
	}
	switch {
	case step.Op == driver.Delete:
		s.remember(q.Name, "")
		return absentIsFine(s.onScratch(ctx, "delete", q.Name, func(ch *amqp091.Channel) error {
			_, err := ch.QueueDelete(q.Name, step.IfUnused, step.IfEmpty, false)
			return err
		}))
	case step.Op == driver.Declare && q.NoDeclare:
		return nil
	case step.Op == driver.Check || q.Passive:
		return s.onScratch(ctx, "check", q.Name, func(ch *amqp091.Channel) error {
			_, err := ch.QueueDeclarePassive(q.Name, !q.Transient, q.AutoDelete, q.Exclusive, false, nil)
			return err
		})
	}
	err = s.onScratch(ctx, "declare", q.Name, func(ch *amqp091.Channel) error {
		_, err := ch.QueueDeclare(q.Name, !q.Transient, q.AutoDelete || q.Exclusive, q.Exclusive, false, table)
		return err
	})
	if kind, ok := q.Args.Get("x-queue-type").(string); ok && err == nil {
		s.remember(q.Name, kind)
	}
	return err
}

// remember keeps the type of a queue declared here, for Receiver.Features:
// AMQP has no question for it.
func (s *session) remember(queue, kind string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if kind == "" {
		delete(s.kinds, queue)
	} else {
		s.kinds[queue] = kind
	}
}

func (s *session) applyBinding(ctx context.Context, step driver.Step, b driver.Binding) error {
	to, bind, unbind := b.Queue, (*amqp091.Channel).QueueBind, (*amqp091.Channel).QueueUnbind
	if b.ToExchange != "" {
		to, bind = b.ToExchange, (*amqp091.Channel).ExchangeBind
		unbind = func(ch *amqp091.Channel, to, key, from string, args amqp091.Table) error {
			return ch.ExchangeUnbind(to, key, from, false, args)
		}
	}
	entity := fmt.Sprintf("%s -> %s", b.Exchange, to)
	table, err := checked("bind", b.Args, b.Exchange, to, b.Key)
	switch {
	case err != nil:
		return err
	case step.Op == driver.Check:
		return failure("check", entity, driver.ErrUnsupported, errors.New("AMQP cannot look a binding up"))
	case b.Exchange == "" && b.ToExchange == "" && b.Key == b.Queue:
		return nil // every queue is bound so, for good; RabbitMQ refuses to be asked
	case step.Op == driver.Delete:
		return absentIsFine(s.onScratch(ctx, "unbind", entity, func(ch *amqp091.Channel) error {
			return unbind(ch, to, b.Key, b.Exchange, table)
		}))
	}
	return s.onScratch(ctx, "bind", entity, func(ch *amqp091.Channel) error {
		return bind(ch, to, b.Key, b.Exchange, false, table)
	})
}

// checked returns args as a table once they and the names fit the protocol;
// amqp091 would end the connection over a name that is too long.
func checked(op string, args driver.Headers, names ...string) (amqp091.Table, error) {
	for _, name := range names {
		if len(name) > maxShortstr {
			return nil, failure(op, name[:20]+"…", driver.ErrInvalid, fmt.Errorf("the name is longer than %d bytes", maxShortstr))
		}
	}
	table, _, err := fromHeaders(args)
	if err != nil {
		return nil, failure(op, names[0], driver.ErrInvalid, fmt.Errorf("argument %w", err))
	}
	return table, nil
}

func absentIsFine(err error) error {
	if errors.Is(err, driver.ErrNotFound) {
		return nil
	}
	return err
}

// Inspect implements driver.Conn. AMQP tells neither what is unsettled nor how
// old the queue's head is.
func (s *session) Inspect(ctx context.Context, queue string) (driver.QueueInfo, error) {
	answers := make(chan amqp091.Queue, 1)
	if _, err := checked("inspect", nil, queue); err != nil {
		return driver.QueueInfo{}, err
	}
	err := s.onScratch(ctx, "inspect", queue, func(ch *amqp091.Channel) error {
		q, err := ch.QueueDeclarePassive(queue, true, false, false, false, nil)
		answers <- q
		return err
	})
	if err != nil {
		return driver.QueueInfo{}, err
	}
	q := <-answers
	return driver.QueueInfo{Name: queue, Ready: q.Messages, Unsettled: -1, Consumers: q.Consumers}, nil
}

// Purge implements driver.Conn.
func (s *session) Purge(ctx context.Context, queue string) (int, error) {
	answers := make(chan int, 1)
	if _, err := checked("purge", nil, queue); err != nil {
		return 0, err
	}
	err := s.onScratch(ctx, "purge", queue, func(ch *amqp091.Channel) error {
		n, err := ch.QueuePurge(queue, false)
		answers <- n
		return err
	})
	if err != nil {
		return 0, err
	}
	return <-answers, nil
}

package redis

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
	"github.com/gombu/gombu/wire/kombu"
)

// Create makes the queue known to the connector's sessions. Redis has no empty lists, so
// that nothing is written; of the arguments only x-expires means something.
func (s *store) Create(_ context.Context, q *driver.Queue) error {
	return s.cfg.known.create(&s.keys, q)
}

func (e *entities) create(k *keys, q *driver.Queue) error {
	if err := k.checkQueue("declare", q.Name); err != nil {
		return err
	}
	var d declared
	switch v := q.Arguments().Get("x-expires").(type) {
	case nil:
	case int64:
		d.expires = time.Duration(v) * time.Millisecond
	case int:
		d.expires = time.Duration(v) * time.Millisecond
	case int32:
		d.expires = time.Duration(v) * time.Millisecond
	case float64:
		d.expires = time.Duration(v * float64(time.Millisecond))
	default:
		return &driver.Error{Op: "declare", Transport: Scheme, Entity: q.Name, Kind: driver.ErrInvalid, Err: errors.New("x-expires: want milliseconds")}
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.queues[q.Name] = d
	return nil
}

// forget is told that a queue is deleted, and returns the exchanges that it may
// be bound to.
func (e *entities) forget(queue, sep string) (exchanges []string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.queues, queue)
	e.loseQueue(queue, sep)
	return slices.Collect(maps.Keys(e.bound))
}

// Drop deletes the queue's lists and, from every exchange that this connector
// has bound or routed, its bindings (Kombu removes only those it made itself).
func (s *store) Drop(ctx context.Context, queue string) error {
	if err := s.keys.checkQueue("delete", queue); err != nil {
		return err
	}
	exchanges := s.cfg.known.forget(queue, s.keys.sep)
	if s.keys.cluster {
		exchanges = nil // they are at other nodes, see cluster.Drop
	}
	_, err := call(ctx, s, "delete", driver.ErrUncertain, func() (struct{}, error) {
		cmds := []rueidis.Completed{s.command(append([]string{"UNLINK"}, s.keys.prefixed(s.keys.lists(queue))...)...)}
		for _, ex := range exchanges {
			unbind, err := s.unbinding(ex, queue)
			if err != nil {
				return struct{}{}, err
			}
			cmds = append(cmds, unbind...)
		}
		_, err := s.multi(cmds...)
		return struct{}{}, err
	}, nil)
	return err
}

// unbinding is what removes all bindings of a queue to an exchange, if there
// are any. Inside call.
func (s *store) unbinding(exchange, queue string) ([]rueidis.Completed, error) {
	members, err := s.link.client.Do(s.ctx, s.command("SMEMBERS", s.keys.bindings(exchange))).AsStrSlice()
	members = slices.DeleteFunc(members, func(m string) bool {
		_, _, q, ok := kombu.ParseBindingMember(m, s.keys.sep)
		return !ok || q != queue
	})
	if err != nil || len(members) == 0 {
		return nil, err
	}
	return s.rebinding("SREM", exchange, members...), nil
}

// Purge drops what is ready on all the queue's lists.
func (s *store) Purge(ctx context.Context, queue string) (int, error) {
	if err := s.keys.checkQueue("purge", queue); err != nil {
		return 0, err
	}
	return call(ctx, s, "purge", driver.ErrUncertain, func() (int, error) {
		lists := s.keys.prefixed(s.keys.lists(queue))
		cmds := s.lengths(lists)
		cmds = append(cmds, s.command(append([]string{"UNLINK"}, lists...)...))
		answers, err := s.multi(cmds...)
		if err != nil {
			return 0, err
		}
		return sum(answers[:len(lists)])
	}, nil)
}

// Stat counts what is ready. Who else holds or consumes is not known: -1. A
// queue without a key that this connector did not declare is ErrNotFound, as
// Kombu's passive declare has it.
func (s *store) Stat(ctx context.Context, queue string) (driver.QueueInfo, error) {
	if err := s.keys.checkQueue("inspect", queue); err != nil {
		return driver.QueueInfo{}, err
	}
	n, err := call(ctx, s, "inspect", driver.ErrUnavailable, func() (int, error) {
		answers, err := s.multi(s.lengths(s.keys.prefixed(s.keys.lists(queue)))...)
		if err != nil {
			return 0, err
		}
		return sum(answers)
	}, nil)
	if err != nil {
		return driver.QueueInfo{}, err
	}
	s.cfg.known.mu.Lock()
	_, known := s.cfg.known.queues[queue]
	s.cfg.known.mu.Unlock()
	if n == 0 && !known {
		return driver.QueueInfo{}, &driver.Error{Op: "inspect", Transport: Scheme, Entity: queue, Kind: driver.ErrNotFound,
			Err: errors.New("no key of that name; Redis keeps no empty queues")}
	}
	return s.infoOf(queue, n), nil
}

func (s *store) infoOf(queue string, ready int) driver.QueueInfo {
	return driver.QueueInfo{Name: queue, Ready: ready, Unsettled: -1, Delayed: -1, Consumers: -1}
}

func (s *store) lengths(lists []string) []rueidis.Completed {
	cmds := make([]rueidis.Completed, len(lists))
	for i, l := range lists {
		cmds[i] = s.command("LLEN", l)
	}
	return cmds
}

func sum(answers []rueidis.RedisMessage) (int, error) {
	total := 0
	for i := range answers {
		n, err := answers[i].AsInt64()
		if err != nil {
			return 0, err
		}
		total += int(n)
	}
	return total, nil
}

// Queues lists what has a key, priorities folded in, and what this session
// declared. It scans the database: for people, not for loops.
func (s *store) Queues(ctx context.Context) ([]driver.QueueInfo, error) {
	names := s.cfg.known.names()
	if err := s.names(ctx, names); err != nil {
		return nil, err
	}
	sorted := make([]string, 0, len(names))
	for q := range names {
		sorted = append(sorted, q)
	}
	slices.Sort(sorted)
	out := make([]driver.QueueInfo, 0, len(sorted))
	for chunk := range slices.Chunk(sorted, 100) {
		infos, err := s.countAll(ctx, chunk)
		if err != nil {
			return nil, err
		}
		out = append(out, infos...)
	}
	return out, nil
}

// names are the queues that were declared.
func (e *entities) names() map[string]bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	names := make(map[string]bool, len(e.queues))
	for q := range e.queues {
		names[q] = true
	}
	return names
}

// names adds the queues that have a key.
func (s *store) names(ctx context.Context, names map[string]bool) error {
	for cursor := uint64(0); ; {
		page, err := s.scan(ctx, cursor)
		if err != nil {
			return err
		}
		for _, key := range page.Elements {
			if q, mine := s.keys.queueAt(key); mine && s.keys.checkQueue("", q) == nil {
				names[q] = true
			}
		}
		if cursor = page.Cursor; cursor == 0 {
			return nil
		}
	}
}

func (s *store) scan(ctx context.Context, cursor uint64) (rueidis.ScanEntry, error) {
	return call(ctx, s, "list", driver.ErrUnavailable, func() (rueidis.ScanEntry, error) {
		match := globQuote(s.keys.prefix) + "*"
		return s.link.client.Do(s.ctx, s.link.client.B().Scan().Cursor(cursor).Match(match).Count(1000).Type("list").Build()).AsScanEntry()
	}, nil)
}

func (s *store) countAll(ctx context.Context, queues []string) ([]driver.QueueInfo, error) {
	return call(ctx, s, "list", driver.ErrUnavailable, func() ([]driver.QueueInfo, error) {
		var cmds []rueidis.Completed
		for _, q := range queues {
			cmds = append(cmds, s.lengths(s.keys.prefixed(s.keys.lists(q)))...)
		}
		answers, err := s.multi(cmds...)
		if err != nil {
			return nil, err
		}
		out := make([]driver.QueueInfo, len(queues))
		steps := len(s.keys.steps)
		for i, q := range queues {
			n, err := sum(answers[i*steps : (i+1)*steps])
			if err != nil {
				n = -1 // one of its lists is no list
			}
			out[i] = s.infoOf(q, n)
		}
		return out, nil
	}, nil)
}

var _ virtual.Lister = (*store)(nil)

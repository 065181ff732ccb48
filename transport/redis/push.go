package redis

import (
	"context"
	"errors"
	"slices"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// maxText is Redis's limit of one string; a longer one would cost the connection.
const maxText = 512 << 20

// A load is what goes to one list, in order.
type load struct {
	list  string // without prefix
	queue string
	texts []string
	items []int // whose texts they are
	size  int   // how many
}

// Push puts items at the left end of their queue's list for their priority
// (redis.md sections 2 and 3), all in one step. Errors of items: ErrInvalid
// (name), ErrTooLarge, ErrRefused (out of memory and the like), ErrConflict
// (the key is no list), ErrUncertain.
func (s *store) Push(ctx context.Context, items []virtual.Item) error {
	return s.pushBy(ctx, items, func(cmds []rueidis.Completed) []rueidis.RedisResult { return s.link.client.DoMulti(s.ctx, cmds...) })
}

// pushBy is Push over the connection that do talks to. Inside call.
func (s *store) pushBy(ctx context.Context, items []virtual.Item, do func([]rueidis.Completed) []rueidis.RedisResult) error {
	text := copied
	if ctx.Done() == nil {
		text = rueidis.BinaryString // nobody leaves before the answer: no copy is needed
	}
	loads := s.load(items, text)
	if len(loads) == 0 {
		return nil
	}
	errs, err := call(ctx, s, "publish", driver.ErrUncertain, func() ([]error, error) {
		return pushed(loads, do(s.pushes(loads))), nil
	}, nil)
	for i, l := range loads {
		e := err
		if e == nil {
			e = s.failed("publish", l.queue, driver.ErrUncertain, errs[i])
		}
		for _, n := range l.items {
			items[n].Err = e
		}
	}
	if err != nil && s.Err() != nil {
		return s.Err()
	}
	return nil
}

func copied(b []byte) string { return string(b) }

// load groups items by list; those that cannot be sent get their error.
func (s *store) load(items []virtual.Item, text func([]byte) string) []load {
	var few [16]int
	of := few[:0] // the load of each item; -1: none
	var loads []load
	var at map[string]int // by list; made when there are several
	n, total := 0, 0
	for i := range items {
		it := &items[i]
		if it.Err = s.keys.checkQueue("publish", it.Queue); it.Err == nil && len(it.Raw) >= maxText {
			it.Err = &driver.Error{Op: "publish", Transport: Scheme, Entity: it.Queue, Kind: driver.ErrTooLarge, Err: errors.New("above Redis's limit of 512 MiB")}
		}
		if it.Err != nil {
			of = append(of, -1)
			continue
		}
		list := s.keys.list(it.Queue, it.Priority)
		switch {
		case len(loads) == 0: // mostly the only one
			loads = append(loads, load{list: list, queue: it.Queue})
		case loads[n].list != list:
			if at == nil {
				at = make(map[string]int, min(len(items), manyLoads))
				at[loads[0].list] = 0
				loads = slices.Grow(loads, min(len(items)-i, manyLoads))
			}
			var there bool
			if n, there = at[list]; !there {
				n = len(loads)
				at[list] = n
				loads = append(loads, load{list: list, queue: it.Queue})
			}
		}
		of = append(of, n)
		loads[n].size++
		total++
	}
	texts, places := make([]string, total), make([]int, total) // of all loads, one behind the other
	for i := range loads {
		l := &loads[i]
		l.texts, texts = texts[:0:l.size], texts[l.size:]
		l.items, places = places[:0:l.size], places[l.size:]
	}
	for i, n := range of {
		if n >= 0 {
			l := &loads[n]
			l.texts, l.items = append(l.texts, text(items[i].Raw)), append(l.items, i)
		}
	}
	return loads
}

// manyLoads is for how many loads there is room from the beginning.
const manyLoads = 64

// pushes are the commands that push loads in one step, and nothing else.
func (s *store) pushes(loads []load) []rueidis.Completed {
	cmds := make([]rueidis.Completed, 0, len(loads)+2)
	cmds = append(cmds, s.command("MULTI"))
	var renew []rueidis.Completed
	var args []string // of one after the other: a command keeps its own
	for i := range loads {
		l := &loads[i]
		args = append(append(args[:0], "LPUSH", s.keys.full(l.list)), l.texts...)
		cmds = append(cmds, s.command(args...))
		renew = append(renew, s.renewals(l.queue)...)
	}
	if len(loads) == 1 && len(renew) == 0 {
		return cmds[1:]
	}
	return append(append(cmds, renew...), s.command("EXEC"))
}

// pushed reads the answers to pushes: an error for each load.
func pushed(loads []load, answers []rueidis.RedisResult) []error {
	errs := make([]error, len(loads))
	if len(answers) == 1 {
		errs[0] = answers[0].Error()
		return errs
	}
	each, err := execAnswer(answers)
	for i := range errs {
		if errs[i] = err; err == nil {
			errs[i] = each[i].Error()
		}
	}
	return errs
}

// renewals are the commands that put off the end of a queue declared with
// x-expires, on all its lists (redis.md section 3.2).
func (s *store) renewals(queue string) []rueidis.Completed {
	s.cfg.known.mu.Lock()
	expires := s.cfg.known.queues[queue].expires
	s.cfg.known.mu.Unlock()
	if expires <= 0 {
		return nil
	}
	var out []rueidis.Completed
	for _, list := range s.keys.prefixed(s.keys.lists(queue)) {
		out = append(out, s.command("PEXPIRE", list, millis(expires)))
	}
	return out
}

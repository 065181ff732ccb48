package redis

import (
	"context"
	"errors"

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
}

// Push puts items at the left end of their queue's list for their priority
// (redis.md sections 2 and 3), all in one step. Errors of items: ErrInvalid
// (name), ErrTooLarge, ErrRefused (out of memory and the like), ErrConflict
// (the key is no list), ErrUncertain.
func (s *store) Push(ctx context.Context, items []virtual.Item) error {
	text := copied
	if ctx.Done() == nil {
		text = rueidis.BinaryString // nobody leaves before the answer: no copy is needed
	}
	loads := s.load(items, text)
	if len(loads) == 0 {
		return nil
	}
	errs, err := call(ctx, s, "publish", driver.ErrUncertain, func() ([]error, error) {
		cmds := s.pushes(loads)
		return pushed(loads, s.link.client.DoMulti(s.ctx, cmds...)), nil
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
	var loads []load
	var at map[string]int // by list; made when there are several
	n := 0
	for i := range items {
		it := &items[i]
		if it.Err = s.keys.checkQueue("publish", it.Queue); it.Err == nil && len(it.Raw) >= maxText {
			it.Err = &driver.Error{Op: "publish", Transport: Scheme, Entity: it.Queue, Kind: driver.ErrTooLarge, Err: errors.New("above Redis's limit of 512 MiB")}
		}
		if it.Err != nil {
			continue
		}
		list := s.keys.list(it.Queue, it.Priority)
		switch {
		case len(loads) == 0: // mostly the only one
			loads = append(loads, load{list: list, queue: it.Queue, texts: make([]string, 0, len(items)), items: make([]int, 0, len(items))})
		case loads[n].list != list:
			if at == nil {
				at = map[string]int{loads[0].list: 0}
			}
			var there bool
			if n, there = at[list]; !there {
				n = len(loads)
				at[list] = n
				loads = append(loads, load{list: list, queue: it.Queue})
			}
		}
		loads[n].texts = append(loads[n].texts, text(it.Raw))
		loads[n].items = append(loads[n].items, i)
	}
	return loads
}

// pushes are the commands that push loads in one step, and nothing else.
func (s *store) pushes(loads []load) []rueidis.Completed {
	cmds := make([]rueidis.Completed, 0, len(loads)+2)
	cmds = append(cmds, s.command("MULTI"))
	var renew []rueidis.Completed
	for _, l := range loads {
		args := append(make([]string, 0, 2+len(l.texts)), "LPUSH", s.keys.full(l.list))
		cmds = append(cmds, s.command(append(args, l.texts...)...))
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

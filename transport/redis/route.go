package redis

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"regexp"
	"slices"
	"strings"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
	"github.com/gombu/gombu/wire/kombu"
)

// Bind adds members to Kombu's binding sets, with the very text that Kombu
// would store: a topic binding's pattern beside its key. Every peer's publish
// that starts after it returned sees them. Bindings with arguments and between
// exchanges are ErrUnsupported: the sets have no place for them.
func (s *store) Bind(ctx context.Context, typ string, b []driver.Binding) error {
	return s.rebind(ctx, "SADD", typ, b)
}

// Unbind removes members, which Kombu itself does not do.
func (s *store) Unbind(ctx context.Context, typ string, b []driver.Binding) error {
	return s.rebind(ctx, "SREM", typ, b)
}

func (s *store) rebind(ctx context.Context, verb, typ string, b []driver.Binding) error {
	op := "bind"
	if verb == "SREM" {
		op = "unbind"
	}
	members := make([]string, len(b))
	for i := range b {
		var err error
		if members[i], err = s.member(op, typ, &b[i]); err != nil {
			return err
		}
	}
	if len(b) == 0 {
		return nil
	}
	_, err := call(ctx, s, op, driver.ErrUncertain, func() (struct{}, error) {
		var cmds []rueidis.Completed
		for i := range b {
			cmds = append(cmds, s.rebinding(verb, b[i].Exchange, members[i])...)
		}
		answers, err := s.multi(cmds...)
		for i := range answers {
			if err == nil {
				err = answers[i].Error()
			}
		}
		return struct{}{}, err
	}, nil)
	if err == nil || verb == "SREM" {
		s.cfg.known.keep(verb, b, members)
	}
	return err
}

// note remembers an exchange for Drop.
func (s *store) note(exchange string) {
	known := s.cfg.known
	known.mu.Lock()
	defer known.mu.Unlock()
	if len(known.bound) < maxKnown {
		known.bound[exchange] = struct{}{}
	}
}

// member is the text of one binding. Source: redis.md section 1.
func (s *store) member(op, typ string, b *driver.Binding) (string, error) {
	fail := func(kind error, why string) (string, error) {
		return "", &driver.Error{Op: op, Transport: Scheme, Entity: b.Exchange, Kind: kind, Err: errors.New(why)}
	}
	pattern := ""
	switch {
	case b.ToExchange != "" || typ == driver.TypeHeaders:
		return fail(driver.ErrUnsupported, "Kombu's binding table has no place for exchange-to-exchange and headers bindings")
	case strings.Contains(b.Key, s.keys.sep) || b.Exchange == "":
		return fail(driver.ErrInvalid, "the key contains the separator, or the exchange has no name")
	case typ == driver.TypeTopic:
		pattern = kombu.TopicPattern(b.Key)
	}
	if err := s.keys.checkQueue(op, b.Queue); err != nil {
		return "", err
	}
	return kombu.BindingMember(b.Key, pattern, b.Queue, s.keys.sep), nil
}

// A table is what is known of one exchange's binding set since its last
// change: news of one removes it.
type table struct{ version string } // of the members read last; empty: being read

// maxKnown bounds the tables, and the exchanges that Drop looks through.
const maxKnown = 4096

// Table returns an exchange's bindings. It is exactly as fresh as a read of
// the set, see docs/decisions/010-redis-binding-freshness.md: when the set was
// read with tracking, a PING suffices, because the server writes the news of a
// change, which it does while it executes the change, before the answer to
// anything that was sent after it.
func (s *store) Table(ctx context.Context, exchange, since string) (virtual.Table, bool, error) {
	s.note(exchange)
	type read struct {
		table virtual.Table
		ok    bool
	}
	r, err := call(ctx, s, "route", driver.ErrUnavailable, func() (read, error) {
		key := s.keys.bindings(exchange)
		if s.track.on.Load() && since != "" && s.track.known(key, since) {
			if err := s.link.client.Do(s.ctx, s.barrier(key)).Error(); err != nil {
				return read{}, err
			}
			if s.track.known(key, since) {
				return read{}, nil
			}
		}
		members, version, err := s.readTable(key)
		if err != nil || version == since {
			return read{}, err
		}
		return read{s.parseTable(exchange, version, members), true}, nil
	}, nil)
	return r.table, r.ok, err
}

// barrier is answered behind all news of before. In a cluster it is about the
// key, so that a node that has lost the slot says so.
func (s *store) barrier(key string) rueidis.Completed {
	if s.keys.cluster {
		return s.command("EXISTS", key)
	}
	return s.command("PING")
}

// readTable reads a binding set, tracked. Its version is a digest of the
// members, so that it means the same in every session.
func (s *store) readTable(key string) (members []string, version string, err error) {
	reading := s.track.reading(key)
	cmds := []rueidis.Completed{s.command("SMEMBERS", key)}
	if s.track.on.Load() {
		cmds = slices.Insert(cmds, 0, s.command("CLIENT", "CACHING", "YES"))
	}
	answers := s.link.client.DoMulti(s.ctx, cmds...)
	if members, err = answers[len(answers)-1].AsStrSlice(); err != nil {
		return nil, "", err
	}
	slices.Sort(members)
	digest := sha256.New()
	for _, m := range members {
		digest.Write([]byte(m))
		digest.Write([]byte{0})
	}
	version = hex.EncodeToString(digest.Sum(nil)[:16])
	s.track.read(key, reading, version)
	return members, version, nil
}

// reading notes that a set is about to be read.
func (t *tracker) reading(key string) *table {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.tables) >= maxKnown {
		clear(t.tables)
	}
	tb := &table{}
	t.tables[key] = tb
	return tb
}

// read notes what was read, unless the set changed since, or somebody else
// reads it anew.
func (t *tracker) read(key string, tb *table, version string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tables[key] == tb {
		tb.version = version
	}
}

func (t *tracker) known(key, version string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	tb := t.tables[key]
	return tb != nil && tb.version == version
}

func (s *store) parseTable(exchange, version string, members []string) virtual.Table {
	t := virtual.Table{Version: version, Bindings: make([]driver.Binding, 0, len(members))}
	for _, m := range members {
		key, pattern, queue, ok := kombu.ParseBindingMember(m, s.keys.sep)
		if !ok || queue == "" {
			s.warnOnce(s.keys.bindings(exchange), "a member is no binding; is the separator the one that your peers use?")
			continue
		}
		t.Topic = t.Topic || pattern != ""
		t.Bindings = append(t.Bindings, driver.Binding{Exchange: exchange, Queue: queue, Key: key})
	}
	return t
}

// routes is a binding table as Kombu reads it, for its restore.
type routes []kombuRoute

type kombuRoute struct {
	key, queue string
	pattern    *regexp.Regexp // nil: the key itself
}

// kombuRoute finds the queues that Kombu would: by the stored patterns where
// there are any, else by equal keys.
func (s *store) kombuRoute(exchange, key string, cache map[string]routes) []string {
	r, ok := cache[exchange]
	if !ok {
		members, err := s.link.client.Do(s.ctx, s.command("SMEMBERS", s.keys.bindings(exchange))).AsStrSlice()
		if err != nil {
			return nil
		}
		for _, m := range members {
			if key, pattern, queue, ok := kombu.ParseBindingMember(m, s.keys.sep); ok && queue != "" {
				if re, ok := kombuPattern(pattern); ok {
					r = append(r, kombuRoute{key, queue, re})
				}
			}
		}
		cache[exchange] = r
	}
	var out []string
	for _, b := range r {
		hit := b.key == key
		if b.pattern != nil {
			hit = b.pattern.MatchString(key)
		}
		if hit && !slices.Contains(out, b.queue) {
			out = append(out, b.queue)
		}
	}
	return out
}

var escapedSymbol = regexp.MustCompile(`\\([^\x00-\x7f])`)

// kombuPattern compiles a stored pattern with Python's meaning: $ matches
// before a final newline too, and any symbol may be escaped. Source:
// virtual.md section 2.
func kombuPattern(text string) (*regexp.Regexp, bool) {
	if text == "" {
		return nil, true
	}
	text = escapedSymbol.ReplaceAllString(text, "$1")
	if body, ok := strings.CutSuffix(text, "$"); ok {
		text = body + `\n?\z`
	}
	re, err := regexp.Compile(`\A(?:` + text + `)`)
	return re, err == nil
}

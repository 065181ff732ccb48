package redis

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

var modelSeeds = flag.Int("model.seeds", 15, "seeds of the claim protocol's model")

// The claim protocol under random interleavings on a real server: owners that
// claim, settle, mirror, are paused and fenced, or die; a reaper; a sweeper;
// Kombu peers that take, ack, restore and die. Nothing is lost, and nothing
// that was acked is delivered again.
func TestModel(tt *testing.T) {
	t := newTester(tt)
	for seed := range *modelSeeds {
		if err := runModel(t, uint64(seed)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// Each rule of the protocol is needed: without it the model finds a fault.
func TestModelCatchesMutants(tt *testing.T) {
	t := newTester(tt)
	for _, m := range []struct {
		name, text, old, new string
		script               **rueidis.Lua
	}{
		{"settle where the mirror does not decide", settleLua, "ours = redis.call('HDEL', KEYS[4], id) == 1", "redis.call('HDEL', KEYS[4], id)", &settleScript},
		{"settle that forgets the mirror", settleLua, "if ours and pos <= mark then", "if false then", &settleScript},
		{"reap where the mirror does not decide", reapLua, "ours = redis.call('HDEL', KEYS[5], id) == 1 and ours", "redis.call('HDEL', KEYS[5], id)", &reapScript},
		{"reap that leaves the mark", reapLua, "if mark > base + left then", "if false then", &reapScript},
		{"reap of settled claims", reapLua, "local ours = text ~= ARGV[3]", "local ours = true", &reapScript},
		{"mirror that leaves the mark", tickLua, "if upto > mark then", "if false then", &tickScript},
		{"forget with claims left", forgetLua, "if redis.call('EXISTS', KEYS[k]) == 1 then return 0 end", "", &forgetScript},
	} {
		mutant := strings.Replace(m.text, m.old, m.new, 1)
		if mutant == m.text {
			t.Fatalf("%s: the script has no %q", m.name, m.old)
		}
		func() {
			original := *m.script
			*m.script = rueidis.NewLuaScript(mutant)
			defer func() { *m.script = original }()
			for seed := range 200 {
				if err := runModel(t, uint64(seed)); err != nil {
					t.Logf("%s: seed %d: %v", m.name, seed, err)
					return
				}
			}
			t.Errorf("%s: not caught", m.name)
		}()
	}
}

const (
	modelMessages = 40
	modelWild     = 400  // steps in which everything happens
	modelLast     = 5000 // steps after which what is not acked is lost
)

type model struct {
	*tester
	rnd    *rand.Rand
	cfg    *Config
	owners []*modelOwner
	made   int
	reaper *store
	acked  map[int]bool
	python map[string]int // entries of unacked that a Kombu peer holds
	taken  int
	err    error
}

type modelOwner struct {
	*store
	open []modelClaim
}

type modelClaim struct {
	tag driver.Tag
	id  int
}

func runModel(t *tester, seed uint64) error {
	t.Helper()
	t.do("FLUSHDB")
	c := t.config
	c.Steps = []int{0, 5}
	cfg, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m := &model{tester: t, rnd: rand.New(rand.NewPCG(seed, 1)), cfg: cfg, acked: map[int]bool{}, python: map[string]int{}}
	m.reaper = m.connect()
	defer m.hangUp()
	for i := range modelMessages {
		m.pushItems(m.reaper, []virtual.Item{{Queue: fmt.Sprint("q", i%2), Priority: uint8(i % 3 * 3), Raw: []byte(envelopeOf(i))}})
	}
	for range 3 {
		m.owners = append(m.owners, &modelOwner{store: m.connect()})
	}
	for step := 0; m.err == nil; step++ {
		switch {
		case step < modelWild:
			m.wild()
		case len(m.acked) == modelMessages:
			return m.leftovers()
		case step > modelLast:
			return fmt.Errorf("lost: %d of %d acked, keys %s", len(m.acked), modelMessages, t.keys())
		default:
			m.calm()
		}
	}
	return m.err
}

func envelopeOf(i int) string {
	return strings.Replace(envelope(fmt.Sprint(i), i%3*3), `"routing_key": "q"`, fmt.Sprintf(`"routing_key": "q%d"`, i%2), 1)
}

// connect opens a session without goroutines: the model is its clock.
func (m *model) connect() *store {
	m.made++
	env := driver.Env{Owner: fmt.Sprint("o", m.made), Notify: func(driver.Event) {}, Log: slog.New(slog.DiscardHandler)}
	s, err := greeted(soon(m), m.cfg, env)
	if err != nil {
		m.Fatal(err)
	}
	return s
}

func (m *model) hangUp() {
	for _, o := range m.owners {
		abandon(m.tester, o.store)
	}
	abandon(m.tester, m.reaper)
}

func (m *model) wild() {
	o := m.owners[m.rnd.IntN(len(m.owners))]
	switch m.rnd.IntN(15) {
	case 0, 1:
		m.claimSome(o)
	case 2, 3, 4:
		m.settleSome(o, driver.Outcome(m.rnd.IntN(3))) // ack, requeue, release
	case 5:
		m.mirror(o)
	case 6: // paused for longer than its lease: it wakes and goes on
		m.do("DEL", aliveKey+o.env.Owner)
	case 7:
		if m.rnd.IntN(3) == 0 {
			m.do("DEL", aliveKey+o.env.Owner)
			m.replace(o)
		}
	case 8:
		m.reap()
	case 9:
		m.pythonTakes()
	case 10:
		m.pythonAcks()
	case 11:
		m.pythonSweeps()
	case 12:
		if m.rnd.IntN(4) == 0 {
			clear(m.python) // it dies
		}
	case 13:
		if m.rnd.IntN(4) == 0 {
			m.reaper.sweep("99999999999")
		}
	case 14:
		m.reapPartly()
	}
}

// calm lets the survivors finish.
func (m *model) calm() {
	o := m.owners[m.rnd.IntN(len(m.owners))]
	switch m.rnd.IntN(6) {
	case 0, 1:
		m.claimSome(o)
	case 2, 3:
		m.settleSome(o, driver.Ack)
	case 4:
		m.reap()
	case 5:
		m.reaper.sweep("99999999999")
	}
}

func (m *model) replace(o *modelOwner) {
	abandon(m.tester, o.store)
	o.store, o.open = m.connect(), nil
}

func (m *model) see(raw []byte) (int, bool) {
	var id int
	if _, err := fmt.Sscan(bodyOf(m, raw), &id); err != nil || !json.Valid(raw) {
		m.err = fmt.Errorf("a text is broken: %q", raw)
		return 0, false
	}
	if m.acked[id] {
		m.err = fmt.Errorf("%d was acked and came back", id)
	}
	return id, m.err == nil
}

func (m *model) claimSome(o *modelOwner) {
	n := 1 + m.rnd.IntN(5)
	dst := make([]virtual.Claim, n)
	wants := []virtual.Want{{Queue: "q0", Max: n}, {Queue: "q1", Max: n}}
	if m.rnd.IntN(2) == 0 {
		slices.Reverse(wants)
	}
	n, err := o.Claim(context.Background(), virtual.ClaimRequest{Wants: wants}, dst)
	if errors.Is(err, driver.ErrLeaseLost) {
		m.replace(o)
		return
	} else if err != nil {
		m.err = err
	}
	for _, c := range dst[:n] {
		if id, ok := m.see(c.Raw); ok {
			o.open = append(o.open, modelClaim{c.Tag, id})
		}
	}
}

func (m *model) settleSome(o *modelOwner, how driver.Outcome) {
	if len(o.open) == 0 {
		return
	}
	m.rnd.Shuffle(len(o.open), func(i, j int) { o.open[i], o.open[j] = o.open[j], o.open[i] })
	n := min(1+m.rnd.IntN(4), len(o.open))
	st := make([]virtual.Settlement, n)
	for i, c := range o.open[:n] {
		st[i].Tag, st[i].Outcome = c.tag, how
	}
	_ = o.Settle(context.Background(), st)
	for i, c := range o.open[:n] {
		switch {
		case st[i].Err == nil && how == driver.Ack:
			m.acked[c.id] = true
		case st[i].Err != nil && !errors.Is(st[i].Err, driver.ErrLeaseLost):
			m.err = st[i].Err
		}
	}
	o.open = o.open[n:]
	if o.Err() != nil {
		m.replace(o)
	}
}

func (m *model) mirror(o *modelOwner) {
	if _, err := o.tick(0); errors.Is(err, driver.ErrLeaseLost) {
		m.replace(o)
	} else if err != nil {
		m.err = err
	}
}

// reap takes over from every owner whose alive key is gone, some scripts of it
// only, so that others come in between.
func (m *model) reap() {
	owners, _ := m.do("ZRANGE", ownersKey, "0", "-1").AsStrSlice()
	for _, owner := range owners {
		if m.number("EXISTS", aliveKey+owner) == 0 {
			if _, err := m.reaper.reap(owner, true); err != nil {
				m.err = err
			}
		}
	}
}

// reapPartly takes over as one that is slow, or dies over it: one claim of one
// list, and then perhaps it tries to forget the owner.
func (m *model) reapPartly() {
	owners, _ := m.do("ZRANGE", ownersKey, "0", "-1").AsStrSlice()
	k := &m.reaper.keys
	for _, owner := range owners {
		if m.number("EXISTS", aliveKey+owner) == 1 || m.rnd.IntN(2) == 0 {
			continue
		}
		forget := []string{k.alive(owner), k.owners(), k.ledger(owner)}
		for _, list := range append(k.lists("q0"), k.lists("q1")...) {
			forget = append(forget, k.own(owner, list))
			if m.rnd.IntN(2) == 0 {
				m.reaper.script(reapScript, []string{k.alive(owner), k.ledger(owner), k.own(owner, list), list, k.unacked, k.index},
					[]string{owner, list, tombstone(owner), "1", "1", "2"})
			}
		}
		if m.rnd.IntN(2) == 0 {
			m.reaper.script(forgetScript, forget, []string{owner})
		}
	}
}

// leftovers: when all is acked and everybody has gone, the database is empty.
func (m *model) leftovers() error {
	for _, o := range m.owners {
		m.do("DEL", aliveKey+o.env.Owner)
	}
	owners, _ := m.do("ZRANGE", ownersKey, "0", "-1").AsStrSlice()
	for _, owner := range owners {
		if owner != m.reaper.env.Owner {
			m.do("DEL", aliveKey+owner)
			if _, err := m.reaper.reap(owner, true); err != nil {
				return err
			}
		}
	}
	if err := m.reaper.Close(soon(m)); err != nil {
		return err
	}
	if left := m.keys(); left != "[]" {
		return fmt.Errorf("left behind: %s", left)
	}
	return nil
}

func (m *model) pythonTakes() {
	queue := fmt.Sprint("q", m.rnd.IntN(2))
	for _, list := range m.reaper.keys.lists(queue) {
		text, err := m.do("RPOP", list).ToString()
		if err != nil {
			continue
		}
		id, ok := m.see([]byte(text))
		if !ok {
			return
		}
		m.taken++
		field := fmt.Sprint("py", m.taken)
		m.do("HSET", "unacked", field, "["+text+`, "", "`+queue+`"]`)
		m.do("ZADD", "unacked_index", "1", field)
		m.python[field] = id
		return
	}
}

func (m *model) pythonAcks() {
	for field, id := range m.python {
		delete(m.python, field)
		m.do("ZREM", "unacked_index", field)
		if m.number("HDEL", "unacked", field) == 1 {
			m.acked[id] = true
		}
		return
	}
}

// pythonSweeps restores some entries, also renewed ones of ours: a clock may
// be wrong, and then there may be duplicates, but nothing worse.
func (m *model) pythonSweeps() {
	fields, _ := m.do("ZRANGE", "unacked_index", "0", "-1").AsStrSlice()
	for _, field := range fields {
		if m.rnd.IntN(2) == 0 {
			continue
		}
		entry, err := m.do("HGET", "unacked", field).ToString()
		m.do("ZREM", "unacked_index", field)
		m.do("HDEL", "unacked", field)
		if err != nil {
			continue
		}
		var parts []json.RawMessage
		var queue string
		if json.Unmarshal([]byte(entry), &parts) != nil || len(parts) != 3 || json.Unmarshal(parts[2], &queue) != nil {
			m.err = fmt.Errorf("kombu's sweep would stop at %q", entry)
			return
		}
		m.do("RPUSH", queue, string(markRedelivered(parts[0]))) // 5.2: to the plain list
	}
}

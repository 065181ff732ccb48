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

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

var modelSeeds = flag.Int("model.seeds", 15, "seeds of the claim protocol's model")

// The claim protocol under random interleavings on a real server: owners in two
// databases that claim, count starts, settle, mirror, lose answers and
// connections, are paused and fenced, or die; a server that is restarted; a
// reaper; a sweeper; Kombu peers that take, ack, restore and die. Nothing is
// lost, nothing that was acked is delivered again, no count falls.
func TestModel(tt *testing.T) {
	dbs := modelServer(tt)
	for seed := range *modelSeeds {
		if err := runModel(dbs, uint64(seed)); err != nil {
			tt.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// modelServer is a server of the model's own, seen through two databases.
func modelServer(tt *testing.T) []*tester {
	v := startServer(tt)
	dbs := make([]*tester, 2)
	for db := range dbs {
		dbs[db] = &tester{TB: tt, config: Config{Addr: v.addr, DB: db}, raw: rawClient(tt, v.addr, db)}
	}
	return dbs
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
	begun  map[int]int    // starts that were counted
	python map[string]int // entries of unacked that a Kombu peer holds
	taken  int
	err    error
}

type modelOwner struct {
	*store
	open []modelClaim
}

type modelClaim struct {
	tag     driver.Tag
	id      int
	attempt int
	sent    bool  // it was settled, and the answer lost:
	ours    int64 // this one
}

func runModel(dbs []*tester, seed uint64) error {
	dbs[0].Helper()
	dbs[0].do("FLUSHALL")
	rnd := rand.New(rand.NewPCG(seed, 1))
	var all []*model
	for _, t := range dbs {
		m := newModel(t, rnd)
		defer m.hangUp()
		all = append(all, m)
	}
	for step := 0; ; step++ {
		m := all[rnd.IntN(len(all))]
		switch {
		case step < modelWild:
			if m.wild(); rnd.IntN(100) == 0 {
				for _, m := range all {
					m.restart()
				}
			}
		case len(m.acked) == modelMessages:
			if err := m.leftovers(); err != nil {
				return err
			}
			if all = slices.DeleteFunc(all, func(o *model) bool { return o == m }); len(all) == 0 {
				return nil
			}
		case step > modelLast:
			return fmt.Errorf("lost: %d of %d acked, keys %s", len(m.acked), modelMessages, m.keys())
		default:
			m.calm()
		}
		if m.err != nil {
			return m.err
		}
	}
}

func newModel(t *tester, rnd *rand.Rand) *model {
	t.Helper()
	c := t.config
	c.Steps = []int{0, 5}
	cfg, err := c.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	m := &model{tester: t, rnd: rnd, cfg: cfg, acked: map[int]bool{}, begun: map[int]int{}, python: map[string]int{}}
	m.reaper = m.connect()
	for i := range modelMessages {
		m.pushItems(m.reaper, []virtual.Item{{Queue: fmt.Sprint("q", i%2), Priority: uint8(i % 3 * 3), Raw: []byte(envelopeOf(i))}})
	}
	for range 3 {
		m.owners = append(m.owners, &modelOwner{store: m.connect()})
	}
	return m
}

func envelopeOf(i int) string {
	return strings.Replace(envelope(fmt.Sprint(i), i%3*3), `"routing_key": "q"`, fmt.Sprintf(`"routing_key": "q%d"`, i%2), 1)
}

// connect opens a session without goroutines: the model is its clock.
func (m *model) connect() *store {
	m.made++
	env := driver.Env{Role: driver.Consume, Owner: fmt.Sprint("o", m.made), Notify: func(driver.Event) {}, Log: slog.New(slog.DiscardHandler)}
	s, err := greeted(soon(m), m.cfg, env)
	if err != nil {
		m.Fatal(err)
	}
	s.longest = 0 // so that claims are set aside at once
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
	switch m.rnd.IntN(20) {
	case 0, 1:
		m.claimSome(o, false)
	case 2, 3, 4:
		m.settleSome(o, driver.Outcome(m.rnd.IntN(3)), false) // ack, requeue, release
	case 15:
		m.beginSome(o)
	case 16:
		m.claimSome(o, true)
		m.relink(o)
	case 17:
		m.settleSome(o, driver.Outcome(m.rnd.IntN(3)), true)
	case 18, 19:
		m.relink(o)
	case 5:
		m.mirror(o)
	case 6: // paused for longer than its lease: it wakes and goes on
		if m.rnd.IntN(2) == 0 {
			m.mirror(o)
		}
		m.do("DEL", aliveKey+o.env.Owner)
		switch m.rnd.IntN(3) {
		case 0: // taken over meanwhile
			m.reap()
			m.claimSome(o, false)
		case 1:
			m.reapPartly()
			m.relink(o)
		}
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
		m.claimSome(o, false)
	case 2, 3:
		m.settleSome(o, driver.Ack, false)
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
	if n := tries(string(raw)); n < m.begun[id] {
		m.err = fmt.Errorf("%d was started %d times and came back with a count of %d", id, m.begun[id], n)
	}
	return id, m.err == nil
}

// claimSome claims, and forgets what it got when the answer is to be lost.
func (m *model) claimSome(o *modelOwner, lost bool) {
	n := 1 + m.rnd.IntN(5)
	dst := make([]virtual.Claim, n)
	wants := []virtual.Want{{Queue: "q0", Max: n}, {Queue: "q1", Max: n}}
	if m.rnd.IntN(2) == 0 {
		slices.Reverse(wants)
	}
	tops := map[*ownList]uint64{}
	for _, l := range o.own {
		tops[l] = l.top
	}
	n, err := o.Claim(context.Background(), virtual.ClaimRequest{Wants: wants}, dst)
	if errors.Is(err, driver.ErrLeaseLost) {
		m.replace(o)
		return
	} else if err != nil {
		m.err = err
	}
	for _, c := range dst[:n] {
		if lost {
			l := o.listOf(c.Tag)
			o.forget(l, c.Tag.ID)
			l.top = tops[l]
		} else if id, ok := m.see(c.Raw); ok {
			o.open = append(o.open, modelClaim{tag: c.Tag, id: id, attempt: c.Attempt})
		}
	}
}

// settleSome settles, or has the answer lost; a repeat must say what the first
// would have said.
func (m *model) settleSome(o *modelOwner, how driver.Outcome, lost bool) {
	if len(o.open) == 0 {
		return
	}
	m.rnd.Shuffle(len(o.open), func(i, j int) { o.open[i], o.open[j] = o.open[j], o.open[i] })
	n := min(1+m.rnd.IntN(4), len(o.open))
	if lost {
		m.settleLost(o, &o.open[0], how)
		return
	}
	st := make([]virtual.Settlement, n)
	for i, c := range o.open[:n] {
		st[i].Tag, st[i].Outcome = c.tag, how
	}
	_ = o.Settle(context.Background(), st)
	for i, c := range o.open[:n] {
		switch {
		case st[i].Err != nil && !errors.Is(st[i].Err, driver.ErrLeaseLost):
			m.err = st[i].Err
		case c.sent && o.Err() == nil && (st[i].Err == nil) != (c.ours == 1):
			m.err = fmt.Errorf("%d: the first settle said %d, its repeat %v", c.id, c.ours, st[i].Err)
		case !c.sent && st[i].Err == nil && how == driver.Ack:
			m.acked[c.id] = true
		}
	}
	o.open = o.open[n:]
	if o.Err() != nil {
		m.replace(o)
	}
}

func (m *model) settleLost(o *modelOwner, c *modelClaim, how driver.Outcome) {
	if c.sent {
		return
	}
	l := o.listOf(c.tag)
	keys, args, _ := o.settleArgs(l, []*virtual.Settlement{{Settlement: driver.Settlement{Tag: c.tag, Outcome: how}}})
	answer := o.script(settleScript, keys, args)
	if lost, err := answer.AsIntSlice(); err == nil {
		c.sent, c.ours = true, int64(1-len(lost))
		if c.ours == 1 && how == driver.Ack {
			m.acked[c.id] = true
		}
	}
}

func (m *model) beginSome(o *modelOwner) {
	if len(o.open) == 0 {
		return
	}
	i := m.rnd.IntN(len(o.open))
	c := &o.open[i]
	if c.sent {
		return
	}
	attempt := max(c.attempt, 1) + m.rnd.IntN(2)
	st := []driver.Start{{Tag: c.tag, Attempt: attempt}}
	_ = o.Begin(context.Background(), st)
	switch {
	case o.Err() != nil:
		m.replace(o)
	case st[0].Err == nil:
		m.begun[c.id] = max(m.begun[c.id], attempt)
		c.attempt = attempt
	case errors.Is(st[0].Err, driver.ErrLeaseLost):
		o.open = slices.Delete(o.open, i, i+1)
	default:
		m.err = st[0].Err
	}
}

// relink cuts an owner's connection and lets it connect again.
func (m *model) relink(o *modelOwner) {
	o.lost(errors.New("cut by the model"))
	<-o.broken
	if o.relink(); o.Err() != nil {
		m.replace(o)
	}
}

// restart makes everybody connect again, to what looks like another server.
func (m *model) restart() {
	for _, o := range append(m.owners, &modelOwner{store: m.reaper}) {
		o.run = "another/1"
		m.relink(o)
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
			for range m.rnd.IntN(4) {
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

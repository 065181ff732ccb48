package redis

import (
	"crypto/rand"
	"encoding/json"
	"slices"
	"strconv"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/wire/kombu"
)

// sweeper takes over what others left: overdue claims of Kombu peers, and the
// own lists of dead owners.
func (s *store) sweeper() {
	var swept, idle time.Time // the last sweep; until when there is nothing to restore
	var stuck int64
	watch, strays := vigil{}, search{}
	for n := 0; ; n++ {
		var r tickReport
		select {
		case r = <-s.ticked:
		case <-s.stop:
			return
		case <-s.done:
			return
		}
		select { // so that the connection is not replaced meanwhile
		case s.slots <- struct{}{}:
		case <-s.stop:
			return
		case <-s.done:
			return
		}
		s.recall()
		s.mend(n%mendAll == 0)
		died := s.takeOver(&watch, r)
		now := time.Now()
		if strays.due(r, s.unlisted.Swap(false), died, now) {
			s.findStrays()
		}
		if r.overdue > 0 && now.Sub(swept) >= s.cfg.RestoreInterval && (r.overdue != stuck || now.After(idle)) {
			swept = now
			if s.sweep(r.due) == 0 { // entries that lead nowhere: look again when they are more
				stuck, idle = r.overdue, now.Add(time.Minute)
			} else {
				stuck = 0
			}
		}
		<-s.slots
	}
}

// recall gives back claims of our own that got astray while the connection stood.
func (s *store) recall() {
	if !s.astray.Swap(false) {
		return
	}
	select {
	case s.taking <- struct{}{}:
	case <-s.stop:
		return
	case <-s.done:
		return
	}
	defer s.endTaking()
	if s.returnStrays() != nil {
		s.astray.Store(true)
	}
}

// sweep restores overdue entries of Kombu's unacked as Kombu does, under its
// lock; held by another peer, it is left to that one. It returns how many
// entries are settled by it, -1 when it could not run.
func (s *store) sweep(due string) int {
	token := rand.Text()
	c := s.link.client
	if _, err := c.Do(s.ctx, s.command("SET", s.keys.lock, token, "NX", "PX", millis(s.cfg.MutexExpire))).ToString(); err != nil {
		return -1
	}
	defer s.script(unlockScript, []string{s.keys.lock}, []string{token})
	args := []string{"ZREVRANGEBYSCORE", s.keys.index, due, "0"}
	if s.cfg.RestoreLimit > 0 {
		args = append(args, "LIMIT", "0", strconv.Itoa(s.cfg.RestoreLimit))
	}
	ids, err := c.Do(s.ctx, s.command(args...)).AsStrSlice()
	if err != nil {
		return -1
	}
	done, routes := 0, map[string]routes{}
	for chunk := range slices.Chunk(ids, 16) { // newest first: the oldest ends up next
		entries, err := c.Do(s.ctx, s.command(append([]string{"HMGET", s.keys.unacked}, chunk...)...)).ToArray()
		if err != nil || s.stopping() {
			return -1
		}
		for i, id := range chunk {
			entry, _ := entries[i].ToString() // empty when it is gone: then only the index is cleaned
			if s.restore(id, entry, due, routes) {
				done++
			}
		}
	}
	if done > 0 {
		s.env.Log.Info("redis: restored messages of silent peers", "count", done)
	}
	return done
}

// restore puts one entry, [envelope, exchange, routing key], back. The queues
// are those that Kombu's own sweep would choose: the routing key's when the
// exchange is "", which is how a Go process mirrors its claims, else all that
// the binding table gives now. An entry that leads nowhere is left: Kombu
// would lose the message.
func (s *store) restore(id, entry, due string, routes map[string]routes) bool {
	keys, text := []string{s.keys.unacked, s.keys.index}, ""
	if entry != "" {
		var parts []json.RawMessage
		var exchange, key string
		if json.Unmarshal([]byte(entry), &parts) != nil || len(parts) != 3 ||
			json.Unmarshal(parts[1], &exchange) != nil || json.Unmarshal(parts[2], &key) != nil {
			s.warnOnce(s.keys.unacked, "the entry "+strconv.Quote(id)+" is not what Kombu writes; Kombu's own sweep stops at it")
			return false
		}
		queues := []string{key}
		if exchange != "" {
			queues = s.kombuRoute(exchange, key, routes)
		}
		var in driver.Incoming
		_ = kombu.Decode(parts[0], &in) // priority 0 when it is no envelope
		for _, q := range queues {
			if s.keys.checkQueue("restore", q) == nil {
				keys = append(keys, s.keys.full(s.keys.list(q, in.Props.Priority)))
			}
		}
		if len(keys) == 2 {
			s.warnOnce(exchange, "an overdue message of this exchange, routing key "+strconv.Quote(key)+", has no queue to be restored to; it is left in "+s.keys.unacked)
			return false
		}
		text = string(markRedelivered(parts[0]))
	}
	n, err := s.script(restoreScript, keys, []string{id, due, text}).AsInt64()
	return err == nil && (n == 1 || entry == "")
}

// markRedelivered sets the two flags that Kombu's restore sets, where there
// are the tables to hold them, and leaves every other byte as it is.
func markRedelivered(envelope []byte) []byte {
	envelope = setFlag(envelope, "headers", "redelivered")
	return setFlag(envelope, "properties", "delivery_info", "redelivered")
}

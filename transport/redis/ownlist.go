package redis

import (
	"time"

	"github.com/redis/rueidis"
)

// An ownList is this owner's claims out of one list of Kombu's: moved there by
// RPOPLPUSH, so that at no moment a message is nowhere, and at positions counted
// from the oldest ever moved, which name the claims.
type ownList struct {
	queue, list string
	source      string // with the prefix
	belief      belief // about source

	// Set by enlist, for good.
	ref, key string // <owner>:<list>, Tag.Ref; and with the prefix
	base     string // its field of the ledger

	// What is sent again and again, by enlist too.
	begin, move, place, length, look rueidis.Completed

	// Guarded by store.mu.
	open     map[uint64]held // by position; nil: nothing was ever claimed
	top      uint64          // the newest that is accounted for
	low      uint64          // up to here none is open
	mirrored uint64          // up to here claims are in Kombu's unacked too
	chunk    int             // how many to ask for: grows while the list fills it
	size     int             // of the largest text of the last chunk
}

// held is an open claim.
type held struct {
	at     time.Time
	size   int
	text   string // until it is judged
	judged bool
	good   bool // it may be mirrored
}

// Chunks of a claim: the first is small, because one call may not hold the
// server up whatever the size of the messages, and because a message that comes
// alone shall not wait for many moves that find nothing.
const (
	firstChunk  = 2
	chunkGrowth = 4
	lastChunk   = 512
	maxRounds   = 32
)

func (s *store) ownList(list string) *ownList {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.own[list]
	if l == nil {
		l = &ownList{queue: s.keys.queueOf(list), list: list, source: s.keys.full(list), chunk: firstChunk}
		s.track.know(l)
		s.own[list] = l
	}
	return l
}

// enlist makes an own list ready for its first claim. Most lists are of a
// priority that nobody uses, and never have more than a name.
func (s *store) enlist(l *ownList) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.used() {
		return
	}
	ledger := s.keys.ledger(s.env.Owner)
	l.open = map[uint64]held{}
	l.ref, l.base, l.key = s.env.Owner+":"+l.list, "b:"+l.list, s.keys.own(s.env.Owner, l.list)
	l.begin = s.command("HSETNX", ledger, l.base, "0").Pin()
	l.move = s.command("RPOPLPUSH", l.source, l.key).Pin() // LMOVE, with two words less to be read, copied and freed
	l.place = s.command("HMGET", ledger, l.base).Pin()
	l.length = s.command("LLEN", l.key).Pin()
	l.look = s.command("LLEN", l.source).Pin()
}

// used: something may have been claimed. Under store.mu.
func (l *ownList) used() bool { return l.open != nil }

// learn sizes the next chunk. Under store.mu.
func (l *ownList) learn(texts []string, asked int) {
	if len(texts) == asked && asked == l.chunk {
		l.chunk = min(chunkGrowth*l.chunk, lastChunk)
	} else if len(texts) < asked && len(texts) <= l.chunk/4 {
		l.chunk = max(l.chunk/2, firstChunk)
	}
	if len(texts) > 0 {
		l.size = 0
		for _, t := range texts {
			l.size = max(l.size, len(t))
		}
	}
}

package simulation

import (
	"slices"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// lease is how long an owner may be silent before its claims go back.
const lease = 10 * time.Second

// A bug is something wrong that is put in on purpose.
type bug string

const (
	none            bug = ""
	ackFirst        bug = "the handler acks before it works"
	popThenRegister bug = "a claim is popped, and registered in a second round trip"
	lostRenewal     bug = "the heartbeat stops"
	noFence         bug = "a settle names the message, not the claim"
	earlyConfirm    bug = "a push is confirmed before it is kept"
	tailRequeue     bug = "what comes back goes behind the others"
	deafClaim       bug = "a claim whose answer was lost is kept"
	uncounted       bug = "a start is not counted"
	notSentSaid     bug = "a lost answer is called not sent"
)

// server is a broker of lists, as it is on its disk: it survives restarts.
type server struct {
	bug bug

	mu     sync.Mutex
	down   bool
	queues map[string][]*item
	owners map[string]*owner
	claims map[uint64]*claim
	seq    uint64
	wake   chan struct{} // closed and replaced when something was put into a queue
}

type item struct {
	seq    uint64
	raw    []byte
	again  bool // redelivered
	starts int
	at     time.Time // of the push
}

type owner struct {
	beat time.Time
}

type claim struct {
	id    uint64
	owner string
	queue string
	it    *item
}

func newServer(b bug) *server {
	return &server{bug: b, queues: map[string][]*item{}, owners: map[string]*owner{}, claims: map[uint64]*claim{}, wake: make(chan struct{})}
}

func (s *server) ring() {
	close(s.wake)
	s.wake = make(chan struct{})
}

// restart takes the server down or up; what it has on disk stays.
func (s *server) restart(down bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.down = down
	if !down {
		return
	}
	if s.bug == earlyConfirm {
		for q := range s.queues {
			s.queues[q] = slices.DeleteFunc(s.queues[q], func(it *item) bool { return time.Since(it.at) < 200*time.Millisecond })
		}
	}
	for _, o := range s.owners {
		o.beat = time.Now() // nobody could renew
	}
	s.ring()
}

// join makes an owner known.
func (s *server) join(id string) { s.owners[id] = &owner{beat: time.Now()} }

// renew is the heartbeat of an owner; false when it was taken over. It looks
// for others that are silent, as every session of Redis does.
func (s *server) renew(id string) bool {
	if s.owners[id] == nil {
		return false
	}
	s.owners[id].beat = time.Now()
	for other, o := range s.owners {
		if time.Since(o.beat) > lease {
			s.bury(other)
		}
	}
	return true
}

// bury gives back what an owner had.
func (s *server) bury(id string) {
	delete(s.owners, id)
	var ids []uint64
	for n, c := range s.claims {
		if c.owner == id {
			ids = append(ids, n)
		}
	}
	slices.Sort(ids)
	for _, n := range slices.Backward(ids) {
		s.back(n, true)
	}
}

// back puts a claimed item at the head of its queue.
func (s *server) back(id uint64, started bool) {
	c := s.claims[id]
	delete(s.claims, id)
	if started {
		c.it.again, c.it.starts = true, max(1, c.it.starts)
	}
	q := s.queues[c.queue]
	if s.bug == tailRequeue {
		q = append(q, c.it)
	} else {
		at, _ := slices.BinarySearchFunc(q, c.it.seq, func(it *item, seq uint64) int { return int(it.seq) - int(seq) })
		q = slices.Insert(q, at, c.it)
	}
	s.queues[c.queue] = q
	s.ring()
}

func (s *server) has(queue string) error {
	if _, ok := s.queues[queue]; !ok {
		return &driver.Error{Op: "push", Transport: "sim", Entity: queue, Kind: driver.ErrNotFound}
	}
	return nil
}

func (s *server) push(it *virtual.Item) error {
	if err := s.has(it.Queue); err != nil {
		return err
	}
	s.seq++
	s.queues[it.Queue] = append(s.queues[it.Queue], &item{seq: s.seq, raw: slices.Clone(it.Raw), at: time.Now()})
	s.ring()
	return nil
}

// take claims for an owner.
func (s *server) take(owner string, r *virtual.ClaimRequest, dst []virtual.Claim) int {
	n := 0
	for _, w := range r.Wants {
		for got := 0; got < w.Max && n < len(dst) && len(s.queues[w.Queue]) > 0; got++ {
			it := s.queues[w.Queue][0]
			s.queues[w.Queue] = s.queues[w.Queue][1:]
			s.seq++
			id := s.seq
			if s.bug == noFence {
				id = it.seq
			}
			s.claims[id] = &claim{id: id, owner: owner, queue: w.Queue, it: it}
			dst[n] = virtual.Claim{Queue: w.Queue, Tag: driver.Tag{ID: id, Ref: owner}, Raw: slices.Clone(it.raw), Redelivered: it.again}
			if it.starts > 0 {
				dst[n].Attempt = it.starts + 1
			}
			n++
		}
	}
	return n
}

var errLost = &driver.Error{Op: "settle", Transport: "sim", Kind: driver.ErrLeaseLost}

// find returns the claim of a tag, if it is still its owner's.
func (s *server) find(owner string, tag driver.Tag) *claim {
	c := s.claims[tag.ID]
	if c != nil && (s.bug == noFence || c.owner == owner && s.owners[owner] != nil) {
		return c
	}
	return nil
}

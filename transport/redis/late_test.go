package redis

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// A heldConn delivers what the server answers only while its gate is open.
type heldConn struct {
	net.Conn
	gate *sync.RWMutex
}

func (c heldConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.gate.RLock() // the test holds it for writing while it is shut
	c.gate.RUnlock()
	return n, err
}

func (t *tester) openHeld() (*store, *sync.RWMutex) {
	t.Helper()
	gate := &sync.RWMutex{}
	s, _ := t.open(func(c *Config) {
		c.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
			conn, err := (&net.Dialer{}).DialContext(ctx, network, addr)
			return heldConn{conn, gate}, err
		}
	})
	return s, gate
}

// abandonClaim makes a claim of n whose caller goes away before the answer comes.
func (t *tester) abandonClaim(s *store, queue string, n int) {
	t.Helper()
	before := t.number("LLEN", ownKey+s.env.Owner+":"+queue)
	ctx, cancel := context.WithCancel(soon(t))
	var wg sync.WaitGroup
	wg.Go(func() {
		got, err := s.Claim(ctx, virtual.ClaimRequest{Wants: []virtual.Want{{Queue: queue, Max: n}}}, make([]virtual.Claim, n))
		if got != 0 || err == nil {
			t.Errorf("an abandoned claim: %d, %v", got, err)
		}
	})
	eventually(t, "the server to claim", func() bool { return t.number("LLEN", ownKey+s.env.Owner+":"+queue) == before+n })
	cancel()
	wg.Wait()
}

// overtaken waits until something has happened that must not, for a little while.
func (t *tester) overtaken(ok func() bool) {
	for end := time.Now().Add(200 * time.Millisecond); !ok() && time.Now().Before(end); {
		time.Sleep(time.Millisecond) // between looks
	}
}

// What an abandoned claim brings goes back before the next claim takes more.
func TestAnAbandonedClaimIsNotOvertaken(tt *testing.T) {
	t := newTester(tt)
	s, gate := t.openHeld()
	t.push(s, "q", "a", "b", "c", "d", "e", "f")
	gate.Lock()
	t.abandonClaim(s, "q", 2)
	var next []virtual.Claim
	var wg sync.WaitGroup
	wg.Go(func() { next = t.claim(s, 2, "q") })
	t.overtaken(func() bool { return t.number("LLEN", "q") < 4 })
	gate.Unlock()
	wg.Wait()
	want(t, "the next claim", t.bodies(next), "a b")
}

// What is given back is older than what an abandoned claim brings, and lies
// before it again.
func TestGivingBackIsNotOvertakenByAnAbandonedClaim(tt *testing.T) {
	t := newTester(tt)
	s, gate := t.openHeld()
	t.push(s, "q", "a", "b", "c", "d", "e", "f")
	first := t.claim(s, 2, "q")
	gate.Lock()
	t.abandonClaim(s, "q", 2)
	var wg sync.WaitGroup
	wg.Go(func() { t.mustSettle(s, driver.Release, first...) })
	t.overtaken(func() bool { return t.number("LLEN", "q") > 2 })
	gate.Unlock()
	wg.Wait()
	eventually(t, "all to be given back", func() bool { return t.number("LLEN", "q") == 6 })
	want(t, "ready", t.ready("q"), "a b c d e f")
}

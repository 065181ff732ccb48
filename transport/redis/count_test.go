package redis

import (
	"strings"
	"testing"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

// begin counts one start and returns its error.
func (t *tester) begin(s *store, attempt int, claims ...virtual.Claim) []error {
	t.Helper()
	starts := make([]driver.Start, len(claims))
	for i := range claims {
		starts[i] = driver.Start{Tag: claims[i].Tag, Attempt: attempt}
	}
	if err := s.Begin(soon(t), starts); err != nil && s.Err() == nil {
		t.Fatal(err)
	}
	errs := make([]error, len(claims))
	for i := range starts {
		errs[i] = starts[i].Err
	}
	return errs
}

func counted(starts, text string) string { return `{"gombu-try": ` + starts + `, ` + text[1:] }

// The count is in the text before Begin returns, whether the claim is mirrored
// or not, so that any way back carries it: give-back, a reaper, Kombu's sweep.
func TestBeginCountsBeforeTheStart(tt *testing.T) {
	t := aside(tt)
	s, _ := t.open(func(c *Config) { c.Mirror = MirrorNever })
	t.push(s, "q", "a", "b", "c")
	got := t.claim(s, 3, "q")
	for _, err := range t.begin(s, 2, got[0], got[2]) {
		wantKind(t, "begin", err, nil)
	}
	want(t, "repeat", t.begin(s, 2, got[0])[0], nil)
	want(t, "a count never falls", t.begin(s, 1, got[0])[0], nil)
	own := t.list(ownKey + s.env.Owner + ":q")
	want(t, "counted", own[2], counted("2", envelope("a", 0)))
	want(t, "not counted", own[1], envelope("b", 0))
	want(t, "one further", t.begin(s, 12, got[2])[0], nil)
	t.mustSettle(s, driver.Requeue, got[0], got[1])
	t.mustSettle(s, driver.Release, got[2])
	again := t.claim(s, 3, "q")
	want(t, "bodies", t.bodies(again), "c a b")
	for i, attempt := range []int{13, 3, 2} {
		want(t, "attempt", again[i].Attempt, attempt)
	}
	abandon(t, s)
	other, _ := t.open()
	eventually(t, "the claims to come back", func() bool { return t.number("LLEN", "q") == 3 })
	again = t.claim(other, 3, "q")
	want(t, "bodies", t.bodies(again), "c a b")
	for i, attempt := range []int{13, 3, 2} {
		want(t, "attempt after taking over", again[i].Attempt, attempt)
	}
}

func TestBeginCountsInTheMirror(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open(func(c *Config) { c.Mirror = MirrorAlways })
	t.push(s, "q", "a", "b")
	t.pushItems(s, []virtual.Item{{Queue: "q", Raw: []byte(`{"no": "envelope"}`)}})
	got := t.claim(s, 3, "q")
	for _, err := range t.begin(s, 2, got...) {
		wantKind(t, "begin", err, nil)
	}
	id := s.env.Owner + ":q:"
	entry, _ := t.do("HGET", "unacked", id+"1").ToString()
	want(t, "mirror", entry, "["+counted("2", envelope("a", 0))+`, "", "q"]`)
	entry, _ = t.do("HGET", "unacked", id+"3").ToString()
	want(t, "mirror of what Kombu must not see", entry, "")
	t.do("HDEL", "unacked", id+"2") // Kombu's sweep
	t.do("ZREM", "unacked_index", id+"2")
	wantKind(t, "begin of what Python took", t.begin(s, 3, got[1])[0], driver.ErrLeaseLost)
	wantKind(t, "and its settle", t.settle(s, driver.Ack, got[1])[0], driver.ErrLeaseLost)
	s.sweep("99999999999")
	text := t.list("q")[0]
	if !strings.HasPrefix(text, tryStart+"2, ") {
		t.Fatalf("restored as %q", text)
	}
	t.mustSettle(s, driver.Ack, got[2])
}

func TestBeginOfWhatIsNotOurs(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	t.push(s, "q", "a", "b", "c")
	got := t.claim(s, 3, "q")
	t.mustSettle(s, driver.Ack, got[1])
	errs := t.begin(s, 2, got[0], got[1], virtual.Claim{Tag: driver.Tag{ID: 1, Ref: "x:q"}}, virtual.Claim{Tag: driver.Tag{ID: 9, Ref: got[0].Tag.Ref}})
	wantKind(t, "open", errs[0], nil)
	for _, err := range errs[1:] {
		wantKind(t, "not ours", err, driver.ErrLeaseLost)
	}
	t.do("DEL", aliveKey+s.env.Owner)
	wantKind(t, "fenced", t.begin(s, 3, got[2])[0], driver.ErrLeaseLost)
	wantKind(t, "the session", s.Err(), driver.ErrLeaseLost)
}

// A dead letter goes to another queue, at its own priority, in the step that
// ends the claim.
func TestMoveToAnotherQueueByPriority(tt *testing.T) {
	t := newTester(tt)
	g := startGo(t)
	g.declare("dlx", driver.TypeDirect, "dead", "q")
	g.mustPublish("", "q", "poison", driver.Properties{Priority: 4})
	r := g.receiver("q")
	in := g.receive(r, 1)[0]
	if r.Features().Counts != driver.CountStarts {
		t.Fatal("the queue does not say that it counts starts")
	}
	move := []driver.Move{{Tag: in.Tag, To: driver.Outgoing{Exchange: "dlx", Key: "q", Body: in.Body, Props: in.Props}}}
	move[0].To.Props.Priority = 9
	if err := r.(driver.Mover).Move(soon(t), move); err != nil || move[0].Err != nil {
		t.Fatal(err, move[0].Err)
	}
	want(t, "dead letters", t.ready("dead\x06\x169")+t.ready("dead")+t.ready("q\x06\x163"), "cG9pc29u")
	move = []driver.Move{{Tag: in.Tag, To: move[0].To}}
	if _ = r.(driver.Mover).Move(soon(t), move); move[0].Err == nil {
		t.Fatal("moved twice")
	}
	want(t, "dead letters", t.number("LLEN", "dead\x06\x169"), 1)
}

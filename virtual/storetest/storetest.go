// Package storetest is what package virtual asks of a Store, tried on a real
// one. It looks at what the engine relies on; everything that a user sees is
// driver/drivertest's.
package storetest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
	"github.com/gombu/gombu/wire/kombu"
)

// Harness brings a store to the suite.
type Harness struct {
	// Open opens one more session with the same broker.
	Open func(t *testing.T) virtual.Store
	// ImplicitQueues: a queue comes into being by use.
	ImplicitQueues bool
}

// Run runs the suite.
func Run(t *testing.T, h Harness) {
	for name, run := range map[string]func(*kit){
		"Queues": queues, "ClaimBounds": claimBounds, "ClaimWaits": claimWaits, "ClaimOrder": claimOrder, "Settle": settle, "CloseGivesBack": closeGivesBack,
		"ReleaseInOrder": releaseInOrder, "Begin": begin, "Put": put, "Verbatim": verbatim, "NoAck": noAck, "NothingIsKept": nothingKept,
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), time.Minute)
			t.Cleanup(cancel)
			k := &kit{T: t, h: h, ctx: ctx}
			k.Store = k.open()
			k.info = k.Info()
			run(k)
		})
	}
}

type kit struct {
	*testing.T
	virtual.Store
	h    Harness
	ctx  context.Context
	info virtual.Info
}

func (k *kit) open() virtual.Store {
	s := k.h.Open(k.T)
	k.Cleanup(func() { _ = s.Close(context.WithoutCancel(k.ctx)) })
	return s
}

func (k *kit) must(err error) {
	k.Helper()
	if err != nil {
		k.Fatal(err)
	}
}

// queue makes one, which goes with the case.
func (k *kit) queue() string {
	k.Helper()
	name := "storetest." + rand.Text()[:10]
	k.must(k.Create(k.ctx, &driver.Queue{Name: name}))
	k.Cleanup(func() { _ = k.Drop(context.WithoutCancel(k.ctx), name) })
	return name
}

// item is a message for one queue, in the form that the store wants.
func (k *kit) item(queue, body string) virtual.Item {
	m := &driver.Outgoing{Key: queue, Body: []byte(body)}
	it := virtual.Item{Queue: queue, Msg: m}
	if k.info.Bytes {
		it.ID = rand.Text()
		raw, err := kombu.AppendEnvelope(nil, m, it.ID)
		k.must(err)
		it.Raw = raw
	}
	return it
}

func (k *kit) push(queue string, bodies ...string) {
	k.Helper()
	items := make([]virtual.Item, len(bodies))
	for i, b := range bodies {
		items[i] = k.item(queue, b)
	}
	k.must(k.Push(k.ctx, items))
	for i := range items {
		k.must(items[i].Err)
	}
}

// claim takes up to n of a queue, waiting for the first.
func (k *kit) claim(s virtual.Store, n int, queues ...string) []virtual.Claim {
	k.Helper()
	r := virtual.ClaimRequest{MaxBytes: 1 << 20, Wait: 5 * time.Second}
	for _, q := range queues {
		r.Wants = append(r.Wants, virtual.Want{Queue: q, Max: n})
	}
	return k.claimAs(s, r, n)
}

func (k *kit) claimAs(s virtual.Store, r virtual.ClaimRequest, n int) []virtual.Claim {
	k.Helper()
	dst := make([]virtual.Claim, n)
	n, err := s.Claim(k.ctx, r, dst)
	k.must(err)
	return dst[:n]
}

func (k *kit) body(c *virtual.Claim) string {
	k.Helper()
	if !k.info.Bytes {
		return string(c.Msg.Body)
	}
	var in driver.Incoming
	k.must(kombu.Decode(c.Raw, &in))
	return string(in.Body)
}

func (k *kit) want(claims []virtual.Claim, bodies ...string) {
	k.Helper()
	var got []string
	for i := range claims {
		got = append(got, k.body(&claims[i]))
	}
	if !slices.Equal(got, bodies) {
		k.Fatalf("claimed %q, want %q", got, bodies)
	}
}

// end settles claims in one batch and returns the errors.
func (k *kit) end(s virtual.Store, o driver.Outcome, claims ...virtual.Claim) []error {
	k.Helper()
	batch := make([]virtual.Settlement, len(claims))
	for i := range claims {
		batch[i].Tag, batch[i].Outcome = claims[i].Tag, o
	}
	k.must(s.Settle(k.ctx, batch))
	errs := make([]error, len(batch))
	for i := range batch {
		errs[i] = batch[i].Err
	}
	return errs
}

func (k *kit) mustEnd(s virtual.Store, o driver.Outcome, claims ...virtual.Claim) {
	k.Helper()
	for _, err := range k.end(s, o, claims...) {
		k.must(err)
	}
}

func queues(k *kit) {
	q := k.queue()
	k.must(k.Create(k.ctx, &driver.Queue{Name: q})) // again
	k.push(q, "1", "2", "3")
	info, err := k.Stat(k.ctx, q)
	if k.must(err); info.Ready != 3 && info.Ready != -1 {
		k.Errorf("%+v", info)
	}
	if n, err := k.Purge(k.ctx, q); n != 3 || err != nil {
		k.Error(n, err)
	}
	k.must(k.Drop(k.ctx, q))
	k.must(k.Drop(k.ctx, q)) // missing is fine
	if _, err := k.Stat(k.ctx, q); !k.h.ImplicitQueues && !errors.Is(err, driver.ErrNotFound) {
		k.Errorf("stat of a dropped queue: %v", err)
	}
	it := []virtual.Item{k.item(q, "m")}
	k.must(k.Push(k.ctx, it))
	if !k.h.ImplicitQueues && !errors.Is(it[0].Err, driver.ErrNotFound) {
		k.Errorf("push to a dropped queue: %v", it[0].Err)
	}
}

func claimBounds(k *kit) {
	q := k.queue()
	k.push(q, "1", "2", "3", "4", "5")
	k.want(k.claimAs(k.Store, virtual.ClaimRequest{Wants: []virtual.Want{{Queue: q, Max: 2}}}, 5), "1", "2")
	k.want(k.claimAs(k.Store, virtual.ClaimRequest{Wants: []virtual.Want{{Queue: q, Max: 5}}}, 1), "3")
	k.want(k.claimAs(k.Store, virtual.ClaimRequest{Wants: []virtual.Want{{Queue: q, Max: 5}}, MaxBytes: 1}, 5), "4")
}

func claimOrder(k *kit) {
	if k.info.ClaimQueues == 1 {
		k.Skip("one queue at a time")
	}
	a, b := k.queue(), k.queue()
	k.push(a, "a1", "a2")
	k.push(b, "b1", "b2")
	k.want(k.claimAs(k.Store, virtual.ClaimRequest{Wants: []virtual.Want{{Queue: b, Max: 1}, {Queue: a, Max: 5}}}, 5), "b1", "a1", "a2")
}

func claimWaits(k *kit) {
	q := k.queue()
	r := virtual.ClaimRequest{Wants: []virtual.Want{{Queue: q, Max: 1}}}
	k.want(k.claimAs(k.Store, r, 1))
	r.Wait = 20 * time.Millisecond
	k.want(k.claimAs(k.Store, r, 1))
	cause := errors.New("enough")
	ctx, cancel := context.WithTimeoutCause(k.ctx, 20*time.Millisecond, cause)
	defer cancel()
	r.Wait = time.Minute
	start := time.Now()
	if n, err := k.Claim(ctx, r, make([]virtual.Claim, 1)); n != 0 || !errors.Is(err, cause) || time.Since(start) > time.Second {
		k.Fatalf("%d, %v after %v", n, err, time.Since(start))
	}
	other := k.open()
	got := make(chan []virtual.Claim, 1)
	var wg sync.WaitGroup
	wg.Go(func() { got <- k.claimAs(other, r, 1) })
	k.Cleanup(wg.Wait)
	k.push(q, "woken")
	k.want(<-got, "woken")
}

func settle(k *kit) {
	q := k.queue()
	k.push(q, "1", "2", "3")
	first := k.claim(k.Store, 1, q)
	k.mustEnd(k.Store, driver.Ack, first...)
	if errs := k.end(k.Store, driver.Ack, first...); errs[0] != nil && !errors.Is(errs[0], driver.ErrLeaseLost) {
		k.Errorf("settled twice: %v", errs[0])
	}
	unknown := virtual.Claim{Tag: driver.Tag{ID: 1 << 60, Ref: "never"}}
	second := k.claim(k.Store, 1, q)
	errs := k.end(k.Store, driver.Requeue, unknown, second[0])
	if !errors.Is(errs[0], driver.ErrLeaseLost) || errs[1] != nil {
		k.Errorf("%v", errs)
	}
	again := k.claim(k.Store, 5, q)
	k.want(again, "2", "3")
	if !again[0].Redelivered && !k.info.Bytes {
		k.Error("not marked as redelivered")
	}
	if again[0].Tag == second[0].Tag {
		k.Error("a tag names one claim, not one message")
	}
	k.mustEnd(k.Store, driver.Reject, again...)
	k.want(k.claimAs(k.Store, virtual.ClaimRequest{Wants: []virtual.Want{{Queue: q, Max: 1}}}, 1))
}

func closeGivesBack(k *kit) {
	q := k.queue()
	k.push(q, "1", "2", "3", "4")
	first := k.h.Open(k.T)
	claims := k.claim(first, 3, q)
	k.mustEnd(first, driver.Ack, claims[1])
	k.must(first.Close(k.ctx))
	var got []string
	for len(got) < 3 {
		for _, c := range k.claim(k.Store, 5, q) {
			got = append(got, k.body(&c))
		}
	}
	if want := []string{"1", "3", "4"}; !slices.Equal(got, want) && k.info.Queue.Ordered {
		k.Errorf("%q, want %q", got, want)
	}
}

func releaseInOrder(k *kit) {
	if !k.info.Queue.Ordered || !k.info.Queue.Requeue {
		k.Skip("no order is kept")
	}
	q := k.queue()
	for i := range 6 {
		k.push(q, fmt.Sprint(i))
	}
	claims := k.claim(k.Store, 4, q)
	k.mustEnd(k.Store, driver.Release, claims...)
	k.want(k.claim(k.Store, 6, q), "0", "1", "2", "3", "4", "5")
}

// begin: a start is counted for a claim of ours, and for no other.
func begin(k *kit) {
	counter, ok := k.Store.(driver.Counter)
	if !ok {
		k.Skip("the store does not count starts")
	}
	if k.info.Queue.Counts != driver.CountStarts {
		k.Error("a Counter whose queues do not count starts")
	}
	q := k.queue()
	k.push(q, "counted")
	claims := k.claim(k.Store, 1, q)
	starts := []driver.Start{{Tag: claims[0].Tag, Attempt: 2}, {Tag: driver.Tag{ID: 1 << 61}, Attempt: 2}}
	k.must(counter.Begin(k.ctx, starts))
	k.must(starts[0].Err)
	if !errors.Is(starts[1].Err, driver.ErrLeaseLost) {
		k.Errorf("a start without a claim: %v", starts[1].Err)
	}
	k.mustEnd(k.Store, driver.Requeue, claims...)
	again := k.claim(k.Store, 1, q)
	k.want(again, "counted")
	if !k.info.Bytes && again[0].Attempt != 3 { // else the envelope says
		k.Errorf("attempt %d after the second start", again[0].Attempt)
	}
	k.mustEnd(k.Store, driver.Ack, again...)
	starts = starts[:1]
	starts[0].Err = nil
	if k.must(counter.Begin(k.ctx, starts)); !errors.Is(starts[0].Err, driver.ErrLeaseLost) {
		k.Errorf("a start after the claim's end: %v", starts[0].Err)
	}
}

func put(k *kit) {
	if !k.info.Atomic {
		k.Skip("not in one step")
	}
	from, to := k.queue(), k.queue()
	k.push(from, "old")
	claims := k.claim(k.Store, 1, from)
	k.must(k.one(virtual.Settlement{Settlement: driver.Settlement{Tag: claims[0].Tag}, Put: []virtual.Item{k.item(to, "new")}}))
	k.want(k.claim(k.Store, 5, to), "new")
	if err := k.one(virtual.Settlement{Settlement: driver.Settlement{Tag: claims[0].Tag}, Put: []virtual.Item{k.item(to, "never")}}); !errors.Is(err, driver.ErrLeaseLost) {
		k.Errorf("put under a claim that is gone: %v", err)
	}
	none := virtual.ClaimRequest{Wants: []virtual.Want{{Queue: from, Max: 1}}}
	k.want(k.claimAs(k.Store, none, 1))
	none.Wants[0].Queue = to
	k.want(k.claimAs(k.Store, none, 1))
}

func (k *kit) one(s virtual.Settlement) error {
	batch := []virtual.Settlement{s}
	k.must(k.Settle(k.ctx, batch))
	return batch[0].Err
}

func verbatim(k *kit) {
	if !k.info.Atomic {
		k.Skip("not in one step")
	}
	from, to := k.queue(), k.queue()
	if k.info.Bytes {
		garbage := []virtual.Item{{Queue: from, ID: rand.Text(), Raw: []byte("no envelope at all")}}
		k.must(k.Push(k.ctx, garbage))
		k.must(garbage[0].Err)
	} else {
		k.push(from, "as it is")
	}
	claims := k.claim(k.Store, 1, from)
	k.must(k.one(virtual.Settlement{Settlement: driver.Settlement{Tag: claims[0].Tag}, Verbatim: to}))
	moved := k.claim(k.Store, 1, to)
	if k.info.Bytes && string(moved[0].Raw) != "no envelope at all" {
		k.Errorf("%q", moved[0].Raw)
	} else if !k.info.Bytes {
		k.want(moved, "as it is")
	}
}

func noAck(k *kit) {
	q := k.queue()
	k.push(q, "1", "2")
	first := k.h.Open(k.T)
	k.want(k.claimAs(first, virtual.ClaimRequest{Wants: []virtual.Want{{Queue: q, Max: 1}}, NoAck: true, Wait: time.Second}, 1), "1")
	k.must(first.Close(k.ctx))
	k.want(k.claim(k.Store, 5, q), "2")
}

func nothingKept(k *kit) {
	q := k.queue()
	it := []virtual.Item{k.item(q, "original")}
	k.must(k.Push(k.ctx, it))
	copy(it[0].Raw, "CHANGED CHANGED")
	copy(it[0].Msg.Body, "CHANGED!")
	claims := k.claim(k.Store, 1, q)
	k.want(claims, "original")
	copy(claims[0].Raw, "CHANGED CHANGED")
	if claims[0].Msg != nil {
		copy(claims[0].Msg.Body, "CHANGED!")
	}
	k.mustEnd(k.Store, driver.Requeue, claims...)
	k.want(k.claim(k.Store, 1, q), "original")
}

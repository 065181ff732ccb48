package amqp

import (
	"context"
	"testing"

	"github.com/gombu/gombu/driver"
)

// Whoever was told takes what there is, within the prefetch, and is told again
// when a settlement made room, and of the end.
func TestTryReceiver(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 2}).(tryReceiver)
	told := make(chan error, 100)
	r.Notify(func(err error) { told <- err })
	await := func() error {
		select {
		case err := <-told:
			return err
		case <-testContext(t).Done():
			t.Fatal("nobody was told")
			return nil
		}
	}
	mustPublish(t, s, numbered(q, 3)...)
	dst := make([]driver.Incoming, 3)
	var in []driver.Incoming
	take := func(want int) {
		for len(in) < want {
			if err := await(); err != nil {
				t.Fatal(err)
			}
			n, err := r.TryReceive(dst)
			if err != nil {
				t.Fatal(err)
			}
			in = append(in, dst[:n]...)
		}
		if n, err := r.TryReceive(dst); n != 0 || err != nil || len(in) != want {
			t.Fatalf("%d more beyond %d, %v", n, len(in), err)
		}
	}
	take(2)
	batch := []driver.Settlement{{Tag: in[0].Tag}, {Tag: driver.Tag{ID: 99, Ref: in[0].Tag.Ref}}}
	if !r.TrySettle(batch) || batch[0].Err != nil {
		t.Fatalf("%+v", batch)
	}
	wantKind(t, batch[1].Err, driver.ErrLeaseLost)
	take(3)
	if got := bodies(in); got != "0 1 2" {
		t.Fatal(got)
	}
	r.settles <- struct{}{} // somebody settles
	if r.TrySettle([]driver.Settlement{{Tag: in[1].Tag}}) {
		t.Fatal("two settled at once")
	}
	<-r.settles
	settle(t, r, driver.Ack, in[1], in[2])
	if err := r.Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	var err error
	for err == nil {
		err = await()
	}
	wantKind(t, err, driver.ErrClosed)
	_, err = r.TryReceive(dst)
	wantKind(t, err, driver.ErrClosed)
}

// Who comes late is told of what has arrived before, and of an end.
func TestNotifyLate(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	mustPublish(t, s, to(q, "1"))
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 2}).(tryReceiver)
	eventually(t, "it has arrived", func() bool {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.ready) == 1
	})
	told := make(chan error, 100)
	r.Notify(func(err error) { told <- err })
	if err := <-told; err != nil {
		t.Fatal(err)
	}
	apply(t, s, driver.Step{Op: driver.Delete, Queue: &driver.Queue{Name: q}})
	for {
		select {
		case err := <-told:
			if err == nil {
				continue
			}
			wantKind(t, err, driver.ErrNotFound)
			return
		case <-testContext(t).Done():
			t.Fatal("nobody was told that the consumer was cancelled")
		}
	}
}

// What is settled as it is received may have to wait.
func TestNoAckIsNotTried(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 2, NoAck: true})
	if _, ok := r.(driver.TryReceiver); ok {
		t.Fatal("a receiver without acks need not wait")
	}
}

// A link without room for what is to be settled does nothing, and Settle waits.
func TestTrySettleWithoutRoom(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	mustPublish(t, s, to(q, "1"))
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 2}).(tryReceiver)
	in := receive(t, r, 1)
	if err := s.link.reserve(context.Background(), bufferLimit); err != nil {
		t.Fatal(err)
	}
	if r.TrySettle([]driver.Settlement{{Tag: in[0].Tag}}) {
		t.Fatal("settled without room")
	}
	s.link.release(bufferLimit)
	settle(t, r, driver.Ack, in[0])
}

package amqp

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/gombutest/proxy"
)

func TestWindowWaitsUnderContext(t *testing.T) {
	cfg, p := proxied(t, brokerConfig(t))
	s := connect(t, cfg)
	q := queue(t, s, driver.Queue{})
	n := openSender(t, s, driver.SenderConfig{Window: 2})
	flow := hold(p, proxy.Up)
	defer flow()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	batch := []driver.Outgoing{to(q, "1"), to(q, "2"), to(q, "3")}
	for i := range batch {
		batch[i].Seq = uint64(i)
	}
	prompt(t, 150*time.Millisecond, func() {
		k, err := n.Submit(ctx, batch)
		if k != 2 {
			t.Fatalf("submitted %d, want the window's 2", k)
		}
		wantKind(t, err, driver.ErrNotSent)
		wantKind(t, err, context.DeadlineExceeded)
	})
	flow()
	for seq, err := range collect(t, n, 2) {
		if err != nil {
			t.Fatal(seq, err)
		}
	}
	if err := submit(t, n, to(q, "3"))[0]; err != nil {
		t.Fatal(err)
	}
}

// Hard case E8: a socket that takes nothing must hold up no caller.
func TestBlockedSocket(t *testing.T) {
	cfg, p := proxied(t, brokerConfig(t))
	cfg.WriteTimeout = time.Minute
	s := connect(t, cfg)
	q := queue(t, s, driver.Queue{})
	n := openSender(t, s, driver.SenderConfig{Window: 10000})
	defer hold(p, proxy.Up)()
	body := make([]byte, 64<<10)
	sent := 0
	for err := error(nil); err == nil; sent++ {
		if sent > 1000 {
			t.Fatal("the buffer has no bound")
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		prompt(t, 200*time.Millisecond, func() {
			_, err = n.Submit(ctx, []driver.Outgoing{{Seq: uint64(sent), Key: q, Body: body}})
		})
		cancel()
		if err != nil {
			wantKind(t, err, driver.ErrNotSent)
			wantKind(t, err, context.DeadlineExceeded)
			break
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	prompt(t, 200*time.Millisecond, func() { s.Close(ctx) })
	notSent := 0
	for seq, err := range collect(t, n, sent) {
		if !errors.Is(err, driver.ErrNotSent) && !errors.Is(err, driver.ErrUncertain) {
			t.Fatalf("message %d: %v", seq, err)
		}
		if errors.Is(err, driver.ErrNotSent) {
			notSent++
		}
	}
	if notSent == 0 || notSent == sent {
		t.Fatalf("%d of %d not sent: want some that were in the buffer and some that reached the socket", notSent, sent)
	}
}

func TestWriteTimeoutEndsTheSession(t *testing.T) {
	cfg, p := proxied(t, brokerConfig(t))
	cfg.WriteTimeout = time.Second // more than it takes to copy the message
	s := connect(t, cfg)
	q := queue(t, s, driver.Queue{})
	n := openSender(t, s, driver.SenderConfig{Window: 100})
	defer hold(p, proxy.Up)()
	if _, err := n.Submit(testContext(t), []driver.Outgoing{{Key: q, Body: make([]byte, 8<<20)}}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("the session outlives a socket that takes nothing")
	}
	wantKind(t, s.Err(), driver.ErrUnavailable)
	if !strings.Contains(s.Err().Error(), "read nothing for 1s") {
		t.Fatal(s.Err())
	}
	wantKind(t, collect(t, n, 1)[0], driver.ErrUncertain)
}

// A link that is cut in the middle of a window: exactly one receipt for each
// message; those that say nil are in the queue, those not sent are not.
func TestLinkCutMidWindow(t *testing.T) {
	direct := connect(t, brokerConfig(t))
	for round := range 8 {
		q := queue(t, direct, driver.Queue{})
		receipts := publishUntilCut(t, q, 100*round)
		arrived := map[string]bool{}
		r := openReceiver(t, direct, driver.ReceiverConfig{Queue: q, Prefetch: 5000})
		dst := make([]driver.Incoming, 500)
		for idle := false; !idle; { // the broker may still be reading what came before the cut
			ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
			n, err := r.Receive(ctx, dst)
			cancel()
			idle = err != nil
			for _, m := range dst[:n] {
				arrived[string(m.Body)] = true
			}
		}
		for seq, err := range receipts {
			there := arrived[fmt.Sprint(seq)]
			switch {
			case err == nil && !there:
				t.Fatalf("round %d: %d was confirmed and is lost", round, seq)
			case errors.Is(err, driver.ErrNotSent) && there:
				t.Fatalf("round %d: %d was not sent and is there", round, seq)
			case err != nil && !errors.Is(err, driver.ErrNotSent) && !errors.Is(err, driver.ErrUncertain):
				t.Fatal(seq, err)
			}
		}
	}
}

// publishUntilCut submits, cuts the link after so many receipts, and returns
// all of them.
func publishUntilCut(t *testing.T, queue string, after int) map[uint64]error {
	cfg, p := proxied(t, brokerConfig(t))
	s := connect(t, cfg)
	n := openSender(t, s, driver.SenderConfig{Window: 5000})
	count := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 5000 {
			if k, err := n.Submit(testContext(t), []driver.Outgoing{{Seq: uint64(i), Key: queue, Body: []byte(fmt.Sprint(i))}}); k != 1 || err != nil {
				break
			}
			count++
		}
	})
	receipts := map[uint64]error{}
	dst := make([]driver.Receipt, 64)
	for {
		k, err := n.Outcomes(testContext(t), dst)
		for _, r := range dst[:k] {
			if _, twice := receipts[r.Seq]; twice {
				t.Fatalf("two receipts for %d", r.Seq)
			}
			receipts[r.Seq] = r.Err
		}
		if err != nil {
			break
		}
		if len(receipts) >= after {
			p.Cut()
		}
	}
	if wg.Wait(); len(receipts) != count {
		t.Fatalf("%d submitted, %d receipts", count, len(receipts))
	}
	return receipts
}

func TestBlockedByAlarm(t *testing.T) {
	cfg, p := proxied(t, brokerConfig(t))
	cfg.WriteTimeout = 200 * time.Millisecond
	s, news := connectEnv(t, cfg)
	q := queue(t, s, driver.Queue{})
	n := openSender(t, s, driver.SenderConfig{Window: 100})
	flow := hold(p, proxy.Up)
	defer flow()
	p.Inject([]byte("\x01\x00\x00\x00\x00\x00\x0f\x00\x0a\x00\x3c\x0alow on mem\xce"))
	if e := news.wait(t, driver.Blocked); e.Detail != "low on mem" {
		t.Fatal(e)
	}
	// The broker reads nothing now, for far longer than WriteTimeout.
	ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
	defer cancel()
	var batch []driver.Outgoing
	for i := range 5 {
		batch = append(batch, driver.Outgoing{Seq: uint64(i), Key: q, Body: make([]byte, 2<<20)})
	}
	taken, err := n.Submit(ctx, batch)
	wantKind(t, err, driver.ErrBlocked)
	wantKind(t, err, driver.ErrNotSent)
	select {
	case <-s.Done():
		t.Fatal("the session ended while the broker had said that it is blocked:", s.Err())
	default:
	}
	p.Inject([]byte("\x01\x00\x00\x00\x00\x00\x04\x00\x0a\x00\x3d\xce"))
	news.wait(t, driver.Unblocked)
	flow()
	for seq, err := range collect(t, n, taken) {
		if err != nil {
			t.Fatal(seq, err)
		}
	}
}

package drivertest

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/gombutest/ledger"
)

var concurrencyCases = []testCase{
	{"ManySendersManyReceivers", manyOfBoth},
	{"TopologyWhilePublishing", topologyWhilePublishing},
	{"SettleBesideReceive", settleBeside},
	{"SmallWindow", smallWindow},
}

// manyOfBoth: every message is handled once, whoever handles it.
func manyOfBoth(k *kit) {
	const senders, each, receivers = 4, 200, 3
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	ctx, stop := context.WithCancel(k.ctx)
	var (
		wg  sync.WaitGroup
		led = ledger.New()
	)
	fail := func(err error) {
		if err != nil && ctx.Err() == nil {
			k.Error(err)
			stop()
		}
	}
	for i := range receivers {
		from := s
		if i == 0 {
			from = k.connect()
		}
		r := from.consume(q, 8)
		wg.Go(func() {
			dst := make([]driver.Incoming, 4)
			for ctx.Err() == nil {
				n, err := r.Receive(ctx, dst)
				fail(err)
				batch := make([]driver.Settlement, n)
				for j, m := range dst[:n] {
					batch[j].Tag = m.Tag
				}
				fail(r.Settle(k.ctx, batch))
				for j, m := range dst[:n] {
					fail(batch[j].Err)
					id, err := ledger.ParseID(string(m.Body))
					fail(err)
					led.Handled(id)
				}
				if _, handled, _ := led.Progress(); handled == senders*each {
					stop()
				}
			}
		})
	}
	for i := range senders {
		sender, err := s.publisher.OpenSender(k.ctx, driver.SenderConfig{Window: 256})
		k.must(err)
		wg.Go(func() {
			ms := make([]driver.Outgoing, each)
			for j := range ms {
				id := ledger.ID{Producer: i, Seq: j}
				ms[j] = message("", q, id.String())
				led.Sent(id)
			}
			errs, _, err := send(k.ctx, sender, 1, ms)
			fail(errors.Join(append(errs, err)...))
			for j := range errs {
				led.Outcome(ledger.ID{Producer: i, Seq: j}, errs[j])
			}
		})
	}
	wg.Wait()
	stop()
	if r := led.Report(); len(r.Wrong()) > 0 || r.Confirmed != senders*each || r.Duplicated > 0 {
		k.Fatalf("of %d messages:\n%v", senders*each, r)
	}
	s.ready(q, 0)
}

func topologyWhilePublishing(k *kit) {
	s, other := k.connect(), k.connect()
	x, q := k.name("x"), k.name("q")
	s.declare(driver.Exchange{Name: x, Type: driver.TypeDirect}, driver.Queue{Name: q}, driver.Binding{Exchange: x, Queue: q, Key: "stays"})
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 40 {
			b := driver.Binding{Exchange: x, Queue: q, Key: fmt.Sprint("comes and goes ", i%3)}
			steps := []driver.Step{step(driver.Declare, b), step(driver.Delete, b)}
			if err := errors.Join(other.Apply(k.ctx, steps), steps[0].Err, steps[1].Err); err != nil {
				k.Error(err)
			}
		}
	})
	for i := range 40 {
		s.mustPublish(message(x, "stays", fmt.Sprint(i)))
	}
	wg.Wait()
	k.receive(s.consume(q, 100), 40)
}

func settleBeside(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	const n = 200
	s.mustPublish(numbered(q, n)...)
	r := s.consume(q, 5)
	work := make(chan driver.Tag, n)
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			for tag := range work {
				batch := []driver.Settlement{{Tag: tag}}
				if err := r.Settle(k.ctx, batch); err != nil || batch[0].Err != nil {
					k.Error(err, batch[0].Err)
				}
			}
		})
	}
	wg.Go(func() {
		for i := range 20 {
			if err := r.SetPrefetch(k.ctx, 3+i%4); err != nil {
				k.Error(err)
			}
		}
	})
	for range n {
		work <- k.receive(r, 1)[0].Tag
	}
	close(work)
	wg.Wait()
	k.nothing(r)
	s.ready(q, 0)
}

// smallWindow: Submit waits for room, which a second goroutine makes, and each
// message gets one receipt.
func smallWindow(k *kit) {
	const n = 60
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q})
	sender, err := s.publisher.OpenSender(k.ctx, driver.SenderConfig{Window: 4})
	k.must(err)
	ms := numbered(q, n)
	for i := range ms {
		ms[i].Seq = uint64(i + 1)
	}
	ctx, stop := context.WithCancel(k.ctx)
	answered := make([]int, n+1)
	var wg sync.WaitGroup
	wg.Go(func() {
		for open := n; open > 0; {
			var got [3]driver.Receipt
			m, err := sender.Outcomes(ctx, got[:])
			if err != nil {
				if ctx.Err() == nil {
					k.Error(err)
				}
				return
			}
			for _, r := range got[:m] {
				if r.Err != nil {
					k.Error(r.Err)
				}
				answered[r.Seq]++
				open--
			}
		}
	})
	m, err := sender.Submit(k.ctx, ms)
	if m != n || err != nil {
		k.Error(m, err)
	}
	for i := range ms {
		if ms[i].Done {
			answered[i+1]++
			stop() // done in place: no receipts will come
		}
	}
	wg.Wait()
	stop()
	for seq, times := range answered[1:] {
		if times != 1 {
			k.Errorf("message %d has %d outcomes", seq+1, times)
		}
	}
	r := s.consume(q, n)
	k.wantBodies(k.receive(r, n), bodiesOf(ms)...)
	k.must(sender.Close(k.ctx))
}

func bodiesOf(ms []driver.Outgoing) []string {
	out := make([]string, len(ms))
	for i := range ms {
		out[i] = string(ms[i].Body)
	}
	return out
}

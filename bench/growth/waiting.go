package growth

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/bench/contender"
)

// The ways to wait for work on Redis, beside each other: what Gombu does (it is
// told which lists changed), a move that blocks, and asking ever more rarely.
// The last two are written by hand and do only that: they have no liveness, no
// count of attempts and no mirror, which are in Gombu's commands and CPU time.
// Decision 015 says what follows.
var waitings = []struct {
	name string
	wait func(context.Context, *broker, int, []string, chan<- struct{}) (stop func() error, err error)
}{
	{"told by the server (Gombu)", waitTold},
	{"a blocking move", waitBlocked},
	{"adaptive poll", waitPolling},
}

// waiting measures them all at so many consumers of so many queues.
func (c *Config) waiting(ctx context.Context, b *broker, tell func(Row) error) error {
	if b.ask == nil {
		return nil
	}
	for _, consumers := range c.Consumers {
		for _, queues := range c.IdleQueues {
			for _, w := range waitings {
				r := Row{Table: "waiting for work", Broker: b.name, At: fmt.Sprintf("%d × %d queues, %s", consumers, queues, w.name), Unit: "p50 µs"}
				if err := c.waitOnce(ctx, b, &r, consumers, names(queues), w.wait); err != nil {
					return fmt.Errorf("waiting, %s: %w", r.At, err)
				}
				if err := tell(r); err != nil {
					return err
				}
				if err := b.clean(ctx); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// waitOnce fills r: latency of messages that come now and then, commands while
// none comes.
func (c *Config) waitOnce(ctx context.Context, b *broker, r *Row, consumers int, queues []string,
	wait func(context.Context, *broker, int, []string, chan<- struct{}) (func() error, error)) error {
	out, err := dialWire(ctx, b.s.Addr()) // the publisher
	if err != nil {
		return err
	}
	defer out.close()
	text, err := b.envelope(ctx, out)
	if err != nil {
		return err
	}
	before, err := b.clients(ctx)
	if err != nil {
		return err
	}
	got := make(chan struct{}, 1)
	stop, err := wait(ctx, b, consumers, queues, got)
	if err != nil {
		return err
	}
	took, note, err := c.waited(ctx, b, out, text, queues, got)
	connections, err2 := b.clients(ctx)
	if err = errors.Join(err, err2, stop()); err != nil {
		return err
	}
	slices.Sort(took)
	r.Value = float64(took[len(took)/2].Nanoseconds()) / 1e3
	r.Note = fmt.Sprintf("p99 %.0f µs, %s, %d connections", float64(took[len(took)*99/100].Nanoseconds())/1e3, note, connections-before)
	return nil
}

func (c *Config) waited(ctx context.Context, b *broker, out *wire, text string, queues []string, got <-chan struct{}) (took []time.Duration, note string, err error) {
	commands, _, err := c.commandsASecond(ctx, b)
	if err != nil {
		return nil, "", err
	}
	m := contender.NewMeter(contender.Job{Work: contender.EndToEnd, ServerPIDs: b.pids()})
	if err := m.Start(); err != nil {
		return nil, "", err
	}
	began := time.Now()
	rnd := rand.New(rand.NewPCG(1, 2)) //nolint:gosec // the same gaps for all
	for range c.Wakes/2 + 1 {
		if err := pause(ctx, min(time.Duration(rnd.ExpFloat64()*float64(50*time.Millisecond)), time.Second)); err != nil {
			return nil, "", err
		}
		start := time.Now()
		if _, err := out.do("LPUSH", queues[rnd.IntN(len(queues))], text); err != nil {
			return nil, "", err
		}
		select {
		case <-got:
			took = append(took, time.Since(start))
		case <-time.After(patience):
			return nil, "", errors.New("the message does not come")
		case <-ctx.Done():
			return nil, "", context.Cause(ctx)
		}
	}
	m.Add(len(took))
	err = m.Stop()
	f, span := m.Figures(), time.Since(began).Seconds()
	return took, fmt.Sprintf("%.1f commands/s at rest; at %.0f messages/s %.1f ms CPU/s here and %.1f at the server",
		commands, float64(len(took))/span, 1e3*f.Client.Seconds()/span, 1e3*f.Server.Seconds()/span), err
}

// envelope is a message as Gombu and Kombu write it.
func (b *broker) envelope(ctx context.Context, w *wire) (text string, err error) {
	err = b.with(func(conn *gombu.Conn) error {
		return conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "growth-envelope", Body: make([]byte, body)})
	})
	if err != nil {
		return "", err
	}
	return w.do("RPOP", "growth-envelope")
}

func (b *broker) clients(ctx context.Context) (n int, err error) {
	text, err := b.command(ctx, "INFO", "clients")
	if err == nil {
		_, rest, _ := strings.Cut(text, "connected_clients:")
		_, err = fmt.Sscan(rest, &n)
	}
	return n, err
}

func waitTold(ctx context.Context, b *broker, consumers int, queues []string, got chan<- struct{}) (func() error, error) {
	conn, err := b.open()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ks := make([]*gombu.Consumer, consumers)
	for i := range ks {
		ks[i] = conn.Consumer(gombu.ConsumerConfig{Queues: queues})
	}
	ready, over := make(chan struct{}), make(chan error, 1)
	go func() {
		over <- consuming(ctx, ks, func(context.Context, *gombu.Delivery) error { got <- struct{}{}; return nil }, func(ctx context.Context) error {
			close(ready)
			<-ctx.Done()
			return nil
		})
	}()
	stop := func() error {
		cancel()
		return errors.Join(<-over, conn.Close())
	}
	select {
	case <-ready:
		return stop, nil
	case err := <-over:
		over <- nil
		return nil, errors.Join(err, stop())
	}
}

// each runs f for so many wires until it is stopped.
func each(ctx context.Context, b *broker, n int, f func(i int, w *wire) error) (func() error, error) {
	wires, errs := make([]*wire, 0, n), make([]error, n)
	var wg sync.WaitGroup
	stop := func() error {
		for _, w := range wires {
			w.close()
		}
		wg.Wait()
		return errors.Join(errs...)
	}
	for range n {
		w, err := dialWire(ctx, b.s.Addr())
		if err != nil {
			return nil, errors.Join(err, stop())
		}
		wires = append(wires, w)
	}
	for i, w := range wires {
		wg.Go(func() {
			for errs[i] == nil {
				errs[i] = f(i, w)
			}
			if errors.Is(errs[i], net.ErrClosed) {
				errs[i] = nil // stopped
			}
		})
	}
	return stop, nil
}

// blockFor bounds a blocking move: one for ever would never find out that its
// server is gone.
const blockFor = "5"

// waitBlocked needs a connection for each queue of each consumer: a move blocks
// on one list, and blocks its connection. (BLMPOP waits for many lists, but the
// message is nowhere until it is stored again.)
func waitBlocked(ctx context.Context, b *broker, consumers int, queues []string, got chan<- struct{}) (func() error, error) {
	return each(ctx, b, consumers*len(queues), func(i int, w *wire) error {
		own := fmt.Sprintf("own-%d", i)
		text, err := w.do("BLMOVE", queues[i%len(queues)], own, "RIGHT", "LEFT", blockFor)
		if err != nil || text == "" {
			return err
		}
		got <- struct{}{}
		_, err = w.do("LREM", own, "1", text)
		return err
	})
}

const (
	pollLeast = time.Millisecond
	pollMost  = time.Second
)

// waitPolling asks for all its queues in one command, after a message soon and
// then ever more rarely.
func waitPolling(ctx context.Context, b *broker, consumers int, queues []string, got chan<- struct{}) (func() error, error) {
	exists := append([]string{"EXISTS"}, queues...)
	pauses := make([]time.Duration, consumers)
	return each(ctx, b, consumers, func(i int, w *wire) error {
		n, err := w.do(exists...)
		if err != nil {
			return err
		}
		if n == "0" {
			pauses[i] = min(max(pollLeast, 2*pauses[i]), pollMost)
			return w.rest(pauses[i])
		}
		own := fmt.Sprintf("own-%d", i)
		for _, q := range queues {
			text, err := w.do("LMOVE", q, own, "RIGHT", "LEFT")
			if err != nil {
				return err
			}
			if text == "" {
				continue
			}
			pauses[i] = 0
			got <- struct{}{}
			if _, err := w.do("LREM", own, "1", text); err != nil {
				return err
			}
		}
		return nil
	})
}

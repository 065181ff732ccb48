package torture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/gombutest/ledger"
)

// A job is what one producer or consumer is to do: an argument of its process,
// as JSON.
type job struct {
	Role       string // produce or consume
	Name       string // of its connections at the broker
	URL, Queue string
	Verbose    bool
	Grace      time.Duration

	// Of a producer: messages First to Count-1; at Gate it waits to be told.
	Producer           int
	First, Gate, Count int
	Size               int           // of a body, in bytes, at least
	Pace               time.Duration // between two messages, on average
	Resend             bool

	// Of a consumer.
	Prefetch, Workers int
	Work              time.Duration // a handler takes
	Visibility        time.Duration // of Kombu on Redis
}

// What a job says to the harness, and is told by it.
const (
	noteReady = "ready"   // it consumes, or can publish
	noteGate  = "gate"    // it has its outcomes and waits
	noteError = "error: " // it cannot go on
	orderGo   = "go"      // pass the gate
	orderStop = "stop"    // end in order
)

// Roles of jobs.
const (
	produces = "produce"
	consumes = "consume"
)

// doing is a job under way, in a process of its own or in this one.
type doing struct {
	job
	rec  ledger.Recorder
	note func(string)
	pass <-chan struct{} // closed when the gate is open
	open func() (*gombu.Conn, error)
	// trouble is asked by each handler before it works; nil: none.
	trouble func(ctx context.Context) error
}

// A body carries the message's id, in plain sight.
type body struct {
	ID  string `json:"id"`
	Pad string `json:"pad,omitempty"`
}

// dial opens the job's connection.
func (j *job) dial(log *slog.Logger) (*gombu.Conn, error) {
	cfg := gombu.Config{Grace: j.Grace, Log: log}
	cfg.Dial.ClientProperties = gombu.Headers{{Key: "connection_name", Value: j.Name}}
	return gombu.Open(j.URL, &cfg)
}

// run does the job until it is done or ctx ends, which is an order to end.
func (d *doing) run(ctx context.Context) (err error) {
	conn, err := d.open()
	if err != nil {
		return err
	}
	defer func() {
		if cerr := conn.Close(); err == nil {
			err = cerr
		}
	}()
	switch d.Role {
	case produces:
		return d.produce(ctx, conn)
	case consumes:
		return d.consume(ctx, conn)
	}
	return fmt.Errorf("a job must produce or consume, not %q", d.Role)
}

// window is how many messages of a producer are on their way.
const window = 256

// produce publishes and enters each outcome as it comes.
func (d *doing) produce(ctx context.Context, conn *gombu.Conn) error {
	if err := conn.Ready(ctx); err != nil {
		return err
	}
	d.note(noteReady)
	out := conn.Producer(&gombu.ProducerConfig{Resend: d.Resend})
	pad := make([]byte, max(d.Size-20, 0))
	for i := range pad {
		pad[i] = 'x'
	}
	type sent struct {
		id ledger.ID
		w  *gombu.Pending
	}
	line := make(chan sent, window)
	var wg sync.WaitGroup
	wg.Go(func() { // outcomes are waited for by the Conn's end, not by ctx: it flushes
		for s := range line {
			d.rec.Outcome(s.id, s.w.Wait(context.WithoutCancel(ctx)))
		}
	})
	defer wg.Wait()
	defer close(line)
	next := time.Now()
	for seq := d.First; seq < d.Count; seq++ {
		if seq == d.Gate {
			if err := out.Flush(ctx); err != nil {
				return nil //nolint:nilerr // it was told to end
			}
			d.note(noteGate)
			select {
			case <-d.pass:
			case <-ctx.Done():
			}
		}
		if next = later(next, d.Pace); !pause(ctx, time.Until(next)) {
			return nil
		}
		id := ledger.ID{Producer: d.Producer, Seq: seq}
		m := &gombu.Message{Queue: d.Queue, Value: body{ID: id.String(), Pad: string(pad)}}
		m.MessageID = id.String()
		d.rec.Sent(id)
		w, err := out.PublishAsync(ctx, m)
		if err != nil {
			d.rec.Outcome(id, err)
			continue
		}
		line <- sent{id, w}
	}
	return nil
}

// later is the moment after the last one; what was missed is not made up for.
func later(last time.Time, pace time.Duration) time.Time {
	if now := time.Now().Add(-time.Millisecond); last.Before(now) {
		last = now
	}
	return last.Add(pace)
}

// consume handles until ctx ends.
func (d *doing) consume(ctx context.Context, conn *gombu.Conn) error {
	k := conn.Consumer(gombu.ConsumerConfig{Queues: []string{d.Queue}, Prefetch: d.Prefetch, Workers: d.Workers})
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		if k.Ready(ctx) == nil {
			d.note(noteReady)
		}
	})
	return k.Run(ctx, gombu.Typed(d.handle))
}

// handle works, enters that it has, and only then acknowledges.
func (d *doing) handle(ctx context.Context, b body, m *gombu.Delivery) error {
	id, err := ledger.ParseID(b.ID)
	if err != nil {
		return gombu.Reject(err)
	}
	d.rec.Started(id, m.Attempt)
	if d.trouble != nil {
		if err := d.trouble(ctx); err != nil {
			return err
		}
	}
	if d.Work > 0 {
		t := time.NewTimer(d.Work)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	d.rec.Handled(id)
	err = m.Ack(ctx)
	d.rec.Settled(id, err)
	if errors.Is(err, gombu.ErrSettled) {
		return err
	}
	return nil
}

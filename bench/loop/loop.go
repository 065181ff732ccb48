// Package loop is the part of a contender that is the same for all: who calls
// whom, how long, how fast, and what is counted.
package loop

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// A Peer is one client of one broker, connected and declared. Publish is called
// by job.Callers goroutines at once, Consume by job.Consumers; whatever they
// return once ctx has ended is ignored.
type Peer interface {
	// Publish publishes what src gives until it gives nothing.
	Publish(ctx context.Context, src *Source) error
	// Consume hands every message to dst, and acknowledges it.
	Consume(ctx context.Context, dst *Sink) error
	// Close takes everything down.
	Close()
}

// A Dialer connects a Peer for a job.
type Dialer func(ctx context.Context, job contender.Job) (Peer, error)

// Contender makes a contender of a Peer. bodies is how it encodes and decodes.
func Contender(name string, bodies Bodies, dial Dialer) contender.Contender {
	return contender.Contender{Name: name, Run: func(ctx context.Context, job contender.Job, m *contender.Meter) error {
		peer, err := dial(ctx, job)
		if err != nil {
			return err
		}
		defer peer.Close()
		return run(ctx, job, m, bodies, peer)
	}}
}

// Filler makes a Fill of a Peer that publishes, from so many goroutines.
func Filler(bodies Bodies, callers int, dial Dialer) func(context.Context, contender.Job) error {
	return func(ctx context.Context, job contender.Job) error {
		fill := job
		fill.Work, fill.For, fill.Callers, fill.ServerPIDs = contender.Publish, 0, callers, nil
		peer, err := dial(ctx, fill)
		if err != nil {
			return err
		}
		defer peer.Close()
		return run(ctx, fill, contender.NewMeter(fill), bodies, peer)
	}
}

func run(ctx context.Context, job contender.Job, m *contender.Meter, bodies Bodies, peer Peer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	flow := contender.NewFlow()
	var halves []func() error
	if job.Work != contender.Publish {
		dst := &Sink{job, m, bodies, flow}
		for range max(1, job.Consumers) {
			halves = append(halves, func() error { return peer.Consume(ctx, dst) })
		}
	}
	if job.Work != contender.Consume && job.Work != contender.Idle {
		src := newSource(job, m, bodies, flow)
		for range max(1, job.Callers) {
			halves = append(halves, func() error { return peer.Publish(ctx, src) })
		}
	}
	if err := m.Start(); err != nil {
		return err
	}
	var wg sync.WaitGroup
	for _, half := range halves {
		wg.Go(func() {
			if err := half(); err != nil && ctx.Err() == nil {
				cancel(err)
			}
		})
	}
	select {
	case <-m.Finished():
	case <-ctx.Done():
	}
	if err := context.Cause(ctx); err != nil {
		wg.Wait()
		return fmt.Errorf("%s: %w", job.Work, err)
	}
	err := m.Stop()
	cancel(context.Canceled)
	wg.Wait()
	return err
}

// Linger is how long a call that waits for messages may take to notice the end,
// where a client has no better way.
const Linger = time.Second

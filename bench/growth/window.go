package growth

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// A task works until its meter is over, or its context ends.
type task func(context.Context, *contender.Meter) error

// window measures tasks for a while. What they do before ready returns (nil: at
// once), and for a quarter of it afterwards, is not measured: it connects, and
// makes what is kept for the next messages.
func (b *broker) window(ctx context.Context, length time.Duration, ready func(context.Context) error, tasks ...task) (contender.Figures, error) {
	m := contender.NewMeter(contender.Job{For: length, ServerPIDs: b.pids()})
	runtime.GC() // nobody pays for what was before
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(tasks))
	var wg sync.WaitGroup
	for _, f := range tasks {
		wg.Go(func() {
			if err := f(ctx, m); err != nil {
				failed <- err
			}
		})
	}
	var err error
	if ready != nil {
		err = ready(ctx)
	}
	if err == nil {
		err = pause(ctx, length/4)
	}
	if err == nil {
		err = m.Start()
	}
	if err == nil {
		select {
		case <-m.Finished():
			err = m.Stop()
		case <-ctx.Done():
			err = context.Cause(ctx)
		case err = <-failed:
		}
	}
	select { // what fails from here on was only told to stop
	case early := <-failed:
		err = errors.Join(err, early)
	default:
	}
	m.End()
	cancel()
	wg.Wait()
	return m.Figures(), err
}

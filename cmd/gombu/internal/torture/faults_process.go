package torture

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/gombu/gombu/internal/proc"
)

var processFaults = []fault{
	{
		name: "kill-consumer", consuming: true, does: "kill -9 of a consumer; another takes its place", on: brokers, instead: oneProcess,
		inject: func(ctx context.Context, r *run) error { return r.killConsumers(ctx, 1) },
	},
	{
		name: "kill-consumers", consuming: true, does: "kill -9 of all consumers at once; others take their places within a second", on: brokers, instead: oneProcess,
		inject: func(ctx context.Context, r *run) error { return r.killConsumers(ctx, len(r.consumers)) },
	},
	{
		name: "kill-all", consuming: true, does: "kill -9 of all consumers and producers at once: nobody is left on the broker", on: brokers, instead: oneProcess,
		inject: killAll,
	},
	{name: "stop-consumer", consuming: true, does: "SIGSTOP of a consumer for --for", on: brokers, instead: oneProcess, inject: stopConsumer},
	{
		name: "term-consumers", consuming: true, does: "SIGTERM of every consumer in turn; others take their places", on: brokers, instead: oneProcess,
		orderly: true, inject: termConsumers,
	},
	{name: "kill-producer", does: "kill -9 of a producer; another goes on where it was", on: brokers, instead: oneProcess, inject: killProducer},
	{name: "stop-producer", does: "SIGSTOP of a producer for --for", on: brokers, instead: oneProcess, inject: stopProducer},
}

// killConsumers kills n at once and replaces them.
func (r *run) killConsumers(ctx context.Context, n int) error {
	victims := r.victims(n)
	f := r.led.Mark("kill -9 of " + names(victims))
	if err := killThem(victims); err != nil {
		return err
	}
	if n < len(r.consumers) {
		f.Over() // the others are there to take over
		return r.replace(ctx, victims)
	}
	pause(ctx, time.Duration(r.dice.IntN(1000))*time.Millisecond)
	err := r.replace(ctx, victims)
	f.Over()
	return err
}

// killThem kills all before it waits for any.
func killThem(victims []*actor) error {
	var errs []error
	for _, a := range victims {
		a.source.Gone()
		errs = append(errs, proc.Kill(a.pid))
	}
	for _, a := range victims {
		<-a.over
	}
	return errors.Join(errs...)
}

// victims are n consumers, by the dice.
func (r *run) victims(n int) []*actor {
	all := slices.Clone(r.consumers)
	r.dice.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all[:n]
}

func names(as []*actor) string {
	if len(as) == 1 {
		return as[0].name
	}
	return fmt.Sprintf("%d actors", len(as))
}

// replace starts a consumer for each that is gone, and waits until it consumes.
func (r *run) replace(ctx context.Context, gone []*actor) error {
	for _, a := range gone {
		r.retire(&r.consumers, a)
		if err := r.addConsumer(ctx, a.name+"'", a.python); err != nil {
			return err
		}
	}
	return r.allReady(ctx)
}

func (r *run) retire(from *[]*actor, a *actor) {
	*from = slices.DeleteFunc(*from, func(b *actor) bool { return a == b })
	r.retired = append(r.retired, a)
}

func killAll(ctx context.Context, r *run) error {
	if err := r.admin.Close(); err != nil { // it is a process of gombu as well
		return err
	}
	consumers, producers := slices.Clone(r.consumers), slices.Clone(r.producers)
	f := r.led.Mark("kill -9 of everybody")
	err := killThem(slices.Concat(consumers, producers))
	pause(ctx, time.Duration(r.dice.IntN(1000))*time.Millisecond)
	if rerr := r.administer(); rerr != nil {
		return errors.Join(err, rerr)
	}
	err = errors.Join(err, r.replace(ctx, consumers))
	f.Over()
	for _, a := range producers {
		err = errors.Join(err, r.succeed(ctx, a))
	}
	return err
}

func stopConsumer(ctx context.Context, r *run) error {
	a := r.victims(1)[0]
	return r.stopped(ctx, a)
}

// stopped stops an actor for a while.
func (r *run) stopped(ctx context.Context, a *actor) error {
	f := r.led.Mark(fmt.Sprintf("SIGSTOP of %s for %v", a.name, r.cfg.For))
	if err := proc.Stop(a.pid); err != nil {
		return err
	}
	pause(ctx, r.cfg.For)
	err := proc.Continue(a.pid)
	f.Over()
	return err
}

func termConsumers(ctx context.Context, r *run) error {
	for _, a := range slices.Clone(r.consumers) {
		f := r.led.Mark("SIGTERM of " + a.name)
		took, err := a.terminate(r.cfg.Grace + 10*time.Second)
		f.Over()
		if err != nil {
			r.blamef("%v", err)
		}
		if r.exit = max(r.exit, took); took > r.cfg.Grace+time.Second {
			r.blamef("%s took %v to end, with a grace of %v", a.name, took, r.cfg.Grace)
		}
		if err := r.replace(ctx, []*actor{a}); err != nil {
			return err
		}
	}
	return nil
}

func killProducer(ctx context.Context, r *run) error {
	a := r.producers[r.dice.IntN(len(r.producers))]
	f := r.led.Mark("kill -9 of " + a.name)
	err := a.kill()
	f.Over()
	return errors.Join(err, r.succeed(ctx, a))
}

// succeed starts a producer that goes on where a dead one was.
func (r *run) succeed(ctx context.Context, a *actor) error {
	r.retire(&r.producers, a)
	return r.addProducer(ctx, a.job.Producer, r.led.Next(a.job.Producer))
}

func stopProducer(ctx context.Context, r *run) error {
	return r.stopped(ctx, r.producers[r.dice.IntN(len(r.producers))])
}

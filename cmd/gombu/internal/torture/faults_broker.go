package torture

import (
	"context"
	"fmt"
	"time"

	"github.com/gombu/gombu/gombutest/ledger"
	"github.com/gombu/gombu/gombutest/proxy"
)

var brokerFaults = []fault{
	{name: "kill-broker", does: "kill -9 of the broker; it is started again", needs: needPid | needStart, on: brokers, instead: oneProcess, inject: killBroker},
	{name: "restart-broker", does: "the broker is shut down in order and started again", needs: needPid | needStart, on: brokers, instead: oneProcess, inject: restartBroker},
	{name: "stop-broker", does: "SIGSTOP of the broker for --for", needs: needPid, on: brokers, instead: oneProcess, inject: stopBroker},
}

func killBroker(ctx context.Context, r *run) error {
	f := r.led.Mark("kill -9 of the broker")
	if err := r.broker.Kill(); err != nil {
		return err
	}
	pause(ctx, time.Duration(r.dice.IntN(500))*time.Millisecond)
	return r.startAgain(ctx, f)
}

func restartBroker(ctx context.Context, r *run) error {
	f := r.led.Mark("restart of the broker")
	if err := r.broker.Shutdown(); err != nil {
		return err
	}
	return r.startAgain(ctx, f)
}

func (r *run) startAgain(ctx context.Context, f *ledger.Fault) error {
	start := time.Now()
	within, cancel := context.WithTimeout(ctx, r.cfg.Patience)
	defer cancel()
	if err := r.broker.Start(within); err != nil {
		return err
	}
	f.Over()
	r.logf("the broker answers again, %v after its start", time.Since(start).Round(time.Millisecond))
	return nil
}

func stopBroker(ctx context.Context, r *run) error {
	f := r.led.Mark(fmt.Sprintf("SIGSTOP of the broker for %v", r.cfg.For))
	if err := r.broker.Pause(); err != nil {
		return err
	}
	pause(ctx, r.cfg.For)
	if err := r.broker.Resume(); err != nil {
		return err
	}
	err := r.until(ctx, "the broker to answer", func() bool { return r.broker.Answers(ctx) == nil })
	f.Over()
	return err
}

var linkFaults = []fault{
	{name: "cut", does: "every connection is closed at once", needs: needProxy, on: brokers, instead: noLink, inject: cut},
	{name: "half-close", does: "clients see their connections end; the broker does not, for --for", needs: needProxy, on: brokers, instead: noLink, inject: halfClose},
	{name: "delay", does: "everything arrives 100 ms late, for --for", needs: needProxy, on: brokers, instead: noLink, inject: delay},
	{name: "black-hole", does: "nothing arrives, and no connection ends, for --for", needs: needProxy, on: brokers, instead: noLink, inject: blackHole},
}

// linked waits until somebody is connected: the fault before may have been one
// of the link as well.
func (r *run) linked(ctx context.Context) error {
	return r.until(ctx, "a connection", func() bool { return r.proxy.Links() > 0 })
}

func cut(ctx context.Context, r *run) error {
	if err := r.linked(ctx); err != nil {
		return err
	}
	f := r.led.Mark("cut")
	r.proxy.Cut()
	f.Over()
	return nil
}

func halfClose(ctx context.Context, r *run) error {
	if err := r.linked(ctx); err != nil {
		return err
	}
	f := r.led.Mark(fmt.Sprintf("half-close, to the broker after %v", r.cfg.For))
	r.proxy.HalfClose()
	f.Over() // the way is free again
	pause(ctx, r.cfg.For)
	r.proxy.CutHalved()
	return nil
}

const latency = 100 * time.Millisecond

func delay(ctx context.Context, r *run) error {
	f := r.led.Mark(fmt.Sprintf("delay of %v for %v", latency, r.cfg.For))
	r.proxy.Delay(latency)
	pause(ctx, r.cfg.For)
	r.proxy.Delay(0)
	f.Over()
	return nil
}

func blackHole(ctx context.Context, r *run) error {
	f := r.led.Mark(fmt.Sprintf("black hole for %v", r.cfg.For))
	r.proxy.Hold(proxy.Both)
	pause(ctx, r.cfg.For)
	r.proxy.Flow(proxy.Both)
	f.Over()
	return nil
}

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/gombutest/ledger"
)

// video is what the demo sends.
type video struct {
	ID   int    `json:"id"`
	Run  string `json:"run"`
	Name string `json:"name"`
	Size int    `json:"size"`
}

func (a *app) demo() *cobra.Command {
	var messages int
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Publish and consume at full speed, and count",
		Long: `Declare exchange media and queue video, publish messages and consume them at the same
time, and say at the end how many were lost or duplicated. Without --url it runs in memory.`,
		Example: "  gombu demo\n  gombu demo -u amqp://localhost --messages 200000",
		Args:    exactly(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if messages < 1 {
				return usage("--messages %d: want at least 1", messages)
			}
			conn, err := a.open("memory://")
			if err != nil {
				return err
			}
			d := &demo{a: a, conn: conn, n: messages, led: ledger.New(), run: time.Now().Format(time.RFC3339Nano)}
			err = d.do(cmd.Context())
			if cerr := conn.Close(); err == nil {
				err = cerr
			}
			return err
		},
	}
	cmd.Flags().IntVar(&messages, "messages", 100_000, "`N` messages to send")
	return cmd
}

type demo struct {
	a    *app
	conn *gombu.Conn
	n    int
	run  string
	led  *ledger.Ledger
}

func (d *demo) do(ctx context.Context) error {
	if err := d.conn.Declare(ctx, gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: "media"}},
		Queues:    []gombu.Queue{{Name: "video"}},
		Bindings:  []gombu.Binding{{Exchange: "media", Queue: "video", Key: "video"}},
	}); err != nil {
		return err
	}
	info, err := d.conn.Inspect(ctx, "video")
	if err != nil {
		return err
	}
	if info.Ready > 0 {
		return fmt.Errorf("queue video holds %d messages already, which the demo would take: consume them, or gombu purge video", info.Ready)
	}
	fmt.Fprintf(d.a.stderr, "%s: %d messages through exchange media to queue video\n", d.conn, d.n)
	run, stop := context.WithCancel(ctx)
	defer stop()
	send, giveUp := context.WithCancel(ctx) // outlives run: the last confirms come after the last message
	defer giveUp()
	var wg sync.WaitGroup
	var consumeErr error
	start := time.Now()
	wg.Go(func() {
		defer stop()
		if consumeErr = d.consume(run); consumeErr != nil {
			giveUp()
		}
	})
	if terminal(d.a.stderr) {
		wg.Go(func() { d.progress(run, start) })
	}
	if err = d.publish(send); err == nil {
		select {
		case <-d.led.NothingDue():
		case <-run.Done():
		}
	}
	stop()
	wg.Wait()
	report := d.report(time.Since(start))
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("interrupted after %d messages", report.Handled)
	case consumeErr != nil:
		return consumeErr
	case err != nil:
		return err
	case report.Lost > 0:
		return fmt.Errorf("%d messages lost", report.Lost)
	}
	return nil
}

func (d *demo) publish(ctx context.Context) error {
	out := newSending(d.conn.Producer(&gombu.ProducerConfig{Exchange: "media", Key: "video"}))
	next := 0 // outcomes come in the order of sending
	out.outcome = func(err error) {
		d.led.Outcome(ledger.ID{Seq: next}, err)
		next++
	}
	for i := range d.n {
		d.led.Sent(ledger.ID{Seq: i})
		if err := out.send(ctx, &gombu.Message{Value: video{ID: i, Run: d.run, Name: "/tmp/lolcat1.avi", Size: 1301013}}); err != nil {
			return err
		}
	}
	return out.finish(ctx)
}

func (d *demo) consume(ctx context.Context) error {
	return d.conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"video"}, Prefetch: 500, Workers: 2},
		gombu.Typed(func(_ context.Context, v video, _ *gombu.Delivery) error {
			if v.Run != d.run || v.ID < 0 || v.ID >= d.n {
				return gombu.Retry(time.Minute, fmt.Errorf("a message of somebody else"))
			}
			d.led.Handled(ledger.ID{Seq: v.ID})
			return nil
		}))
}

// progress rewrites one line while the demo runs.
func (d *demo) progress(ctx context.Context, start time.Time) {
	t := time.NewTicker(200 * time.Millisecond)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			fmt.Fprint(d.a.stderr, "\r\033[K")
			return
		case <-t.C:
			sent, n, _ := d.led.Progress()
			fmt.Fprintf(d.a.stderr, "\r\033[K%3d%%  published %d  consumed %d  %.0f messages/s", n*100/d.n, sent, n, float64(n)/time.Since(start).Seconds())
		}
	}
}

// terminal says whether w is one: a progress line is only noise elsewhere.
func terminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

func (d *demo) report(took time.Duration) ledger.Report {
	r := d.led.Report()
	fmt.Fprintf(d.a.stdout, "published  %d\nconsumed   %d\nlost %d\nduplicated %d\n%.0f messages/s\n",
		r.Confirmed, r.Handled, r.Lost, r.Duplicated, float64(r.Handled)/took.Seconds())
	return r
}

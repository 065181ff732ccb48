package torture

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"sync"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/gombutest/ledger"
)

// ledgerFile is the descriptor on which a child writes to the ledger: the first
// that exec.Cmd.ExtraFiles gives.
const ledgerFile = 3

// Child does one job in a process of its own: what the hidden command of gombu
// runs. It tells the ledger through descriptor 3 and is told through orders;
// when their end comes, or the ledger cannot be told, the harness is gone and so
// is this process.
func Child(ctx context.Context, text string, orders io.Reader, stderr io.Writer) error {
	var j job
	if err := json.Unmarshal([]byte(text), &j); err != nil {
		return fmt.Errorf("not a job of gombu torture: %w", err)
	}
	log := slog.New(slog.DiscardHandler)
	if j.Verbose {
		log = slog.New(slog.NewTextHandler(stderr, &slog.HandlerOptions{Level: slog.LevelDebug})).With("job", j.Name)
	}
	orphaned := func(err error) {
		fmt.Fprintln(stderr, "gombu torture: the harness is gone:", err)
		os.Exit(1)
	}
	w := ledger.NewWriter(os.NewFile(ledgerFile, "ledger"), orphaned)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	pass := make(chan struct{})
	var reader sync.WaitGroup // never waited for: it reads until this process ends
	reader.Go(func() { obey(orders, sync.OnceFunc(func() { close(pass) }), stop, orphaned) })
	d := doing{job: j, rec: w, note: w.Note, pass: pass, open: func() (*gombu.Conn, error) { return j.dial(log) }}
	err := d.run(ctx)
	if err != nil {
		w.Note(noteError + err.Error())
	}
	return err
}

func obey(orders io.Reader, pass, stop func(), orphaned func(error)) {
	in := bufio.NewScanner(orders)
	for in.Scan() {
		switch in.Text() {
		case orderGo:
			pass()
		case orderStop:
			stop()
		}
	}
	orphaned(io.EOF)
}

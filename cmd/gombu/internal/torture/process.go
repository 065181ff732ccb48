package torture

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/gombutest/ledger"
	"github.com/gombu/gombu/internal/proc"
)

// ChildCommand is the hidden command of the program that is run again.
const ChildCommand = "torture-child"

// An actor is a producer or consumer under way: a process, or goroutines of
// this one.
type actor struct {
	name   string
	job    job
	source *ledger.Source
	order  func(string) // orderGo or orderStop
	pid    int          // 0: it lives in this process
	python bool

	conn *gombu.Conn // of one in this process

	ready, gate chan struct{} // closed when it said so
	over        chan struct{} // closed when it has ended and all it told is entered

	mu      sync.Mutex
	fault   string                      // what it said it cannot go on with
	err     error                       // how it ended; read after over
	trouble func(context.Context) error // what its handlers do first; nil: nothing
	tail    tail                        // the end of its standard error
}

func newActor(j job, name string, led *ledger.Ledger) *actor {
	return &actor{name: name, job: j, source: led.Source(name), ready: make(chan struct{}), gate: make(chan struct{}), over: make(chan struct{})}
}

// hear takes a note; one goroutine calls it.
func (a *actor) hear(note string) {
	once := func(c chan struct{}) {
		if !closed(c) {
			close(c)
		}
	}
	switch {
	case note == noteReady:
		once(a.ready)
	case note == noteGate:
		once(a.gate)
	case strings.HasPrefix(note, noteError):
		a.mu.Lock()
		a.fault = strings.TrimPrefix(note, noteError)
		a.mu.Unlock()
	}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// why is how it ended, in words.
func (a *actor) why() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.fault != "" {
		return fmt.Errorf("%s: %s", a.name, a.fault)
	}
	if a.err != nil {
		return fmt.Errorf("%s: %w: %s", a.name, a.err, a.tail.String())
	}
	return nil
}

// spawn starts a job in a process of its own.
func (r *run) spawn(j job, name string, python bool) (*actor, error) {
	a := newActor(j, name, r.led)
	a.python = python
	text, err := json.Marshal(j)
	if err != nil {
		return nil, err
	}
	c := exec.Command(r.cfg.Self, ChildCommand, string(text))
	if python {
		c = exec.Command(r.cfg.Python, "-c", kombuScript, string(text))
	}
	c.Stderr = io.Writer(&a.tail)
	if r.cfg.Verbose {
		c.Stderr = io.MultiWriter(&a.tail, r.cfg.Log)
	}
	proc.Apart(c)
	orders, err := c.StdinPipe()
	if err != nil {
		return nil, err
	}
	facts, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	c.ExtraFiles = []*os.File{theirs}
	err = c.Start()
	_ = theirs.Close() // the child has its own
	if err != nil {
		_ = facts.Close()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	a.pid = c.Process.Pid
	a.order = func(what string) { _, _ = io.WriteString(orders, what+"\n") } // one that is dead needs no orders
	r.wg.Go(func() {
		readErr := a.source.Read(facts, a.hear)
		_ = facts.Close()
		err := c.Wait()
		a.mu.Lock()
		a.err = errors.Join(readErr, err)
		a.mu.Unlock()
		close(a.over)
	})
	return a, nil
}

// kill ends a process at once, and returns when all it told is entered.
func (a *actor) kill() error {
	a.source.Gone()
	if closed(a.over) {
		return a.why()
	}
	if a.pid == 0 { // there is no killing a goroutine
		a.order(orderStop)
	} else if err := proc.Kill(a.pid); err != nil {
		return err
	}
	<-a.over
	return nil
}

// terminate asks it to end by a signal, and returns how long it took; a late
// one is killed.
func (a *actor) terminate(limit time.Duration) (time.Duration, error) {
	a.source.Gone()
	start := time.Now()
	if err := proc.Interrupt(a.pid); err != nil {
		return 0, err
	}
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-a.over:
		return time.Since(start), a.why()
	case <-t.C:
		_ = a.kill()
		return time.Since(start), fmt.Errorf("%s had not ended %v after SIGTERM", a.name, limit)
	}
}

// tail keeps the end of what is written to it.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailSize = 2 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(len(t.buf)-tailSize, 0):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.TrimSpace(t.buf))
}

// Package proc does to processes what a bad day does: it kills them without a
// word, and stops them in mid-breath.
package proc

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
)

// ErrUnsupported: this operating system has no such signals.
var ErrUnsupported = errors.New("this operating system has no such signals")

// Kill ends a process as kill -9 does.
func Kill(pid int) error {
	p, err := find(pid)
	if err != nil {
		return err
	}
	return p.Kill()
}

// Interrupt asks a process to end (SIGTERM).
func Interrupt(pid int) error { return interrupt(pid) }

// Stop stops a process (SIGSTOP): it holds its sockets and does nothing.
func Stop(pid int) error { return stop(pid) }

// Continue lets a stopped process go on.
func Continue(pid int) error { return cont(pid) }

// Apart makes a command, not started yet, the leader of its own process group,
// so that an interrupt at the terminal does not reach it.
func Apart(c *exec.Cmd) { apart(c) }

// Alive says whether a process runs; a zombie does not.
func Alive(pid int) bool { return alive(pid) }

func find(pid int) (*os.Process, error) {
	if pid <= 1 {
		return nil, fmt.Errorf("no process has the number %d, or it is not to be touched", pid)
	}
	return os.FindProcess(pid)
}

//go:build unix

package proc

import (
	"bytes"
	"os"
	"os/exec"
	"strconv"
	"syscall"
)

func interrupt(pid int) error { return signal(pid, syscall.SIGTERM) }

func stop(pid int) error { return signal(pid, syscall.SIGSTOP) }
func cont(pid int) error { return signal(pid, syscall.SIGCONT) }

func signal(pid int, s syscall.Signal) error {
	p, err := find(pid)
	if err != nil {
		return err
	}
	return p.Signal(s)
}

func apart(c *exec.Cmd) { c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func alive(pid int) bool {
	if signal(pid, 0) != nil {
		return false
	}
	stat, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return true // no /proc here, or it has just ended: ask again
	}
	// The state is the word after the command's name, which is in brackets.
	_, rest, _ := bytes.Cut(stat, []byte(") "))
	return !bytes.HasPrefix(rest, []byte("Z"))
}

//go:build !unix

package proc

import "os/exec"

func interrupt(int) error { return ErrUnsupported }

func stop(int) error { return ErrUnsupported }
func cont(int) error { return ErrUnsupported }

func apart(*exec.Cmd) {}

func alive(pid int) bool {
	_, err := find(pid)
	return err == nil
}

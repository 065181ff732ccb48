// Package lean has sockets that cost less than those of package net.
package lean

import (
	"context"
	"io"
	"net"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// A socket is a TCP connection that is read and written without telling Go's
// scheduler. Its file never blocks, so the scheduler has nothing to prepare for; but
// it takes every system call for a reason to wake its monitor, if that sleeps
// because nothing was running. At a broker that sends a few messages at a time
// that is once for each of these pieces, and the monitor then looks every 20 µs:
// a fifth of all CPU time that a consumer used.
//
// The monitor keeps the peace among goroutines, though, so it is not left asleep
// for longer than one of them may run anyhow: see monitored.
//
// As with any link, one goroutine reads and one writes.
type socket struct {
	*net.TCPConn
	raw     syscall.RawConn
	in, out transfer
}

// monitored is when the scheduler last heard of a system call of some socket's, in
// nanoseconds since began; after monitorEvery it is told again: as long as it lets a
// goroutine run before it interrupts that for others.
var (
	monitored atomic.Int64
	began     = time.Now()
)

const monitorEvery = 10 * time.Millisecond

// monitor says whether it is time to tell the scheduler, to one that asks.
func monitor() bool {
	last, now := monitored.Load(), int64(time.Since(began))
	return now-last >= int64(monitorEvery) && monitored.CompareAndSwap(last, now)
}

// A transfer is one direction.
type transfer struct {
	rest []byte // still to be filled, or written
	n    int
	err  syscall.Errno
	try  func(fd uintptr) bool // made once: it says whether to wait no longer
}

// Dial is that of a zero net.Dialer. What it makes is nobody else's: another's file
// might block.
func Dial(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := (&net.Dialer{}).DialContext(ctx, network, address) // with TCP keep-alive, Go's default
	if err != nil {
		return nil, err
	}
	return lean(c), nil
}

// lean makes a socket of c if it can; what it cannot, it leaves as it is.
func lean(c net.Conn) net.Conn {
	tcp, ok := c.(*net.TCPConn)
	if !ok {
		return c
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return c
	}
	s := &socket{TCPConn: tcp, raw: raw}
	s.in.try = func(fd uintptr) bool { return s.in.once(syscall.SYS_READ, fd) }
	s.out.try = func(fd uintptr) bool {
		for s.out.once(syscall.SYS_WRITE, fd) {
			if s.out.err != 0 || len(s.out.rest) == 0 {
				return true
			}
		}
		return false
	}
	return s
}

// begin prepares a transfer of p; false when it is the scheduler's turn.
func (t *transfer) begin(p []byte) bool {
	if len(p) == 0 || monitor() {
		return false
	}
	t.rest, t.n, t.err = p, 0, 0
	return true
}

// once reads or writes as much as can be; false when nothing can.
func (t *transfer) once(call, fd uintptr) bool {
	for {
		n, _, err := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(t.rest))), uintptr(len(t.rest)))
		switch err {
		case syscall.EINTR:
			continue
		case syscall.EAGAIN:
			return false
		case 0:
			t.n += int(n)
			t.rest = t.rest[n:]
		default:
			t.err = err
		}
		return true
	}
}

// end is the outcome of a transfer; err is the wait's.
func (s *socket) end(t *transfer, op string, err error) (int, error) {
	t.rest = nil
	if err == nil && t.err != 0 {
		err = &net.OpError{Op: op, Net: "tcp", Source: s.LocalAddr(), Addr: s.RemoteAddr(), Err: os.NewSyscallError(op, t.err)}
	}
	return t.n, err
}

// Read implements net.Conn.
func (s *socket) Read(p []byte) (int, error) {
	if !s.in.begin(p) {
		return s.TCPConn.Read(p)
	}
	n, err := s.end(&s.in, "read", s.raw.Read(s.in.try))
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// Write implements net.Conn.
func (s *socket) Write(p []byte) (int, error) {
	if !s.out.begin(p) {
		return s.TCPConn.Write(p)
	}
	return s.end(&s.out, "write", s.raw.Write(s.out.try))
}

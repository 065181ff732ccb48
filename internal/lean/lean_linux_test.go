package lean

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"
)

// sockets are the two ends of a connection over the loopback.
func sockets(t *testing.T) (ours, peer net.Conn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err = l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close(); _ = peer.Close() })
	return lean(c), peer
}

// unmonitored has nobody tell the scheduler of anything; monitor is put back.
func unmonitored(t *testing.T) {
	monitored.Store(int64(time.Since(began) + time.Hour))
	t.Cleanup(func() { monitored.Store(0) })
}

// More than the kernel takes at once goes through whole, both ways.
func TestSocketMovesBytes(t *testing.T) {
	unmonitored(t)
	ours, peer := sockets(t)
	if _, ok := ours.(*socket); !ok {
		t.Fatalf("it is a %T", ours)
	}
	data := bytes.Repeat([]byte("0123456789abcdef"), 1<<20)
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, way := range [][2]net.Conn{{ours, peer}, {peer, ours}} {
		from, to := way[0], way[1]
		wg.Go(func() {
			if n, err := from.Write(data); n != len(data) || err != nil {
				t.Errorf("wrote %d: %v", n, err)
			}
		})
		got := make([]byte, len(data))
		if _, err := io.ReadFull(to, got); err != nil || !bytes.Equal(got, data) {
			t.Fatalf("not what was written: %v", err)
		}
	}
}

func TestSocketEnds(t *testing.T) {
	unmonitored(t)
	ours, peer := sockets(t)
	p := make([]byte, 8)
	past := time.Now().Add(-time.Second)
	_ = ours.SetDeadline(past)
	for _, f := range []func([]byte) (int, error){ours.Read, ours.Write} {
		n, err := f(p)
		if ne, ok := errors.AsType[net.Error](err); n != 0 || !ok || !ne.Timeout() || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("after the deadline: %d, %v", n, err)
		}
	}
	_ = ours.SetDeadline(time.Time{})
	waiting := make(chan error, 1)
	go func() { _, err := ours.Read(p); waiting <- err }()
	if err := peer.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if err := <-waiting; !errors.Is(err, io.EOF) {
		t.Fatalf("at the end: %v", err)
	}
	var err error
	_ = peer.(*net.TCPConn).SetLinger(0)
	_ = peer.Close()
	for err = nil; err == nil; { // until the reset has arrived
		_, err = ours.Write(p)
	}
	if _, ok := errors.AsType[*net.OpError](err); !ok || !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("after a reset: %v", err)
	}
	if err := ours.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := ours.Read(p); !errors.Is(err, net.ErrClosed) {
		t.Fatalf("after Close: %v", err)
	}
}

// The scheduler hears of a system call when it has not for a while, and not sooner.
func TestSocketTellsTheMonitor(t *testing.T) {
	unmonitored(t)
	if monitor() {
		t.Fatal("told again at once")
	}
	monitored.Store(int64(time.Since(began) - monitorEvery))
	if !monitor() {
		t.Fatal("not told for too long")
	}
}

// What is no TCP connection stays what it is.
func TestLeanLeavesOthersAlone(t *testing.T) {
	a, b := net.Pipe()
	defer func() { _ = a.Close(); _ = b.Close() }()
	if lean(a) != a {
		t.Fatal("not the same")
	}
}

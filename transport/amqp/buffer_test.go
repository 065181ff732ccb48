package amqp

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func piped(t *testing.T, timeout time.Duration) (l *link, peer net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	l = newLink(near, near, timeout)
	var wg sync.WaitGroup
	wg.Go(l.flush)
	t.Cleanup(func() {
		l.Close()
		far.Close()
		wg.Wait()
	})
	return l, far
}

func TestLinkBoundsItsMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, peer := piped(t, time.Hour)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		// More than the limit is let in when there is room at all...
		if err := l.reserve(ctx, 3*bufferLimit); err != nil {
			t.Fatal(err)
		}
		if _, err := l.Write(make([]byte, 3*bufferLimit)); err != nil {
			t.Fatal(err)
		}
		l.release(3 * bufferLimit)
		// ...and then nothing, until the peer has read.
		if err := l.reserve(ctx, 1); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
		if !l.reached(0) || l.reached(3*bufferLimit-1) || l.position() != 3*bufferLimit {
			t.Fatal("what is buffered counts as sent")
		}
		granted := make(chan error, 1)
		var wg sync.WaitGroup
		wg.Go(func() { granted <- l.reserve(t.Context(), 1) })
		synctest.Wait()
		if _, err := io.ReadFull(peer, make([]byte, 2*bufferLimit+writeChunk)); err != nil {
			t.Fatal(err)
		}
		wg.Wait()
		if err := <-granted; err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, make([]byte, bufferLimit-writeChunk)); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		l.release(1)
		if l.reserved != 0 || len(l.pending) != 0 {
			t.Fatalf("%d reserved, %d pending", l.reserved, len(l.pending))
		}
	})
}

func TestLinkEndsWhenThePeerReadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, peer := piped(t, time.Second)
		l.Write(make([]byte, 2*writeChunk))
		time.Sleep(900 * time.Millisecond)
		io.ReadFull(peer, make([]byte, writeChunk)) // the next piece has its own deadline
		time.Sleep(900 * time.Millisecond)
		if err := l.failed(); err != nil {
			t.Fatal(err)
		}
		l.setBlocked(true)
		time.Sleep(time.Hour)
		if err := l.failed(); err != nil {
			t.Fatal("the broker had said that it is blocked:", err)
		}
		waiting := make(chan error, 1)
		l.mu.Lock()
		l.reserved += bufferLimit
		l.mu.Unlock()
		var wg sync.WaitGroup
		wg.Go(func() { waiting <- l.reserve(t.Context(), 1) })
		l.setBlocked(false)
		wg.Wait()
		if err := <-waiting; err == nil {
			t.Fatal("room on a link that is over")
		}
		var timeout net.Error
		if err := l.failed(); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Fatal(err)
		}
		if _, err := l.Write([]byte("x")); err == nil {
			t.Fatal("a write to a link that is over")
		}
	})
}

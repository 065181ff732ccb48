package redis

import (
	"io"
	"net"
	"sync"
	"testing"
)

// relay copies between what l accepts and backend until the test ends.
func relay(t testing.TB, l net.Listener, backend string) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	ended := false
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
		if ended {
			c.Close()
		}
	}
	wg.Go(func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			back, err := net.Dial("tcp", backend)
			if err != nil {
				front.Close()
				continue
			}
			keep(front)
			keep(back)
			wg.Go(func() { _, _ = io.Copy(back, front); back.Close() })
			wg.Go(func() { _, _ = io.Copy(front, back); front.Close() })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		ended = true
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

package proxy

import (
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// echo is a server that answers each byte with itself, and counts its links.
func echo(t *testing.T) (addr string, ended chan error) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended = make(chan error, 100)
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				_, err := io.Copy(c, c)
				c.Close()
				ended <- err
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String(), ended
}

func proxied(t *testing.T) (*Proxy, func() net.Conn, chan error) {
	t.Helper()
	addr, ended := echo(t)
	p, err := Listen(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p, func() net.Conn {
		c, err := net.Dial("tcp", p.Addr())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c
	}, ended
}

// say writes and reads it back within a time.
func say(t *testing.T, c net.Conn, text string, within time.Duration) error {
	t.Helper()
	if _, err := c.Write([]byte(text)); err != nil {
		return err
	}
	c.SetReadDeadline(time.Now().Add(within))
	buf := make([]byte, len(text))
	_, err := io.ReadFull(c, buf)
	if err == nil && string(buf) != text {
		t.Errorf("read %q, want %q", buf, text)
	}
	return err
}

const (
	soon  = 10 * time.Second
	quiet = 100 * time.Millisecond
)

func TestCarriesAndCuts(t *testing.T) {
	p, dial, ended := proxied(t)
	a, b := dial(), dial()
	for _, c := range []net.Conn{a, b} {
		if err := say(t, c, "hello", soon); err != nil {
			t.Fatal(err)
		}
	}
	if n := p.Links(); n != 2 {
		t.Errorf("%d links", n)
	}
	if n := p.Cut(); n != 2 {
		t.Errorf("cut %d links", n)
	}
	for _, c := range []net.Conn{a, b} {
		if err := say(t, c, "hello", soon); err == nil {
			t.Error("a cut link answers")
		}
		<-ended
	}
	if err := say(t, dial(), "anew", soon); err != nil {
		t.Error(err)
	}
}

func TestBlackHole(t *testing.T) {
	p, dial, _ := proxied(t)
	a := dial()
	if err := say(t, a, "hello", soon); err != nil {
		t.Fatal(err)
	}
	for _, w := range []Way{Both, Up, Down} {
		p.Hold(w)
		p.Hold(w)
		for _, c := range []net.Conn{a, dial()} {
			if err := say(t, c, "x", quiet); !isTimeout(err) {
				t.Error(w, err)
			}
		}
		p.Flow(w)
		p.Flow(w)
		a.SetReadDeadline(time.Now().Add(soon))
		buf := make([]byte, 1)
		if _, err := io.ReadFull(a, buf); err != nil || buf[0] != 'x' { // what was held
			t.Error(w, err, buf)
		}
	}
	p.Hold(Both)
	dial()
	p.Cut() // a link that never reached the server, too
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// The client hears the end; the server learns of it only by the cut.
func TestHalfClose(t *testing.T) {
	p, dial, ended := proxied(t)
	a := dial()
	if err := say(t, a, "hello", soon); err != nil {
		t.Fatal(err)
	}
	if n := p.HalfClose(); n != 1 {
		t.Errorf("%d links", n)
	}
	a.SetReadDeadline(time.Now().Add(soon))
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Error(err)
	}
	a.Close()
	select {
	case <-ended:
		t.Error("the server was told")
	case <-time.After(quiet):
	}
	if err := say(t, dial(), "anew", soon); err != nil {
		t.Error(err)
	}
	if n := p.CutHalved(); n != 1 {
		t.Errorf("cut %d links", n)
	}
	<-ended
}

func TestDelayAndInject(t *testing.T) {
	p, dial, _ := proxied(t)
	a := dial()
	if err := say(t, a, "hello", soon); err != nil {
		t.Fatal(err)
	}
	p.Delay(quiet)
	start := time.Now()
	if err := say(t, a, "hello", soon); err != nil || time.Since(start) < 2*quiet {
		t.Error(err, time.Since(start))
	}
	if n := p.Inject([]byte("x")); n != 1 {
		t.Error("injected into", n)
	}
	a.SetReadDeadline(time.Now().Add(soon))
	if _, err := io.ReadFull(a, make([]byte, 1)); err != nil {
		t.Error(err)
	}
}

// A held proxy is felt: what is written stays unread, after little.
func TestHoldIsFelt(t *testing.T) {
	p, dial, _ := proxied(t)
	a := dial()
	p.Hold(Up)
	a.SetWriteDeadline(time.Now().Add(soon))
	buf := make([]byte, 1<<20)
	total := 0
	for range 64 {
		a.SetWriteDeadline(time.Now().Add(quiet))
		n, err := a.Write(buf)
		if total += n; err != nil {
			return
		}
	}
	t.Errorf("%d bytes went into a held link", total)
}

package interop

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
)

// A call ends by its deadline + 100 ms. Here deadline and slack have five times
// that together: a hang fails, a slow machine under the race detector does not.
const (
	deadline = 500 * time.Millisecond
	room     = 5*(deadline+100*time.Millisecond) - deadline
)

// blackHole dials sockets that can be made to swallow: writes and reads block.
type blackHole struct {
	mu   sync.Mutex
	gate chan struct{} // closed: traffic flows
}

func newBlackHole() *blackHole {
	b := &blackHole{gate: make(chan struct{})}
	close(b.gate)
	return b
}

func (b *blackHole) open() chan struct{} {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.gate
}

func (b *blackHole) swallow() (flow func()) {
	gate := make(chan struct{})
	b.mu.Lock()
	b.gate = gate
	b.mu.Unlock()
	return sync.OnceFunc(func() { close(gate) })
}

func (b *blackHole) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	select {
	case <-b.open():
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	var d net.Dialer
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	return &holeConn{Conn: c, b: b, closed: make(chan struct{})}, nil
}

// holeConn honours its deadlines also while it swallows, as a socket does.
type holeConn struct {
	net.Conn
	b      *blackHole
	once   sync.Once
	closed chan struct{}

	mu          sync.Mutex
	read, write time.Time
}

func (c *holeConn) wait(deadline *time.Time) error {
	for {
		c.mu.Lock()
		at := *deadline
		c.mu.Unlock()
		var timeout <-chan time.Time
		if !at.IsZero() {
			t := time.NewTimer(time.Until(at))
			defer t.Stop()
			timeout = t.C
		}
		poll := time.NewTimer(20 * time.Millisecond) // a deadline may be set meanwhile
		select {
		case <-c.b.open():
			poll.Stop()
			return nil
		case <-c.closed:
			poll.Stop()
			return net.ErrClosed
		case <-timeout:
			poll.Stop()
			return timeoutError{}
		case <-poll.C:
		}
	}
}

type timeoutError struct{}

func (timeoutError) Error() string   { return "i/o timeout" }
func (timeoutError) Timeout() bool   { return true }
func (timeoutError) Temporary() bool { return true }

func (c *holeConn) Write(p []byte) (int, error) {
	if err := c.wait(&c.write); err != nil {
		return 0, err
	}
	return c.Conn.Write(p)
}

func (c *holeConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if werr := c.wait(&c.read); werr != nil {
		return 0, werr
	}
	return n, err
}

func (c *holeConn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *holeConn) SetReadDeadline(t time.Time) error {
	c.mu.Lock()
	c.read = t
	c.mu.Unlock()
	return c.Conn.SetReadDeadline(t)
}

func (c *holeConn) SetWriteDeadline(t time.Time) error {
	c.mu.Lock()
	c.write = t
	c.mu.Unlock()
	return c.Conn.SetWriteDeadline(t)
}

func (c *holeConn) Close() error {
	c.once.Do(func() { close(c.closed) })
	return c.Conn.Close()
}

// With a network that swallows packets every call ends by its deadline, with an
// error that is its cause and says what is known; so does closing.
func TestNoCallOutlivesItsContext(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		hole := newBlackHole()
		conn, err := gombu.Open(b.url, &gombu.Config{Grace: time.Second, Dial: driver.DialConfig{Dial: hole.dial}})
		must(t, err)
		q := name(t, "q")
		topo := gombu.Topology{Queues: []gombu.Queue{{Name: q}}}
		must(t, conn.Declare(t.Context(), topo))
		drop(t, b, topo)
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q, Value: 1}))
		run, stop := context.WithCancel(t.Context())
		defer stop()
		got := make(chan *gombu.Delivery, 1)
		over := make(chan error, 1)
		go func() {
			over <- conn.Run(run, gombu.ConsumerConfig{Queues: []string{q}, Prefetch: 1}, func(_ context.Context, d *gombu.Delivery) error {
				got <- d
				return d.Detach()
			})
		}()
		d := <-got
		flow := hole.swallow()
		defer flow()
		calls := map[string]func(context.Context) error{
			"publish": func(ctx context.Context) error {
				return conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: q, Value: 2})
			},
			"large publish": func(ctx context.Context) error {
				return conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: q, Body: make([]byte, 1<<20)})
			},
			"declare": func(ctx context.Context) error {
				return conn.Declare(ctx, gombu.Topology{
					Exchanges: []gombu.Exchange{{Name: q}}, Queues: []gombu.Queue{{Name: q}},
					Bindings: []gombu.Binding{{Exchange: q, Queue: q, Key: "k"}},
				})
			},
			"inspect": func(ctx context.Context) error { _, err := conn.Inspect(ctx, q); return err },
			"purge":   func(ctx context.Context) error { _, err := conn.Purge(ctx, q); return err },
			"delete":  func(ctx context.Context) error { return conn.Delete(ctx, topo, nil) },
		}
		var wg sync.WaitGroup
		for what, call := range calls {
			for range 20 {
				wg.Go(func() {
					ctx, cancel := context.WithTimeout(t.Context(), deadline)
					defer cancel()
					start := time.Now()
					err := call(ctx)
					if took := time.Since(start); took > deadline+room {
						t.Errorf("%s took %v", what, took)
					}
					if !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("%s: %v", what, err)
					}
					known := errors.Is(err, gombu.ErrUncertain) || errors.Is(err, gombu.ErrNotSent) || errors.Is(err, gombu.ErrUnavailable) || errors.Is(err, gombu.ErrBlocked)
					if !known {
						t.Errorf("%s does not say what is known: %v", what, err)
					}
				})
			}
		}
		wg.Wait()
		// An ack is written, or the session ends: it returns either way.
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start := time.Now()
		_ = d.Ack(ctx)
		if took := time.Since(start); took > time.Second+room {
			t.Errorf("ack took %v", took)
		}
		stop()
		start = time.Now()
		err = conn.Close()
		if took := time.Since(start); took > time.Second+3*room {
			t.Errorf("close took %v: %v", took, err)
		}
		select {
		case <-over:
		case <-time.After(5 * time.Second):
			t.Error("Run did not return")
		}
	})
}

// A peer that takes connections and never answers: the attempt ends by the
// connect timeout, the call by its context.
func TestPeerThatNeverAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
		}
	}()
	for _, scheme := range []string{"amqp", "amqps", "redis", "rediss"} {
		conn, err := gombu.Open(fmt.Sprintf("%s://%s?connect_timeout=0.2", scheme, l.Addr()), nil)
		must(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		start := time.Now()
		err = conn.Ready(ctx)
		cancel()
		if took := time.Since(start); took > time.Second+room || !errors.Is(err, gombu.ErrUnavailable) {
			t.Errorf("%s: after %v: %v", scheme, took, err)
		}
		start = time.Now()
		must(t, conn.Close())
		if took := time.Since(start); took > 2*room {
			t.Errorf("%s: close took %v", scheme, took)
		}
	}
}

package amqp

import (
	"context"
	"net"
	"sync"
	"testing"
)

// A proxy stands between a session and the broker, so that a test can stall,
// cut and add to what goes over the link.
type proxy struct {
	t      *testing.T
	target string
	l      net.Listener
	wg     sync.WaitGroup

	mu      sync.Mutex
	resume  chan struct{} // closed while bytes flow to the broker
	speak   chan struct{} // closed while bytes flow from it
	clients []net.Conn
	brokers []net.Conn
}

// proxied returns cfg changed to go through a new proxy.
func proxied(t *testing.T, cfg Config) (Config, *proxy) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	full := cfg.withDefaults()
	p := &proxy{t: t, target: full.address(), l: l, resume: make(chan struct{}), speak: make(chan struct{})}
	close(p.resume)
	close(p.speak)
	p.wg.Go(p.accept)
	t.Cleanup(func() {
		l.Close()
		p.cut()
		p.wg.Wait()
	})
	cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, l.Addr().String())
		if err == nil { // so that little fits in before a stalled write is felt
			err = conn.(*net.TCPConn).SetWriteBuffer(32 << 10)
		}
		return conn, err
	}
	return cfg, p
}

func (p *proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		client.(*net.TCPConn).SetReadBuffer(32 << 10)
		broker, err := net.Dial("tcp", p.target)
		if err != nil {
			client.Close()
			return
		}
		p.mu.Lock()
		p.clients, p.brokers = append(p.clients, client), append(p.brokers, broker)
		p.mu.Unlock()
		p.wg.Go(func() { p.copy(broker, client, &p.resume) })
		p.wg.Go(func() { p.copy(client, broker, &p.speak) })
	}
}

func (p *proxy) copy(dst, src net.Conn, gate *chan struct{}) {
	defer dst.Close()
	defer src.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if err != nil {
			return
		}
		p.mu.Lock()
		open := *gate
		p.mu.Unlock()
		<-open
		if _, err := dst.Write(buf[:n]); err != nil {
			return
		}
	}
}

// stall stops reading from the sessions; the returned function goes on.
func (p *proxy) stall() (flow func()) { return p.shut(&p.resume) }

// mute stops what the broker says.
func (p *proxy) mute() (flow func()) { return p.shut(&p.speak) }

func (p *proxy) shut(gate *chan struct{}) (open func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	closed := make(chan struct{})
	*gate = closed
	return sync.OnceFunc(func() { close(closed) })
}

// cut closes all links.
func (p *proxy) cut() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range append(p.clients, p.brokers...) {
		c.Close()
	}
}

// inject sends frames to the sessions as if the broker had. The broker must be
// silent meanwhile.
func (p *proxy) inject(frames []byte) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.clients {
		if _, err := c.Write(frames); err != nil {
			p.t.Error(err)
		}
	}
}

package amqp

import (
	"context"
	"net"
	"testing"

	linkproxy "github.com/gombu/gombu/gombutest/proxy"
)

// A proxy stands between a session and the broker, so that a test can stall,
// cut and add to what goes over the link.
type proxy struct {
	*linkproxy.Proxy
	t *testing.T
}

// proxied returns cfg changed to go through a new proxy.
func proxied(t *testing.T, cfg Config) (Config, *proxy) {
	t.Helper()
	full := cfg.withDefaults()
	p, err := linkproxy.Listen(full.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, p.Addr())
		if err == nil { // so that little fits in before a stalled write is felt
			err = conn.(*net.TCPConn).SetWriteBuffer(32 << 10)
		}
		return conn, err
	}
	return cfg, &proxy{p, t}
}

// stall stops reading from the sessions; the returned function goes on.
func (p *proxy) stall() (flow func()) { return p.hold(linkproxy.Up) }

// mute stops what the broker says.
func (p *proxy) mute() (flow func()) { return p.hold(linkproxy.Down) }

func (p *proxy) hold(w linkproxy.Way) (flow func()) {
	p.Hold(w)
	return func() { p.Flow(w) }
}

// cut closes all links.
func (p *proxy) cut() { p.Cut() }

// inject sends frames to the sessions as if the broker had. The broker must be
// silent meanwhile.
func (p *proxy) inject(frames []byte) {
	if p.Inject(frames) == 0 {
		p.t.Error("there is no link to inject into")
	}
}

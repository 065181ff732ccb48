package amqp

import (
	"context"
	"net"
	"testing"

	"github.com/gombu/gombu/gombutest/proxy"
)

// proxied returns cfg changed to go through a new proxy.
func proxied(t *testing.T, cfg Config) (Config, *proxy.Proxy) {
	t.Helper()
	full := cfg.withDefaults()
	p, err := proxy.Listen(full.address())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	cfg.Dial = func(ctx context.Context, network, _ string) (net.Conn, error) {
		conn, err := (&net.Dialer{}).DialContext(ctx, network, p.Addr())
		if err == nil { // so that little fits in before a held write is felt
			err = conn.(*net.TCPConn).SetWriteBuffer(32 << 10)
		}
		return conn, err
	}
	return cfg, p
}

// hold holds what goes these ways; the returned function lets it go on.
func hold(p *proxy.Proxy, w proxy.Way) (flow func()) {
	p.Hold(w)
	return func() { p.Flow(w) }
}

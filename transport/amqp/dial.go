package amqp

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/lean"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// Connect implements driver.Connector. Dial, TLS and login together are
// bounded by ConnectTimeout and by ctx, whatever the peer does.
func (c *connector) Connect(ctx context.Context, env driver.Env) (driver.Conn, error) {
	if c.err != nil {
		return nil, c.err
	}
	s, err := c.connect(ctx, env)
	if err != nil {
		return nil, err
	}
	return s, nil
}

func (c *connector) connect(ctx context.Context, env driver.Env) (*session, error) {
	late := fmt.Errorf("no connection within %v", c.cfg.ConnectTimeout)
	ctx, cancel := context.WithTimeoutCause(ctx, c.cfg.ConnectTimeout, late)
	defer cancel()
	password, err := c.cfg.password(ctx)
	if err != nil {
		return nil, err
	}
	conn, socket, err := c.dial(ctx, env)
	if err != nil {
		return nil, c.connectError(ctx, err)
	}
	s := newSession(c, env, newLink(conn, socket, c.cfg.WriteTimeout))
	if err := s.handshake(ctx, password); err != nil {
		s.finish(err)
		s.wg.Wait()
		return nil, c.connectError(ctx, err)
	}
	return s, nil
}

func (c *connector) connectError(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		err = failure("", "", driver.ErrUnavailable, cause(ctx))
	}
	return at("connect", c.cfg.address(), err)
}

// dial returns the connection and, under its TLS, the socket.
func (c *connector) dial(ctx context.Context, env driver.Env) (conn, socket net.Conn, err error) {
	dial := c.cfg.Dial
	if dial == nil {
		dial = lean.Dial
	}
	socket, err = dial(ctx, "tcp", c.cfg.address())
	if err != nil || !c.cfg.UseTLS {
		return socket, socket, err
	}
	t := c.cfg.tlsConfig()
	if t.InsecureSkipVerify && t.VerifyConnection == nil {
		env.Log.Warn("the broker's certificate is not verified", "broker", c.String())
	}
	client := tls.Client(socket, t)
	if err := client.HandshakeContext(ctx); err != nil {
		_ = socket.Close() // the handshake has failed, there is nothing to say goodbye to
		return nil, nil, fmt.Errorf("TLS: %w", err)
	}
	return client, socket, nil
}

// handshake logs in and opens the virtual host. amqp091 knows no context here:
// the socket is closed under it when ctx ends.
func (s *session) handshake(ctx context.Context, password string) error {
	stop := context.AfterFunc(ctx, func() { s.link.end(cause(ctx)) })
	cfg := &s.connector.cfg
	properties, _, err := fromHeaders(clientProperties(cfg, s.env.Role))
	if err != nil {
		return err
	}
	login := &login{method: cfg.LoginMethod, user: cfg.User, password: password, properties: properties}
	conn, err := amqp091.Open(s.link, amqp091.Config{
		SASL:       []amqp091.Authentication{login},
		Vhost:      cfg.VHost,
		ChannelMax: uint16(cfg.ChannelMax),
		FrameSize:  cfg.FrameMax,
		Heartbeat:  heartbeat(cfg.Heartbeat),
		Properties: properties,
		Locale:     "en_US",
	})
	s.conn = conn
	if err == nil && !stop() {
		err = cause(ctx)
	}
	if err == nil {
		// Three of the broker's heartbeats, of which it sends two in an interval.
		s.link.endAfter(max(0, conn.Config.Heartbeat*3/2))
		s.watch()
		return nil
	}
	stop()
	return handshakeError(conn, s.link, err)
}

// handshakeError tells wrong credentials from a link that was cut during the
// login: amqp091 reports both as wrong credentials where the broker says
// nothing. A broker that can say it is believed.
func handshakeError(conn *amqp091.Connection, l *link, err error) error {
	e, ok := errors.AsType[*amqp091.Error](err)
	switch {
	case !ok:
		return err
	case e.Server:
		return failure("", "", kindOf(e), e)
	case errors.Is(e, amqp091.ErrSASL):
		return failure("", "", driver.ErrDenied, fmt.Errorf("the broker does not offer this login method: %w", e))
	}
	capabilities, _ := conn.Properties["capabilities"].(amqp091.Table)
	says, _ := capabilities[authenticationFailureClose].(bool)
	if errors.Is(e, amqp091.ErrCredentials) && !says && conn.Properties != nil {
		return failure("", "", driver.ErrDenied, e)
	}
	if cut := l.failed(); cut != nil {
		return failure("", "", driver.ErrUnavailable, fmt.Errorf("the link was cut during login: %w", cut))
	}
	return failure("", "", driver.ErrUnavailable, e)
}

// heartbeat is d in whole seconds. amqp091 cannot answer 0 to a broker that
// proposes an interval; -1 starts no timer here and reaches the broker as the
// longest interval that the protocol has.
func heartbeat(d time.Duration) time.Duration {
	if d < 0 {
		return -time.Second
	}
	return (d + time.Second - 1).Truncate(time.Second)
}

func clientProperties(cfg *Config, role driver.Role) driver.Headers {
	p := driver.Headers{
		{Key: "product", Value: "gombu"},
		{Key: "version", Value: version},
		{Key: "platform", Value: "golang"},
		{Key: "connection_name", Value: map[driver.Role]string{
			driver.Both: "gombu", driver.Publish: "gombu publish", driver.Consume: "gombu consume",
		}[role]},
	}
	for _, e := range cfg.ClientProperties {
		p = p.With(e.Key, e.Value)
	}
	return p
}

const authenticationFailureClose = "authentication_failure_close"

// A login is a SASL mechanism (wire: amqp.md section 1).
type login struct {
	method, user, password string
	properties             amqp091.Table // the client properties that will be sent
}

func (a *login) Mechanism() string { return a.method }

// Response also completes the capabilities: amqp091 has just set its own and
// leaves out the one without which a broker answers wrong credentials by
// closing the socket without a word.
func (a *login) Response() string {
	if capabilities, ok := a.properties["capabilities"].(amqp091.Table); ok {
		capabilities[authenticationFailureClose] = true
	}
	switch a.method {
	case "EXTERNAL":
		return "" // the certificate says who we are
	case "AMQPLAIN":
		return (&amqp091.AMQPlainAuth{Username: a.user, Password: a.password}).Response()
	}
	return (&amqp091.PlainAuth{Username: a.user, Password: a.password}).Response()
}

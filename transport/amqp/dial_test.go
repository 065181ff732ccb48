package amqp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/dsn"
	"github.com/gombu/gombu/gombutest/proxy"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

func tryConnect(t *testing.T, cfg Config) error {
	t.Helper()
	env, _ := testEnv(driver.Both)
	s, err := New(cfg).Connect(testContext(t), env)
	if err == nil {
		s.Close(testContext(t))
	}
	return err
}

// ask talks to the management API.
func ask(t *testing.T, method, path, body string) int {
	t.Helper()
	cfg := brokerConfig(t).withDefaults()
	u := fmt.Sprintf("http://%s/api/%s", cfg.managementURL().Host, path)
	req, err := http.NewRequest(method, u, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth(cfg.User, cfg.Password)
	req.Close = true
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		needs(t, "RabbitMQ's management plugin", "scripts/services start rabbitmq")
	}
	resp.Body.Close()
	return resp.StatusCode
}

func TestBehaviour195_WrongPassword(t *testing.T) {
	cfg := brokerConfig(t)
	for _, method := range []string{"PLAIN", "AMQPLAIN"} {
		cfg.LoginMethod, cfg.Password = method, "s3cret"
		err := tryConnect(t, cfg)
		wantKind(t, err, driver.ErrDenied)
		var e *amqp091.Error
		if !errors.As(err, &e) || e.Code != amqp091.AccessRefused || !e.Server {
			t.Errorf("%v does not unwrap to the broker's own refusal", err)
		}
		if strings.Contains(err.Error(), "s3cret") {
			t.Error("the password is in the error")
		}
		cfg.Password = ""
		if err := tryConnect(t, cfg); err != nil {
			t.Errorf("%s with the right password: %v", method, err)
		}
	}
}

func TestVirtualHosts(t *testing.T) {
	cfg := brokerConfig(t)
	cfg.VHost = unique(t)
	wantKind(t, tryConnect(t, cfg), driver.ErrNotFound)
	// It is there and not for us.
	vhost, user := "vhosts/"+url.PathEscape(cfg.VHost), "users/"+url.PathEscape(cfg.VHost)
	ask(t, http.MethodPut, vhost, "")
	defer ask(t, http.MethodDelete, vhost, "")
	ask(t, http.MethodPut, user, `{"password":"p","tags":""}`)
	defer ask(t, http.MethodDelete, user, "")
	cfg.User, cfg.Password = cfg.VHost, "p"
	wantKind(t, tryConnect(t, cfg), driver.ErrDenied)
}

func TestPermissions(t *testing.T) {
	cfg := brokerConfig(t)
	s := connect(t, cfg)
	q := queue(t, s, driver.Queue{})
	user := unique(t)
	ask(t, http.MethodPut, "users/"+user, `{"password":"p","tags":""}`)
	defer ask(t, http.MethodDelete, "users/"+user, "")
	ask(t, http.MethodPut, "permissions/%2F/"+user, `{"configure":"","write":"","read":""}`)
	cfg.User, cfg.Password = user, "p"
	weak := connect(t, cfg)
	steps := []driver.Step{{Queue: &driver.Queue{Name: unique(t)}}}
	if err := weak.Apply(testContext(t), steps); err != nil {
		t.Fatal(err)
	}
	wantKind(t, steps[0].Err, driver.ErrDenied)
	_, err := weak.OpenReceiver(testContext(t), driver.ReceiverConfig{Queue: q, Prefetch: 1})
	wantKind(t, err, driver.ErrDenied)
	// One message that is not allowed, amid others.
	m := driver.Outgoing{Exchange: "amq.direct", Key: q}
	wantKind(t, publish(t, weak, m)[0], driver.ErrDenied)
	wantKind(t, publish(t, weak, to(q, "default exchange"))[0], driver.ErrDenied)
}

func TestBehaviour035_RefusedConnection(t *testing.T) {
	err := tryConnect(t, Config{Host: "127.0.0.1", Port: 1})
	wantKind(t, err, driver.ErrUnavailable)
	var e *net.OpError
	if !errors.As(err, &e) {
		t.Errorf("%v hides the dialer's error", err)
	}
}

// Behaviours 23 and 28: one attempt, bounded, whatever the peer does.
func TestBehaviour028_PeerThatNeverAnswers(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	listener := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
	}
	pipe := func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe() // which takes no byte at all
		t.Cleanup(func() { far.Close() })
		return near, nil
	}
	hang := func(ctx context.Context, _, _ string) (net.Conn, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	for name, dial := range map[string]func(context.Context, string, string) (net.Conn, error){
		"silent": listener, "pipe": pipe, "dial": hang,
	} {
		for _, useTLS := range []bool{false, true} {
			cfg := Config{UseTLS: useTLS, DialConfig: driver.DialConfig{ConnectTimeout: 50 * time.Millisecond, Dial: dial}}
			prompt(t, 150*time.Millisecond, func() {
				err := tryConnect(t, cfg)
				if !errors.Is(err, driver.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "within 50ms") {
					t.Errorf("%s, TLS %v: %v", name, useTLS, err)
				}
			})
			cfg.ConnectTimeout = time.Minute
			reason := errors.New("the caller had enough")
			ctx, cancel := context.WithTimeoutCause(t.Context(), 50*time.Millisecond, reason)
			prompt(t, 150*time.Millisecond, func() {
				env, _ := testEnv(driver.Both)
				_, err := New(cfg).Connect(ctx, env)
				if !errors.Is(err, driver.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, reason) {
					t.Errorf("%s, TLS %v: %v", name, useTLS, err)
				}
			})
			cancel()
		}
	}
}

// A broker that goes away during the login has refused nobody: trying again
// helps, and the supervisor must not give up.
func TestCutDuringLoginIsNotDenied(t *testing.T) {
	full := brokerConfig(t).withDefaults()
	cfg := brokerConfig(t)
	var wg sync.WaitGroup
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		wg.Go(func() {
			defer far.Close()
			broker, err := net.Dial("tcp", full.address())
			if err != nil {
				return
			}
			defer broker.Close()
			head := make([]byte, 8)
			io.ReadFull(far, head)
			broker.Write(head)
			buf := make([]byte, 4096)
			n, _ := broker.Read(buf)
			far.Write(buf[:n]) // connection.start
			far.Read(buf)      // start-ok, and no more
		})
		return near, nil
	}
	err := tryConnect(t, cfg)
	wg.Wait()
	if !errors.Is(err, driver.ErrUnavailable) || errors.Is(err, driver.ErrDenied) {
		t.Fatal(err)
	}
}

func TestNotAnAMQPServer(t *testing.T) {
	cfg := Config{}
	var wg sync.WaitGroup
	cfg.Dial = func(context.Context, string, string) (net.Conn, error) {
		near, far := net.Pipe()
		wg.Go(func() {
			io.ReadFull(far, make([]byte, 8))
			io.WriteString(far, "HTTP/1.1 400 Bad Request\r\n\r\n")
			far.Close()
		})
		return near, nil
	}
	wantKind(t, tryConnect(t, cfg), driver.ErrUnavailable)
	wg.Wait()
}

func TestBehaviour053_PasswordFunctionAtEachDial(t *testing.T) {
	cfg := brokerConfig(t)
	right, calls := cfg.withDefaults().Password, 0
	cfg.Password = "wrong"
	cfg.DialConfig.Password = func(context.Context) (string, error) { calls++; return right, nil }
	c := New(cfg)
	for want := 1; want <= 3; want++ {
		env, _ := testEnv(driver.Both)
		s, err := c.Connect(testContext(t), env)
		if err != nil || calls != want {
			t.Fatalf("%v; called %d times, want %d", err, calls, want)
		}
		if err := s.Close(testContext(t)); err != nil {
			t.Fatal(err)
		}
	}
	cfg.DialConfig.Password = func(context.Context) (string, error) { return "", io.ErrUnexpectedEOF }
	err := tryConnect(t, cfg)
	wantKind(t, err, driver.ErrUnavailable)
	wantKind(t, err, io.ErrUnexpectedEOF)
}

// Behaviours 25 to 27.
func TestBehaviour025_Close(t *testing.T) {
	cfg, p := proxied(t, brokerConfig(t))
	s := connect(t, cfg)
	select {
	case <-s.Done():
		t.Fatal("done before its end")
	default:
	}
	if s.Err() != nil {
		t.Fatal(s.Err())
	}
	var wg sync.WaitGroup
	for range 3 {
		wg.Go(func() {
			if err := s.Close(testContext(t)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	<-s.Done()
	wantKind(t, s.Err(), driver.ErrClosed)
	wantKind(t, s.Apply(testContext(t), []driver.Step{{Queue: &driver.Queue{Name: "x"}}}), driver.ErrClosed)
	_, err := s.OpenSender(testContext(t), driver.SenderConfig{Window: 1})
	wantKind(t, err, driver.ErrClosed)
	_, err = s.OpenReceiver(testContext(t), driver.ReceiverConfig{Queue: "x", Prefetch: 1})
	wantKind(t, err, driver.ErrClosed)

	dead := connect(t, cfg)
	p.Cut()
	<-dead.Done()
	prompt(t, 100*time.Millisecond, func() {
		if err := dead.Close(testContext(t)); err != nil {
			t.Error("a connection error while closing is none:", err)
		}
	})
	wantKind(t, dead.Err(), driver.ErrUnavailable)
}

func TestBrokerClosesTheConnection(t *testing.T) {
	cfg := brokerConfig(t)
	name := unique(t)
	cfg.ClientProperties = driver.Headers{{Key: "connection_name", Value: name}}
	s := connect(t, cfg)
	n := openSender(t, s, driver.SenderConfig{Window: 1})
	local := s.conn.LocalAddr().String()
	remote := s.conn.RemoteAddr().String()
	path := "connections/" + url.PathEscape(local+" -> "+remote)
	eventually(t, "the management API knows the connection", func() bool {
		return ask(t, http.MethodDelete, path, "") == http.StatusNoContent
	})
	<-s.Done()
	wantKind(t, s.Err(), driver.ErrUnavailable)
	var e *amqp091.Error
	if !errors.As(s.Err(), &e) || e.Code != amqp091.ConnectionForced {
		t.Fatal(s.Err())
	}
	k, err := n.Submit(testContext(t), []driver.Outgoing{to("q", "x")})
	if k != 0 {
		t.Fatal("submitted to a closed connection")
	}
	wantKind(t, err, driver.ErrNotSent)
	wantKind(t, err, driver.ErrUnavailable)
}

func TestSilentBrokerIsFoundByHeartbeat(t *testing.T) {
	cfg, p := proxied(t, brokerConfig(t))
	cfg.Heartbeat = 300 * time.Millisecond // rounded up to the protocol's second
	s := connect(t, cfg)
	defer hold(p, proxy.Down)()
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("a half-open link goes unnoticed")
	}
	wantKind(t, s.Err(), driver.ErrUnavailable)
}

func TestHeartbeatNegotiated(t *testing.T) {
	for want, d := range map[uint16]time.Duration{10: 0, 3: 2500 * time.Millisecond, 1: 1, 65535: -1, 60: time.Hour} {
		cfg := brokerConfig(t)
		cfg.Heartbeat = d
		rec := record(&cfg)
		connect(t, cfg)
		for _, f := range rec.frames(t) {
			if bytes.HasPrefix(f.payload, []byte{0, 10, 0, 31}) { // tune-ok
				if got := uint16(f.payload[10])<<8 | uint16(f.payload[11]); got != want {
					t.Errorf("heartbeat %v is negotiated as %d s, want %d", d, got, want)
				}
			}
		}
	}
}

func TestBehaviour183_ChannelLimit(t *testing.T) {
	cfg := brokerConfig(t)
	cfg.ChannelMax = 10
	s := connect(t, cfg)
	var senders []driver.Sender
	for range 9 {
		senders = append(senders, openSender(t, s, driver.SenderConfig{Window: 1}))
	}
	_, err := s.OpenSender(testContext(t), driver.SenderConfig{Window: 1})
	wantKind(t, err, driver.ErrUnavailable)
	if !strings.Contains(err.Error(), "90% of the 10") {
		t.Fatal(err)
	}
	if err := senders[0].Close(testContext(t)); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the place of a closed one is free", func() bool {
		n, err := s.OpenSender(testContext(t), driver.SenderConfig{Window: 1})
		return err == nil && n.Close(testContext(t)) == nil
	})
}

func TestClientProperties(t *testing.T) {
	cfg := brokerConfig(t)
	cfg.ClientProperties = driver.Headers{{Key: "team", Value: "blue"}}
	rec := record(&cfg)
	connect(t, cfg)
	startOK := rec.frames(t)[0].payload
	for _, want := range []string{"productS\x00\x00\x00\x05gombu", "teamS\x00\x00\x00\x04blue", authenticationFailureClose + "t\x01", "connection_nameS\x00\x00\x00\x05gombu"} {
		if !bytes.Contains(startOK, []byte(want)) {
			t.Errorf("start-ok has no %q", want)
		}
	}
}

// tlsDir has the certificates that scripts/services made.
func tlsDir(t *testing.T) string {
	t.Helper()
	dir := filepath.Join("..", "..", ".services", "rabbitmq", "tls")
	if _, err := os.Stat(filepath.Join(dir, "client.pem")); err != nil {
		needs(t, "RabbitMQ with TLS on port 5674 and its certificates", "scripts/services start rabbitmq")
	}
	return dir
}

func TestTLS(t *testing.T) {
	brokerConfig(t)
	dir := tlsDir(t)
	ca := "ssl_ca_certs=" + filepath.Join(dir, "ca.pem")
	client := "&ssl_certfile=" + filepath.Join(dir, "client.pem") + "&ssl_keyfile=" + filepath.Join(dir, "client.key")
	for query, want := range map[string]string{
		ca:                                     "",
		ca + "&login_method=EXTERNAL" + client: "",
		ca + "&server_hostname=elsewhere.example":                          "elsewhere.example",
		ca + "&server_hostname=elsewhere.example&ssl_check_hostname=false": "",
		"ssl_cert_reqs=none":          "",
		"ssl_check_hostname=false":    "unknown authority",
		"":                            "unknown authority",
		ca + "&login_method=EXTERNAL": "access denied",
	} {
		t.Run(query, func(t *testing.T) {
			list, err := dsn.Open("amqps://localhost:5674/?"+query, driver.DialConfig{})
			if err != nil {
				t.Fatal(err)
			}
			env, _ := testEnv(driver.Both)
			s, err := list[0].Connect(testContext(t), env)
			if want != "" {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Fatalf("%v; want %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			q := queue(t, s, driver.Queue{Exclusive: true})
			m := to(q, strings.Repeat("x", 1<<20))
			m.Props.UserID = "guest"
			mustPublish(t, s, m)
			receive(t, openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 1}), 1)
			if err := s.Close(testContext(t)); err != nil {
				t.Fatal(err)
			}
		})
	}
}

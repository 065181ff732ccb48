package interop

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/transport/amqp"
	"github.com/gombu/gombu/transport/redis"
)

// with replaces parts of a broker's URL.
func (b broker) with(t *testing.T, change func(u *url.URL)) string {
	t.Helper()
	u, err := url.Parse(b.url)
	must(t, err)
	change(u)
	return u.String()
}

// soon fails when f takes longer than a call with its answer at hand should.
func soon(t *testing.T, what string, f func() error) error {
	t.Helper()
	start := time.Now()
	err := f()
	if took := time.Since(start); took > 10*time.Second {
		t.Errorf("%s took %v", what, took)
	}
	return err
}

func TestBehaviour195_WrongPasswordFailsAtOnce(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		wrong := b.with(t, func(u *url.URL) { u.User = url.UserPassword("guest", "sesame") })
		conn, err := gombu.Open(wrong, nil)
		must(t, err)
		defer conn.Close()
		err = soon(t, "ready", func() error { return conn.Ready(t.Context()) })
		if !errors.Is(err, gombu.ErrDenied) || strings.Contains(err.Error(), "sesame") {
			t.Errorf("got %v", err)
		}
	})
}

func TestMissingVirtualHost(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		missing := b.with(t, func(u *url.URL) { u.Path = "/no-such-vhost" })
		conn, err := gombu.Open(missing, nil)
		if b.name == "redis" { // a virtual host is a database number there
			if !errors.Is(err, gombu.ErrInvalid) || !strings.Contains(err.Error(), "no-such-vhost") {
				t.Errorf("got %v", err)
			}
			return
		}
		must(t, err)
		defer conn.Close()
		if err := soon(t, "ready", func() error { return conn.Ready(t.Context()) }); !errors.Is(err, gombu.ErrNotFound) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRedeclareSaysHaveAndWant(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		conn := open(t, b, "")
		e := name(t, "e")
		drop(t, b, gombu.Topology{Exchanges: []gombu.Exchange{{Name: e}}})
		must(t, conn.Declare(t.Context(), gombu.Topology{Exchanges: []gombu.Exchange{{Name: e, Type: gombu.Topic}}}))
		err := conn.Declare(t.Context(), gombu.Topology{Exchanges: []gombu.Exchange{{Name: e, Type: gombu.Fanout}}})
		if !errors.Is(err, gombu.ErrConflict) {
			t.Fatalf("got %v", err)
		}
		for _, part := range []string{"have", "want", "topic", "fanout"} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%v does not say %q", err, part)
			}
		}
		must(t, conn.Ready(t.Context())) // the session is none the worse
	})
}

func TestBigBodies(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		conn := open(t, b, "")
		q := name(t, "big")
		topo := gombu.Topology{Queues: []gombu.Queue{{Name: q}}}
		must(t, conn.Declare(t.Context(), topo))
		drop(t, b, topo)
		body := bytes.Repeat([]byte("0123456789abcdef"), 100<<20/16)
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		must(t, conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: q, Body: body}))
		d := take(t, conn, q, 1, nil)[0]
		if !bytes.Equal(d.Body, body) {
			t.Errorf("100 MiB came back as %d bytes", len(d.Body))
		}
		err := conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: q, Body: make([]byte, 128<<20+1)})
		if !errors.Is(err, gombu.ErrTooLarge) {
			t.Errorf("above MaxBody: %v", err)
		}
	})
}

// Properties that do not fit an AMQP frame are refused before the write: the
// broker would close the whole connection.
func TestLargeProperties(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		conn := open(t, b, "")
		q := name(t, "props")
		topo := gombu.Topology{Queues: []gombu.Queue{{Name: q}}}
		must(t, conn.Declare(t.Context(), topo))
		drop(t, b, topo)
		p := conn.Producer(nil)
		huge := gombu.Headers{{Key: "h", Value: strings.Repeat("x", 200<<10)}}
		err := p.Publish(t.Context(), &gombu.Message{Queue: q, Properties: gombu.Properties{Headers: huge}})
		if b.name == "rabbitmq" && !errors.Is(err, gombu.ErrTooLarge) || b.name == "redis" && err != nil {
			t.Errorf("got %v", err)
		}
		must(t, p.Publish(t.Context(), &gombu.Message{Queue: q, Value: "still alive"}))
	})
}

func redisCLI(t *testing.T, b broker, args ...string) string {
	t.Helper()
	u, err := url.Parse(b.url)
	must(t, err)
	all := append([]string{"-h", u.Hostname(), "-p", u.Port(), "-n", strings.TrimPrefix(u.Path, "/"), "--raw"}, args...)
	out, err := exec.Command("redis-cli", all...).CombinedOutput()
	if err != nil {
		t.Fatalf("redis-cli %v: %v: %s", args, err, out)
	}
	return strings.TrimRight(string(out), "\n")
}

// Whatever lies in a Redis list: the process stays up, good messages are
// handled, the rest is parked exactly as it was found.
func TestGarbageOnRedisIsParkedAsItIs(t *testing.T) {
	b := brokers()[1]
	need(t, b)
	conn := open(t, b, "")
	q := name(t, "garbage")
	garbage := []string{
		"no envelope at all",
		"",
		"[1, 2, 3]",
		`{"body": "e30="}`,
		`{"body": "e30", "headers": {}, "content-type": "application/json", "properties": {"body_encoding": "base64", "delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}}}`,
		`{"body": "e30=", "headers": {}, "properties": {"body_encoding": "base64", "delivery_tag": "t"}}`,
		`{"body": "e30=", "headers": {}, "properties": {"body_encoding": "rot13", "delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}}}`,
		"\x80\x81 not text",
		`{"body": "e25vIGpzb24=", "content-type": "application/json", "headers": {}, "properties": {"body_encoding": "base64", "delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}}}`,
	}
	for _, g := range garbage {
		redisCLI(t, b, "LPUSH", q, g)
	}
	must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q, Value: "good"}))
	parked := "gombu.dead." + q
	drop(t, b, gombu.Topology{Queues: []gombu.Queue{{Name: q}, {Name: parked}}})
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var good []string
	must(t, conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{q}}, gombu.Typed(func(_ context.Context, v string, _ *gombu.Delivery) error {
		good = append(good, v)
		cancel()
		return nil
	})))
	if fmt.Sprint(good) != "[good]" {
		t.Fatalf("handled %v", good)
	}
	if left := redisCLI(t, b, "LLEN", q); left != "0" {
		t.Errorf("%s are left in the queue", left)
	}
	for i, g := range garbage {
		if got := redisCLI(t, b, "LINDEX", parked, fmt.Sprint(-1-i)); got != g {
			t.Errorf("parked %d: %q, want %q", i, got, g)
		}
	}
	if n := redisCLI(t, b, "LLEN", parked); n != fmt.Sprint(len(garbage)) {
		t.Errorf("%s parked, want %d", n, len(garbage))
	}
	for _, key := range strings.Fields(redisCLI(t, b, "KEYS", "gombu:own:*")) {
		if n := redisCLI(t, b, "LLEN", key); n != "0" {
			t.Logf("%s holds %s", key, n)
		}
	}
}

// On RabbitMQ the parked copy has the body and the properties, and says why.
func TestUndecodableOnRabbitMQIsParked(t *testing.T) {
	b := brokers()[0]
	need(t, b)
	conn := open(t, b, "")
	q := name(t, "garbage")
	parked := "gombu.dead." + q
	topo := gombu.Topology{Queues: []gombu.Queue{{Name: q}}}
	must(t, conn.Declare(t.Context(), topo))
	drop(t, b, gombu.Topology{Queues: []gombu.Queue{{Name: q}, {Name: parked}}})
	bad := &gombu.Message{Queue: q, Body: []byte("{no json"), Properties: gombu.Properties{ContentType: "application/json", ContentEncoding: "utf-8", MessageID: "m1", UserID: "guest", Headers: gombu.Headers{{Key: "k", Value: "v"}}}}
	must(t, conn.Producer(nil).Publish(t.Context(), bad))
	must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q, Value: "good"}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	must(t, conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{q}}, gombu.Typed(func(context.Context, string, *gombu.Delivery) error { cancel(); return nil })))
	d := take(t, conn, parked, 1, nil)[0]
	if string(d.Body) != "{no json" || d.MessageID != "m1" || d.Headers.Get("k") != "v" || d.Headers.Get("x-first-death-queue") != q || d.Headers.Get("x-gombu-user-id") != "guest" || d.Headers.Get("x-death") == nil {
		t.Errorf("parked %q %+v", d.Body, d.Properties)
	}
}

// A message that is requeued by a failing handler comes back, with every
// property that it had, those of unknown names too.
func TestUnknownPropertiesSurviveARequeue(t *testing.T) {
	b := brokers()[1]
	need(t, b)
	conn := open(t, b, "")
	q := name(t, "extra")
	drop(t, b, gombu.Topology{Queues: []gombu.Queue{{Name: q}}})
	redisCLI(t, b, "LPUSH", q, `{"body": "MQ==", "content-type": "application/json", "content-encoding": "utf-8", "headers": {"big": 12345678901234567890}, "properties": {"x-own": {"deep": [1, null]}, "cluster_id": "c", "body_encoding": "base64", "delivery_tag": "t", "delivery_info": {"exchange": "", "routing_key": "q"}, "priority": 0}}`)
	take(t, conn, q, 1, func(ctx context.Context, d *gombu.Delivery) error { return d.Requeue(ctx) })
	d := take(t, conn, q, 1, nil)[0]
	if !d.Redelivered || fmt.Sprint(d.Extra) != "[{x-own [{deep [1 <nil>]}]} {cluster_id c}]" || fmt.Sprint(d.Headers.Get("big")) != "12345678901234567890" {
		t.Errorf("redelivered %v, extra %v, headers %v", d.Redelivered, d.Extra, d.Headers)
	}
	// And onward, published by us.
	must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q, Body: d.Body, Properties: d.Properties}))
	if again := take(t, conn, q, 1, nil)[0]; fmt.Sprint(again.Extra) != fmt.Sprint(d.Extra) {
		t.Errorf("published onward: %v", again.Extra)
	}
}

func TestBehaviour108_TagPrefix(t *testing.T) {
	b := brokers()[0]
	need(t, b)
	conn := open(t, b, "")
	q := name(t, "tag")
	topo := gombu.Topology{Queues: []gombu.Queue{{Name: q}}}
	must(t, conn.Declare(t.Context(), topo))
	drop(t, b, topo)
	must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q}))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tag := ""
	must(t, conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{q}, TagPrefix: "worker-7"}, func(_ context.Context, d *gombu.Delivery) error {
		tag = d.ConsumerTag
		cancel()
		return nil
	}))
	if !strings.HasPrefix(tag, "worker-7") {
		t.Errorf("consumer tag %q", tag)
	}
}

func TestAlternatesAreOfOneTransport(t *testing.T) {
	if _, err := gombu.Open("amqp://h;redis://h", nil); !errors.Is(err, gombu.ErrInvalid) {
		t.Errorf("got %v", err)
	}
	conn, err := gombu.Open("amqp://a;amqps://b,pyamqp://c", nil)
	must(t, err)
	must(t, conn.Close())
}

// What Redis does not keep is refused under Strict, before it is lost silently.
func TestStrictOnRedis(t *testing.T) {
	b := brokers()[1]
	need(t, b)
	conn, err := gombu.Open(b.url, &gombu.Config{Strict: true})
	must(t, err)
	defer conn.Close()
	e := name(t, "e")
	for what, topo := range map[string]gombu.Topology{
		"to_exchange":   {Exchanges: []gombu.Exchange{{Name: e}}, Bindings: []gombu.Binding{{Exchange: e, ToExchange: e + "2"}}},
		"binding_args":  {Exchanges: []gombu.Exchange{{Name: e}}, Bindings: []gombu.Binding{{Exchange: e, Queue: e, Args: gombu.Headers{{Key: "k", Value: 1}}}}},
		"x-message-ttl": {Queues: []gombu.Queue{{Name: e, MessageTTL: time.Second}}},
		"headers":       {Exchanges: []gombu.Exchange{{Name: e, Type: gombu.MatchHeaders}}},
		"exclusive":     {Queues: []gombu.Queue{{Name: e, Exclusive: true}}},
	} {
		if err := conn.Declare(t.Context(), topo); !errors.Is(err, gombu.ErrUnsupported) || !strings.Contains(err.Error(), what) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: e, Expires: time.Minute}}}))
}

func TestPrintedConfigsHideThePassword(t *testing.T) {
	for _, c := range []any{
		amqp.Config{Host: "h", User: "u", Password: "sesame"}, &amqp.Config{Password: "sesame"},
		redis.Config{Addr: "h:1", User: "u", Pass: "sesame"}, &redis.Config{Addr: "h:1", Pass: "sesame"},
	} {
		for _, text := range []string{fmt.Sprint(c), fmt.Sprintf("%+v", c)} {
			if strings.Contains(text, "sesame") {
				t.Errorf("%T prints %s", c, text)
			}
		}
	}
}

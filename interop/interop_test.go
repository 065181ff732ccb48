package interop

import (
	"context"
	"encoding/base64"
	"fmt"
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/codec"
)

// setup declares exchange and queue in Go and removes them at the end.
func setup(t *testing.T, b broker, conn *gombu.Conn, typ, key string) (exchange, queue string) {
	t.Helper()
	exchange, queue = name(t, "e"), name(t, "q")
	topo := gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: exchange, Type: typ}},
		Queues:    []gombu.Queue{{Name: queue}},
		Bindings:  []gombu.Binding{{Exchange: exchange, Queue: queue, Key: key}},
	}
	must(t, conn.Declare(t.Context(), topo))
	drop(t, b, topo)
	return exchange, queue
}

func TestGoToPython(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		conn := open(t, b, "")
		py := startPeer(t, b, nil)
		for _, typ := range []string{gombu.Direct, gombu.Topic} {
			t.Run(typ, func(t *testing.T) {
				pattern := map[string]string{gombu.Direct: "a.b", gombu.Topic: "a.*"}[typ]
				exchange, queue := setup(t, b, conn, typ, pattern)
				py.do("declare", cmd{"exchange": exchange, "type": typ, "queue": queue, "key": pattern})
				p := conn.Producer(&gombu.ProducerConfig{Exchange: exchange, Key: "a.b"})
				values := []any{map[string]any{"hello": "wörld ☃", "n": []any{1.0, nil, true}}, "text é", []byte{0, 0xff, 'x'}}
				for _, z := range []string{"", "zlib"} {
					for _, v := range values {
						must(t, p.Publish(t.Context(), &gombu.Message{Value: v, Compression: z}))
						got := py.do("consume", cmd{"queue": queue})
						if len(got) != 1 || got[0].Error != "" {
							t.Fatalf("%v: python got %+v", v, got)
						}
						want := v
						if raw, ok := v.([]byte); ok {
							want = map[string]any{"bytes": base64.StdEncoding.EncodeToString(raw)}
						}
						if !reflect.DeepEqual(got[0].Body, want) || got[0].Exchange != exchange || got[0].RoutingKey != "a.b" {
							t.Errorf("%v %s: python got %+v", v, z, got[0])
						}
					}
				}
			})
		}
	})
}

func TestPythonToGo(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		conn := open(t, b, "")
		py := startPeer(t, b, nil)
		for _, typ := range []string{gombu.Direct, gombu.Topic} {
			t.Run(typ, func(t *testing.T) {
				pattern := map[string]string{gombu.Direct: "a.b", gombu.Topic: "#.b"}[typ]
				exchange, queue := setup(t, b, conn, typ, pattern)
				py.do("declare", cmd{"exchange": exchange, "type": typ, "queue": queue, "key": pattern})
				for _, z := range []string{"", "zlib"} {
					options := cmd{}
					if z != "" {
						options["compression"] = z
					}
					py.do("publish", cmd{"exchange": exchange, "type": typ, "key": "a.b", "options": options, "bodies": []any{
						map[string]any{"hello": "wörld ☃", "n": []any{1, nil, true}, "big": 1 << 60}, "text é", map[string]any{"bytes": "AP94"}}})
					got := take(t, conn, queue, 3, nil)
					var obj, str, raw any
					must(t, got[0].Decode(&obj))
					must(t, got[1].Decode(&str))
					must(t, got[2].Decode(&raw))
					want := map[string]any{"hello": "wörld ☃", "n": []any{int64(1), nil, true}, "big": int64(1 << 60)}
					if !reflect.DeepEqual(obj, want) || str != "text é" || !reflect.DeepEqual(raw, []byte{0, 0xff, 'x'}) {
						t.Errorf("%s: %v %v %v", z, obj, str, raw)
					}
				}
			})
		}
	})
}

// Kombu 5.2.4 writes dates without tags, and reads tags as plain objects; our
// untagged form is its own.
func TestUntaggedDates(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		reg := codec.New()
		reg.Register(codec.JSONWith(codec.JSONConfig{Untagged: true}))
		conn, err := gombu.Open(b.url, &gombu.Config{Codecs: reg})
		must(t, err)
		t.Cleanup(func() { must(t, conn.Close()) })
		exchange, queue := setup(t, b, conn, gombu.Direct, "k")
		py := startPeer(t, b, nil)
		py.do("declare", cmd{"exchange": exchange, "queue": queue, "key": "k"})
		type event struct {
			At time.Time `json:"at"`
		}
		at := time.Date(2024, 1, 2, 3, 4, 5, 123456000, time.UTC)
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Exchange: exchange, Key: "k", Value: event{at}}))
		if got := py.do("consume", cmd{"queue": queue}); len(got) != 1 || !reflect.DeepEqual(got[0].Body, map[string]any{"at": "2024-01-02T03:04:05.123456Z"}) {
			t.Errorf("python got %+v", got)
		}
		py.do("publish", cmd{"exchange": exchange, "key": "k", "bodies": []any{map[string]any{"datetime": "2024-01-02T03:04:05"}}})
		var when time.Time
		must(t, take(t, conn, queue, 1, nil)[0].Decode(&when))
		if !when.Equal(time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)) {
			t.Errorf("go got %v", when)
		}
	})
}

func TestProperties(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		conn := open(t, b, "")
		exchange, queue := setup(t, b, conn, gombu.Direct, "k")
		py := startPeer(t, b, nil)
		py.do("declare", cmd{"exchange": exchange, "queue": queue, "key": "k"})
		m := &gombu.Message{Exchange: exchange, Key: "k", Value: 1, Properties: gombu.Properties{
			CorrelationID: "c-1", ReplyTo: "r-1", MessageID: "m-1", Type: "t-1", AppID: "a-1", Priority: 3, Expiration: 90 * time.Second,
			Headers: gombu.Headers{{Key: "text", Value: "x"}, {Key: "n", Value: int64(7)}, {Key: "yes", Value: true}, {Key: "none", Value: nil},
				{Key: "list", Value: []any{int64(1), "b"}}, {Key: "table", Value: gombu.Headers{{Key: "k", Value: "v"}}}},
		}}
		must(t, conn.Producer(nil).Publish(t.Context(), m))
		got := py.do("consume", cmd{"queue": queue})
		if len(got) != 1 {
			t.Fatalf("python got %v", got)
		}
		wantProps := map[string]any{"correlation_id": "c-1", "reply_to": "r-1", "message_id": "m-1", "type": "t-1", "app_id": "a-1", "priority": 3.0, "expiration": "90000", "delivery_mode": 2.0}
		if !reflect.DeepEqual(got[0].Properties, wantProps) {
			t.Errorf("properties %v, want %v", got[0].Properties, wantProps)
		}
		wantHeaders := map[string]any{"text": "x", "n": 7.0, "yes": true, "none": nil, "list": []any{1.0, "b"}, "table": map[string]any{"k": "v"}}
		if !reflect.DeepEqual(got[0].Headers, wantHeaders) {
			t.Errorf("headers %v, want %v", got[0].Headers, wantHeaders)
		}

		py.do("publish", cmd{"exchange": exchange, "key": "k", "bodies": []any{2}, "options": cmd{
			"correlation_id": "c-2", "reply_to": "r-2", "message_id": "m-2", "type": "t-2", "app_id": "a-2", "priority": 5, "expiration": 90,
			"headers": cmd{"text": "y", "n": 8, "no": false, "none": nil, "list": []any{1, "b"}, "table": cmd{"k": "v"}}}})
		d := take(t, conn, queue, 1, nil)[0]
		props := fmt.Sprint(d.CorrelationID, d.ReplyTo, d.MessageID, d.Type, d.AppID, d.Priority, d.Expiration, d.DeliveryMode)
		if props != fmt.Sprint("c-2", "r-2", "m-2", "t-2", "a-2", 5, 90*time.Second, gombu.Persistent) {
			t.Errorf("properties %s", props)
		}
		for k, want := range map[string]any{"text": "y", "no": false, "none": nil, "list": []any{int64(1), "b"}, "table": gombu.Headers{{Key: "k", Value: "v"}}} {
			have := d.Headers.Get(k)
			if list, ok := have.([]any); ok {
				for i := range list {
					if n, ok := list[i].(int32); ok {
						list[i] = int64(n)
					}
				}
			}
			if !reflect.DeepEqual(have, want) {
				t.Errorf("header %s: %#v, want %#v", k, have, want)
			}
		}
		if fmt.Sprint(d.Headers.Get("n")) != "8" {
			t.Errorf("header n: %v", d.Headers.Get("n"))
		}
	})
}

// All ten priorities arrive in the broker's order, published by either side:
// on Redis as Kombu, low first; on RabbitMQ high first.
func TestPriorities(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		conn := open(t, b, "")
		queue := name(t, "q")
		topo := gombu.Topology{Queues: []gombu.Queue{{Name: queue, MaxPriority: 9}}}
		must(t, conn.Declare(t.Context(), topo))
		drop(t, b, topo)
		py := startPeer(t, b, nil)
		options := cmd{"max_priority": 9}
		py.do("declare", cmd{"queue": queue, "queue_options": options})
		steps := func(ps []int) []int { // as the broker tells them apart
			out := slices.Clone(ps)
			if b.name == "redis" {
				for i := range out {
					out[i] = out[i] / 3 * 3
				}
			}
			return out
		}
		want := []int{9, 8, 7, 6, 5, 4, 3, 2, 1, 0}
		if b.name == "redis" {
			slices.Reverse(want)
			want = steps(want)
		}
		order := []int{4, 9, 0, 6, 2, 8, 1, 5, 3, 7}
		for _, p := range order {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: queue, Value: p, Properties: gombu.Properties{Priority: uint8(p)}}))
		}
		var seen []int
		for _, v := range py.do("consume", cmd{"queue": queue, "n": 10, "queue_options": options}) {
			seen = append(seen, int(v.Body.(float64)))
		}
		if !slices.Equal(steps(seen), want) {
			t.Errorf("python got %v, want %v", seen, want)
		}
		for _, p := range order {
			py.do("publish", cmd{"key": queue, "bodies": []any{p}, "options": cmd{"priority": p}})
		}
		seen = nil
		for _, d := range take(t, conn, queue, 10, nil) {
			v, err := gombu.Decode[int](d)
			must(t, err)
			seen = append(seen, v)
		}
		if !slices.Equal(steps(seen), want) {
			t.Errorf("go got %v, want %v", seen, want)
		}
	})
}

func TestFanout(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		conn := open(t, b, "")
		exchange := name(t, "fan")
		pyQueue, goQueue := name(t, "py"), name(t, "go")
		topo := gombu.Topology{
			Exchanges: []gombu.Exchange{{Name: exchange, Type: gombu.Fanout}},
			Queues:    []gombu.Queue{{Name: goQueue}},
			Bindings:  []gombu.Binding{{Exchange: exchange, Queue: goQueue}},
		}
		must(t, conn.Declare(t.Context(), topo))
		drop(t, b, gombu.Topology{Exchanges: topo.Exchanges, Queues: []gombu.Queue{{Name: goQueue}, {Name: pyQueue}}})
		py := startPeer(t, b, nil)
		py.do("declare", cmd{"exchange": exchange, "type": "fanout", "queue": pyQueue})
		py.do("subscribe", cmd{"queue": pyQueue})

		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		got := make(chan string, 4)
		over := make(chan error, 1)
		k := conn.Consumer(gombu.ConsumerConfig{Queues: []string{goQueue}})
		go func() {
			over <- k.Run(ctx, gombu.Typed(func(_ context.Context, v string, _ *gombu.Delivery) error { got <- v; return nil }))
		}()
		must(t, k.Ready(ctx))
		must(t, conn.Producer(nil).Publish(ctx, &gombu.Message{Exchange: exchange, Value: "from go"}))
		py.do("publish", cmd{"exchange": exchange, "type": "fanout", "bodies": []any{"from python"}})
		var here []string
		for range 2 {
			select {
			case v := <-got:
				here = append(here, v)
			case <-ctx.Done():
				t.Fatalf("go got only %v", here)
			}
		}
		var there []string
		for _, v := range py.do("take", cmd{"n": 2}) {
			there = append(there, fmt.Sprint(v.Body))
		}
		for _, seen := range [][]string{here, there} {
			slices.Sort(seen)
			if !slices.Equal(seen, []string{"from go", "from python"}) {
				t.Errorf("go got %v, python got %v", here, there)
			}
		}
		cancel()
		must(t, <-over)
	})
}

func TestSettling(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		conn := open(t, b, "")
		exchange, queue := setup(t, b, conn, gombu.Direct, "k")
		py := startPeer(t, b, nil)
		py.do("declare", cmd{"exchange": exchange, "queue": queue, "key": "k"})
		send := func(v string) {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Exchange: exchange, Key: "k", Value: v}))
		}
		empty := func(who string) {
			t.Helper()
			info, err := conn.Inspect(t.Context(), queue)
			must(t, err)
			if info.Ready != 0 {
				t.Errorf("after %s: %d messages are left", who, info.Ready)
			}
		}
		// Python settles what Go published.
		send("py-requeue")
		py.do("consume", cmd{"queue": queue, "settle": "requeue"})
		if got := py.do("consume", cmd{"queue": queue}); len(got) != 1 || got[0].Body != "py-requeue" || !got[0].Redelivered {
			t.Errorf("after python's requeue: %+v", got)
		}
		send("py-reject")
		py.do("consume", cmd{"queue": queue, "settle": "reject"})
		empty("python's reject")
		// Go settles, Python sees.
		send("go-requeue")
		take(t, conn, queue, 1, func(ctx context.Context, d *gombu.Delivery) error { return d.Requeue(ctx) })
		if got := py.do("consume", cmd{"queue": queue}); len(got) != 1 || got[0].Body != "go-requeue" {
			t.Errorf("after go's requeue: %+v", got)
		}
		send("go-reject")
		take(t, conn, queue, 1, func(ctx context.Context, d *gombu.Delivery) error { return d.Reject(ctx) })
		send("go-ack")
		take(t, conn, queue, 1, nil)
		empty("go's reject and ack")
		// Go requeues to the head, in order.
		for i := range 3 {
			send(fmt.Sprint(i))
		}
		take(t, conn, queue, 1, func(ctx context.Context, d *gombu.Delivery) error { return d.Requeue(ctx) })
		var order []string
		for _, v := range py.do("consume", cmd{"queue": queue, "n": 3}) {
			order = append(order, fmt.Sprint(v.Body))
		}
		if !slices.Equal(order, []string{"0", "1", "2"}) {
			t.Errorf("order after go's requeue: %v", order)
		}
	})
}

// A message that a killed Python consumer left unacked is handled by Go.
func TestKilledPythonConsumer(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		query := ""
		if b.name == "redis" {
			query = "?visibility_timeout=2"
		}
		conn := open(t, b, query)
		exchange, queue := setup(t, b, conn, gombu.Direct, "k")
		py := startPeer(t, b, map[string]any{"visibility_timeout": 2})
		py.do("declare", cmd{"exchange": exchange, "queue": queue, "key": "k"})
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Exchange: exchange, Key: "k", Value: "orphan"}))
		if got := py.do("consume", cmd{"queue": queue, "settle": "hold"}); len(got) != 1 {
			t.Fatalf("python got %v", got)
		}
		py.kill()
		d := take(t, conn, queue, 1, nil)[0]
		if v, err := gombu.Decode[string](d); err != nil || v != "orphan" || !d.Redelivered {
			t.Errorf("go got %q, redelivered %v, %v", v, d.Redelivered, err)
		}
	})
}

// A message that a killed Go consumer left unacked is handled by Python, from
// one heartbeat after the claim.
func TestKilledGoConsumer(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		conn := open(t, b, "")
		exchange, queue := setup(t, b, conn, gombu.Direct, "k")
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Exchange: exchange, Key: "k", Value: "orphan"}))
		must(t, conn.Shutdown(t.Context())) // no Go process is left to take it back
		killedGoConsumer(t, b, queue, 2500*time.Millisecond)
		py := startPeer(t, b, map[string]any{"visibility_timeout": 3})
		py.do("declare", cmd{"exchange": exchange, "queue": queue, "key": "k"})
		got := py.do("consume", cmd{"queue": queue, "timeout": 20})
		if len(got) != 1 || got[0].Body != "orphan" || !got[0].Redelivered {
			t.Fatalf("python got %+v", got)
		}
	})
}

// One publish to two queues of a topic exchange; the first copy is acked, the
// second one's consumer is killed: it comes back once, in its own queue only,
// whoever sweeps.
func TestOnePublishTwoQueuesOneKilled(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		for _, sweeper := range []string{"python", "go"} {
			t.Run(sweeper, func(t *testing.T) {
				conn := open(t, b, "")
				exchange, first := setup(t, b, conn, gombu.Topic, "x.#")
				second := name(t, "q2")
				topo := gombu.Topology{Queues: []gombu.Queue{{Name: second}}, Bindings: []gombu.Binding{{Exchange: exchange, Queue: second, Key: "x.*"}}}
				must(t, conn.Declare(t.Context(), topo))
				drop(t, b, topo)
				must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Exchange: exchange, Key: "x.y", Value: "twice"}))
				take(t, conn, first, 1, nil)
				must(t, conn.Close())
				killedGoConsumer(t, b, second, 2500*time.Millisecond)
				count := 0
				if sweeper == "python" {
					py := startPeer(t, b, map[string]any{"visibility_timeout": 3})
					py.do("declare", cmd{"exchange": exchange, "type": "topic", "queue": first, "key": "x.#"})
					py.do("declare", cmd{"exchange": exchange, "type": "topic", "queue": second, "key": "x.*"})
					count = len(py.do("consume", cmd{"queue": second, "timeout": 20}))
					count += len(py.do("consume", cmd{"queue": second, "timeout": 2}))
					py.do("close", nil)
				} else {
					query := ""
					if b.name == "redis" {
						query = "?visibility_timeout=3"
					}
					count = len(take(t, open(t, b, query), second, 1, nil))
				}
				last := open(t, b, "")
				for _, q := range []string{first, second} {
					info, err := last.Inspect(t.Context(), q)
					must(t, err)
					if info.Ready != 0 {
						t.Errorf("%d more in %s", info.Ready, q)
					}
				}
				if count != 1 {
					t.Errorf("it came back %d times", count)
				}
			})
		}
	})
}

// Python binds, Go publishes at once: a thousand rounds, none missed.
func TestPythonBindsGoPublishesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, b broker) {
		rounds := 1000
		conn := open(t, b, "")
		exchange := name(t, "e")
		topo := gombu.Topology{Exchanges: []gombu.Exchange{{Name: exchange, Type: gombu.Topic}}}
		must(t, conn.Declare(t.Context(), topo))
		drop(t, b, topo)
		py := startPeer(t, b, nil)
		p := conn.Producer(&gombu.ProducerConfig{Exchange: exchange})
		missed := 0
		var queues gombu.Topology
		for i := range rounds {
			q := gombu.Queue{Name: fmt.Sprintf("%s.%d", exchange, i)}
			queues.Queues = append(queues.Queues, q)
			key := fmt.Sprintf("k.%d", i)
			py.do("bind", cmd{"exchange": exchange, "type": "topic", "queue": q.Name, "key": key})
			if err := p.Publish(t.Context(), &gombu.Message{Key: key, Value: i}); err != nil {
				missed++
			}
		}
		must(t, conn.Delete(t.Context(), queues, nil))
		if missed > 0 {
			t.Errorf("%d of %d publishes missed a queue that was bound before", missed, rounds)
		}
	})
}

package gombu_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/transport/memory"
)

// inMemory opens a private broker in memory.
func inMemory(t *testing.T) *gombu.Conn {
	t.Helper()
	conn := gombu.New(memory.New(memory.Config{}), nil)
	t.Cleanup(func() { must(t, conn.Close()) })
	return conn
}

// ready is how many messages wait in a queue.
func ready(t *testing.T, conn *gombu.Conn, queue string) int {
	t.Helper()
	info, err := conn.Inspect(t.Context(), queue)
	must(t, err)
	return info.Ready
}

func TestBehaviour169_PrefetchHoldsUntilAnAck(t *testing.T) {
	conn := inMemory(t)
	must(t, declare(t.Context(), conn, "q"))
	for range 11 {
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"}))
	}
	ctx, stop := context.WithCancel(t.Context())
	got := make(chan *gombu.Delivery, 11)
	over := make(chan error, 1)
	go func() {
		over <- conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 10}, func(_ context.Context, d *gombu.Delivery) error {
			defer func() { got <- d }()
			return d.Detach()
		})
	}()
	var held []*gombu.Delivery
	for range 10 {
		held = append(held, <-got)
	}
	if n := ready(t, conn, "q"); n != 1 {
		t.Fatalf("%d wait, want 1: ten are unsettled", n)
	}
	must(t, held[0].Ack(t.Context()))
	held = append(held[1:], <-got)
	for _, d := range held {
		must(t, d.Ack(t.Context()))
	}
	stop()
	must(t, <-over)
}

func TestBehaviour170_UnsettledGoBackAtClose(t *testing.T) {
	broker := memory.New(memory.Config{})
	first := gombu.New(broker, nil)
	must(t, declare(t.Context(), first, "q"))
	for i := range 4 {
		must(t, first.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: i}))
	}
	began := make(chan struct{})
	over := make(chan error, 1)
	go func() {
		over <- first.Run(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 3}, func(ctx context.Context, d *gombu.Delivery) error {
			if v, _ := gombu.Decode[int](d); v == 0 {
				return d.Ack(ctx) // acked meanwhile: it must not come back
			}
			close(began)
			<-ctx.Done()
			return ctx.Err()
		})
	}()
	<-began
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_ = first.Shutdown(ctx) // no grace: what is held goes back with the session
	must(t, <-over)
	second := gombu.New(broker, nil)
	defer second.Close()
	var order []int
	consumeAll(t, second, gombu.ConsumerConfig{Queues: []string{"q"}}, 3, func(_ context.Context, d *gombu.Delivery) error {
		v, err := gombu.Decode[int](d)
		order = append(order, v)
		return err
	})
	if !slices.Equal(order, []int{1, 2, 3}) || ready(t, second, "q") != 0 {
		t.Fatalf("came back as %v, %d left", order, ready(t, second, "q"))
	}
}

func TestBehaviour171_Redeclare(t *testing.T) {
	conn := inMemory(t)
	ctx := t.Context()
	same := gombu.Exchange{Name: "e", Type: gombu.Topic, AutoDelete: true}
	must(t, conn.Declare(ctx, gombu.Topology{Exchanges: []gombu.Exchange{same}}))
	must(t, conn.Declare(ctx, gombu.Topology{Exchanges: []gombu.Exchange{same}}))
	for _, other := range []gombu.Exchange{{Name: "e"}, {Name: "e", Type: gombu.Topic}, {Name: "e", Type: gombu.Topic, AutoDelete: true, Internal: true}} {
		if err := conn.Declare(ctx, gombu.Topology{Exchanges: []gombu.Exchange{other}}); !errors.Is(err, gombu.ErrConflict) {
			t.Errorf("%+v: %v", other, err)
		}
	}
	for _, missing := range []gombu.Topology{{Exchanges: []gombu.Exchange{{Name: "no", Passive: true}}}, {Queues: []gombu.Queue{{Name: "no", Passive: true}}}} {
		if err := conn.Declare(ctx, missing); !errors.Is(err, gombu.ErrNotFound) {
			t.Errorf("passive, missing: %v", err)
		}
	}
}

// routed publishes to exchange e with each key and returns which queues got it.
func routed(t *testing.T, conn *gombu.Conn, queues []string, keys ...string) string {
	t.Helper()
	out := ""
	for _, key := range keys {
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Exchange: "e", Key: key, Mandatory: gombu.MandatoryOff}))
		var got []string
		for _, q := range queues {
			n, err := conn.Purge(t.Context(), q)
			must(t, err)
			for range n {
				got = append(got, q)
			}
		}
		out += fmt.Sprintf("%s%v ", key, got)
	}
	return out
}

func TestBehaviour173_174_175_181_200_Routing(t *testing.T) {
	for _, c := range []struct {
		typ      string
		bindings [][2]string // queue, key
		keys     []string
		want     string
	}{
		{gombu.Direct, [][2]string{{"a", "d1"}, {"b", "d2"}, {"c", "d1"}}, []string{"d1", "d2", "d3"}, "d1[a c] d2[b] d3[] "},
		{gombu.Topic, [][2]string{{"a", "stock.#"}, {"b", "stock.us.*"}}, []string{"stock.us.nasdaq", "stock.europe.OSE", "stockxeuropexOSE", "stock"},
			"stock.us.nasdaq[a b] stock.europe.OSE[a] stockxeuropexOSE[] stock[a] "},
		{gombu.Topic, [][2]string{{"a", "x.#"}, {"a", "#.y"}, {"a", "x.y"}}, []string{"x.y"}, "x.y[a] "}, // one copy a queue
		{gombu.Topic, [][2]string{{"a", "t.*"}}, []string{"t", "t.1", "t.1.2"}, "t[] t.1[a] t.1.2[] "},
		{gombu.Fanout, [][2]string{{"a", ""}, {"b", "ignored"}}, []string{"x", ""}, "x[a b] [a b] "},
	} {
		conn := inMemory(t)
		topo := gombu.Topology{Exchanges: []gombu.Exchange{{Name: "e", Type: c.typ}}, Queues: []gombu.Queue{{Name: "a"}, {Name: "b"}, {Name: "c"}}}
		for _, b := range c.bindings {
			topo.Bindings = append(topo.Bindings, gombu.Binding{Exchange: "e", Queue: b[0], Key: b[1]})
		}
		must(t, conn.Declare(t.Context(), topo))
		if got := routed(t, conn, []string{"a", "b", "c"}, c.keys...); got != c.want {
			t.Errorf("%s: %s, want %s", c.typ, got, c.want)
		}
	}
}

// What Kombu's deadletter_queue option is for, an alternate exchange does.
func TestBehaviour176_AlternateExchange(t *testing.T) {
	conn := inMemory(t)
	must(t, conn.Declare(t.Context(), gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: "lost", Type: gombu.Fanout}, {Name: "e", Alternate: "lost"}},
		Queues:    []gombu.Queue{{Name: "undeliverable"}},
		Bindings:  []gombu.Binding{{Exchange: "lost", Queue: "undeliverable"}},
	}))
	must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Exchange: "e", Key: "nobody"}))
	if n := ready(t, conn, "undeliverable"); n != 1 {
		t.Fatalf("%d messages", n)
	}
}

func TestBehaviour178_DeleteIfEmpty(t *testing.T) {
	conn := inMemory(t)
	ctx := t.Context()
	must(t, declare(ctx, conn, "q"))
	must(t, conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "q"}))
	topo := gombu.Topology{Queues: []gombu.Queue{{Name: "q"}}}
	if err := conn.Delete(ctx, topo, &gombu.DeleteConfig{IfEmpty: true}); !errors.Is(err, gombu.ErrConflict) || ready(t, conn, "q") != 1 {
		t.Fatalf("a full queue: %v", err)
	}
	_, err := conn.Purge(ctx, "q")
	must(t, err)
	must(t, conn.Delete(ctx, topo, &gombu.DeleteConfig{IfEmpty: true}))
	if _, err := conn.Inspect(ctx, "q"); !errors.Is(err, gombu.ErrNotFound) {
		t.Fatalf("an empty queue is still there: %v", err)
	}
}

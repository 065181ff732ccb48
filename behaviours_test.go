package gombu_test

import (
	"bytes"
	"compress/zlib"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/transport/memory"
)

// last is the newest message in a queue of f.
func last(t *testing.T, f *fake, queue string) driver.Incoming {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	q := f.queues[queue]
	if len(q) == 0 {
		t.Fatalf("queue %s is empty", queue)
	}
	return q[len(q)-1]
}

// ---- entities

func TestBehaviour73_77_78_81_WhatIsDeclared(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, conn.Declare(t.Context(), gombu.Topology{
			Bindings:  []gombu.Binding{{Exchange: "a", Queue: "q", Key: "1"}, {Exchange: "b", Queue: "q", Key: "2"}, {Queue: "q"}},
			Queues:    []gombu.Queue{{Name: "q"}, {Name: "there", NoDeclare: true}},
			Exchanges: []gombu.Exchange{{Name: "a"}, {Name: "b"}, {Name: "amq.rabbitmq.trace"}, {Name: "there", NoDeclare: true}},
		}))
		// Exchanges, queue, bindings, in that order; none to the default exchange.
		if got := fmt.Sprint(f.declared); got != "[exchange a exchange b queue q binding a>q binding b>q]" {
			t.Fatal(got)
		}
	})
}

func TestBehaviour74_DeliveryMode(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "k"))
		must(t, conn.Declare(t.Context(), gombu.Topology{Exchanges: []gombu.Exchange{{Name: "brief", DeliveryMode: gombu.Transient}, {Name: "plain"}}}))
		for _, c := range []struct {
			exchange   string
			mode, want driver.DeliveryMode
		}{
			{"brief", 0, gombu.Transient},
			{"brief", gombu.Persistent, gombu.Persistent},
			{"plain", 0, gombu.Persistent},
			{"plain", gombu.Transient, gombu.Transient},
			{"unknown", 0, gombu.Persistent},
		} {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Exchange: c.exchange, Key: "k", Properties: gombu.Properties{DeliveryMode: c.mode}}))
			if got := last(t, f, "k").Props.DeliveryMode; got != c.want {
				t.Errorf("%+v: got %d", c, got)
			}
		}
	})
}

func TestBehaviour75_ExchangeToExchange(t *testing.T) {
	ctx := t.Context()
	conn := gombu.New(memory.New(memory.Config{}), nil)
	defer conn.Close()
	topo := gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: "in", Type: gombu.Topic}, {Name: "out"}},
		Queues:    []gombu.Queue{{Name: "q"}},
		Bindings:  []gombu.Binding{{Exchange: "in", ToExchange: "out", Key: "a.#"}, {Exchange: "out", Queue: "q", Key: "a.b"}},
	}
	must(t, conn.Declare(ctx, topo))
	send := func() error { return conn.Producer(nil).Publish(ctx, &gombu.Message{Exchange: "in", Key: "a.b"}) }
	must(t, send())
	must(t, conn.Delete(ctx, gombu.Topology{Bindings: topo.Bindings[:1]}, nil))
	if err := send(); !errors.Is(err, gombu.ErrUnroutable) {
		t.Fatalf("after the unbind: %v", err)
	}
}

func TestBehaviour76_88_110_138_DeclaredOncePerSession(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		p := conn.Producer(&gombu.ProducerConfig{Declare: &gombu.Topology{Exchanges: []gombu.Exchange{{Name: "e"}}, Queues: []gombu.Queue{{Name: "q"}}}})
		synctest.Wait()
		if f.dials != 0 {
			t.Fatal("declared before the first publish")
		}
		count := func() string {
			f.mu.Lock()
			defer f.mu.Unlock()
			s := fmt.Sprint(len(f.declared))
			f.declared = nil
			return s
		}
		for range 3 {
			must(t, p.Publish(t.Context(), &gombu.Message{Queue: "q"}))
		}
		if got := count(); got != "2" {
			t.Errorf("declared %s entities in three publishes", got)
		}
		for range 3 { // what the broker may delete by itself is declared each time
			for _, topo := range []gombu.Topology{
				{Exchanges: []gombu.Exchange{{Name: "x", AutoDelete: true}}},
				{Queues: []gombu.Queue{{Name: "y", Expires: time.Minute}}},
				{Queues: []gombu.Queue{{Name: "z", Args: gombu.Headers{{Key: "x-expires", Value: 1000}}}}},
			} {
				must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Declare: &topo}))
			}
		}
		if got := count(); got != "9" {
			t.Errorf("declared %s entities, want 9", got)
		}
	})
}

func TestBehaviour80_ExclusiveImpliesAutoDelete(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		auto := false
		f.apply = func(st *driver.Step) error { auto = st.Queue != nil && st.Queue.AutoDelete; return nil }
		conn := open(t, f, nil)
		must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: "q", Exclusive: true}}}))
		if !auto {
			t.Fatal("an exclusive queue without auto-delete")
		}
	})
}

func TestBehaviour82_QueueArguments(t *testing.T) {
	q := gombu.Queue{Name: "q", Expires: 30300 * time.Millisecond, MessageTTL: 20 * time.Second, MaxLength: 7, MaxLengthBytes: 1 << 20, MaxPriority: 9,
		Args: gombu.Headers{{Key: "x-queue-type", Value: "classic"}, {Key: "x-expires", Value: 1}}}
	got := fmt.Sprint(q.Arguments())
	if want := "[{x-queue-type classic} {x-expires 30300} {x-message-ttl 20000} {x-max-length 7} {x-max-length-bytes 1048576} {x-max-priority 9}]"; got != want {
		t.Fatalf("\n%s, want\n%s", got, want)
	}
	if q.Args.Get("x-expires") != 1 {
		t.Error("Arguments wrote to Args")
	}
	if args := (&gombu.Queue{Name: "q"}).Arguments(); len(args) != 0 {
		t.Errorf("unset limits became %v", args)
	}
}

func TestBehaviour85_TopologyIsPlainData(t *testing.T) {
	in := gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: "e", Type: gombu.Topic, Transient: true, Args: gombu.Headers{{Key: "z", Value: int64(1)}, {Key: "a", Value: "x"}}}},
		Queues:    []gombu.Queue{{Name: "q", MessageTTL: time.Second, Args: gombu.Headers{{Key: "t", Value: gombu.Headers{{Key: "k", Value: []any{true, nil, 1.5}}}}}}},
		Bindings:  []gombu.Binding{{Exchange: "e", Queue: "q", Key: "#"}},
	}
	text, err := json.Marshal(in)
	must(t, err)
	var out gombu.Topology
	must(t, json.Unmarshal(text, &out))
	if a, b := fmt.Sprintf("%+v", in), fmt.Sprintf("%+v", out); a != b {
		t.Fatalf("\n%s\n%s", a, b)
	}
	if !strings.Contains(string(text), `"args":{"z":1,"a":"x"}`) {
		t.Errorf("arguments are not an object in their order: %s", text)
	}
	if err := json.Unmarshal([]byte(`{"exchanges":[{"args":[1]}]}`), &out); !errors.Is(err, gombu.ErrInvalid) {
		t.Errorf("arguments that are no object: %v", err)
	}
}

func TestBadTopology(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		long := strings.Repeat("x", 256)
		for says, topo := range map[string]gombu.Topology{
			"PerSession":      {Queues: []gombu.Queue{{}}}, // behaviour 79: no server-named queues
			`"topic"`:         {Exchanges: []gombu.Exchange{{Name: "e", Type: "tpoic"}}},
			"255":             {Queues: []gombu.Queue{{Name: long}}},
			"255 bytes":       {Exchanges: []gombu.Exchange{{Name: long}}},
			"negative":        {Queues: []gombu.Queue{{Name: "q", MaxLength: -1}}},
			"exactly one":     {Bindings: []gombu.Binding{{Exchange: "e"}}},
			"default":         {Bindings: []gombu.Binding{{Queue: "q", Key: "other"}}},
			"arguments: json": {Bindings: []gombu.Binding{{Exchange: "e", Queue: "q", Args: gombu.Headers{{Key: "k", Value: make(chan int)}}}}},
		} {
			if err := conn.Declare(t.Context(), topo); !errors.Is(err, gombu.ErrInvalid) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", says, err)
			}
		}
		if f.dials != 0 {
			t.Error("bad input reached the broker")
		}
	})
}

func TestStrictRefusesWhatIsNotKept(t *testing.T) {
	for _, strict := range []bool{false, true} {
		var log bytes.Buffer
		conn := gombu.New(memory.New(memory.Config{}), &gombu.Config{Strict: strict, Log: textLog(&log)})
		topo := gombu.Topology{Queues: []gombu.Queue{{Name: "q", Args: gombu.Headers{{Key: "x-queue-type", Value: "quorum"}}}}}
		err := conn.Declare(t.Context(), topo)
		if strict != errors.Is(err, gombu.ErrUnsupported) {
			t.Errorf("strict %v: %v", strict, err)
		}
		done, cancel := context.WithCancel(t.Context())
		cancel()
		err = conn.Run(done, gombu.ConsumerConfig{Priority: 5}, func(context.Context, *gombu.Delivery) error { return nil })
		if strict != errors.Is(err, gombu.ErrUnsupported) {
			t.Errorf("consumer priority, strict %v: %v", strict, err)
		}
		if !strict {
			must(t, conn.Declare(t.Context(), topo))
			if n := strings.Count(log.String(), "x-queue-type"); n != 1 {
				t.Errorf("warned %d times, want once:\n%s", n, &log)
			}
		}
		must(t, conn.Close())
	}
}

// ---- producer

func TestBehaviour89_90_91_92_93_94_WhatIsSent(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		for _, c := range []struct {
			m              gombu.Message
			body, typ, enc string
		}{
			{gombu.Message{Value: map[string]int{"a": 1}}, `{"a": 1}`, "application/json", "utf-8"},
			{gombu.Message{Value: "hé"}, "hé", "text/plain", "utf-8"},
			{gombu.Message{Value: []byte{1}}, "\x01", "application/data", "binary"},
			{gombu.Message{Value: "x", Serializer: "json"}, `"x"`, "application/json", "utf-8"},
			{gombu.Message{Body: []byte("x")}, "x", "application/data", "binary"},
			{gombu.Message{}, "", "application/data", "binary"},
			{gombu.Message{Serializer: "json"}, "null", "application/json", "utf-8"},
			{gombu.Message{Value: []byte{2}, Properties: gombu.Properties{ContentType: "x/y"}}, "\x02", "x/y", "binary"},
			{gombu.Message{Value: []byte{2}, Properties: gombu.Properties{ContentType: "x/y", ContentEncoding: "own"}}, "\x02", "x/y", "own"},
			{gombu.Message{Value: "é", Properties: gombu.Properties{ContentType: "x/y"}}, "é", "x/y", "utf-8"},
			{gombu.Message{Body: []byte("{}"), Properties: gombu.Properties{ContentType: "application/json", ContentEncoding: "utf-8"}}, "{}", "application/json", "utf-8"},
		} {
			c.m.Queue = "q"
			must(t, conn.Producer(nil).Publish(t.Context(), &c.m))
			got := last(t, f, "q")
			if string(got.Body) != c.body || got.Props.ContentType != c.typ || got.Props.ContentEncoding != c.enc || got.Props.Priority != 0 || got.Props.DeliveryMode != gombu.Persistent {
				t.Errorf("%+v: sent %q %+v", c.m, got.Body, got.Props)
			}
		}
		must(t, conn.Producer(&gombu.ProducerConfig{Compression: "zlib"}).Publish(t.Context(), &gombu.Message{Queue: "q", Value: 1, Properties: gombu.Properties{Expiration: 1500 * time.Millisecond}}))
		got := last(t, f, "q")
		r, err := zlib.NewReader(bytes.NewReader(got.Body))
		must(t, err)
		plain, err := io.ReadAll(r)
		must(t, err)
		if string(plain) != "1" || got.Props.Headers.Get("compression") != "application/x-gzip" || got.Props.Expiration != 1500*time.Millisecond {
			t.Errorf("compressed: %q %+v", plain, got.Props)
		}
	})
}

func TestBehaviour100_BadMessagesFailBeforeIO(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, &gombu.Config{MaxBody: 10})
		for says, m := range map[string]gombu.Message{
			`did you mean "json"`: {Value: 1, Serializer: "jsno"},
			`did you mean "gzip"`: {Value: 1, Compression: "gzpi"},
			"cannot be sent":      {Value: make(chan int)},
			"MaxBody":             {Value: strings.Repeat("x", 11)},
			"255 bytes":           {Key: strings.Repeat("k", 256)},
			"given by hand":       {Value: 1, Properties: gombu.Properties{ContentType: "x/y"}},
		} {
			err := conn.Producer(nil).Publish(t.Context(), &m)
			if !errors.Is(err, gombu.ErrInvalid) && !errors.Is(err, gombu.ErrTooLarge) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", says, err)
			}
		}
		if f.dials != 0 {
			t.Error("bad input reached the broker")
		}
	})
}

func TestMandatory(t *testing.T) {
	ctx := t.Context()
	conn := gombu.New(memory.New(memory.Config{}), nil)
	defer conn.Close()
	must(t, conn.Declare(ctx, gombu.Topology{Exchanges: []gombu.Exchange{{Name: "d"}, {Name: "t", Type: gombu.Topic}, {Name: "h", Type: gombu.MatchHeaders}, {Name: "f", Type: gombu.Fanout}}}))
	for _, e := range []string{"d", "t", "h", "", "never declared"} {
		if err := conn.Producer(nil).Publish(ctx, &gombu.Message{Exchange: e, Key: "nobody"}); !errors.Is(err, gombu.ErrUnroutable) {
			t.Errorf("exchange %q: %v", e, err)
		}
		must(t, conn.Producer(nil).Publish(ctx, &gombu.Message{Exchange: e, Key: "nobody", Mandatory: gombu.MandatoryOff}))
		must(t, conn.Producer(&gombu.ProducerConfig{Mandatory: gombu.MandatoryOff}).Publish(ctx, &gombu.Message{Exchange: e, Key: "nobody"}))
	}
	must(t, conn.Producer(nil).Publish(ctx, &gombu.Message{Exchange: "f"})) // nobody listening is normal
	if err := conn.Producer(nil).Publish(ctx, &gombu.Message{Exchange: "f", Mandatory: gombu.MandatoryOn}); !errors.Is(err, gombu.ErrUnroutable) {
		t.Errorf("fanout, mandatory on: %v", err)
	}
}

func TestBehaviour97_101_PublishRetries(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		var told []error
		p := conn.Producer(&gombu.ProducerConfig{Resend: true, Retry: &gombu.RetryPolicy{MaxRetries: 2, OnError: func(err error, _ time.Duration) { told = append(told, err) }}})
		f.set(func() { f.swallow = true })
		stop := make(chan struct{})
		go func() {
			for range 5 {
				select {
				case <-stop:
					return
				case <-time.After(time.Second):
					f.cut()
				}
			}
		}()
		err := p.Publish(t.Context(), &gombu.Message{Queue: "q"})
		close(stop)
		if !errors.Is(err, gombu.ErrUncertain) || len(told) != 3 {
			t.Fatalf("after %d failures: %v", len(told), err)
		}
		// A budget in time.
		p = conn.Producer(&gombu.ProducerConfig{Retry: &gombu.RetryPolicy{Timeout: 2 * time.Second}})
		within(t, 2*time.Second, func() {
			if err := p.Publish(t.Context(), &gombu.Message{Queue: "q"}); !errors.Is(err, gombu.ErrUncertain) || !errors.Is(err, context.DeadlineExceeded) {
				t.Fatal(err)
			}
		})
		// A queue that is gone is an answer, not a wait.
		f.set(func() { f.swallow = false; delete(f.queues, "q") })
		f.cut()
		if err := conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "gone"}); !errors.Is(err, gombu.ErrUnroutable) {
			t.Fatal(err)
		}
	})
}

// After a message whose fate is unknown, nothing behind it is repeated
// silently: the caller's repeat would come after it.
func TestNothingOvertakesAnUncertainMessage(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		p := conn.Producer(nil)
		f.set(func() { f.swallow = true })
		var pend []*gombu.Pending
		for i := range 10 {
			f.set(func() { f.unsent = i >= 5 })
			w, err := p.PublishAsync(t.Context(), &gombu.Message{Queue: "q", Value: i})
			must(t, err)
			pend = append(pend, w)
			synctest.Wait()
		}
		f.set(func() { f.swallow, f.unsent = false, false })
		f.cut()
		for i, w := range pend {
			if err := w.Wait(t.Context()); i < 5 && !errors.Is(err, gombu.ErrUncertain) || i >= 5 && !errors.Is(err, gombu.ErrNotSent) {
				t.Errorf("message %d: %v", i, err)
			}
		}
		if n := f.count("q"); n != 0 {
			t.Errorf("%d of them were sent again", n)
		}
	})
}

func TestPublishBatchSaysEachOutcome(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.refuse = func(o *driver.Outgoing) error {
			if string(o.Body) == "no" {
				return &driver.Error{Op: "publish", Kind: driver.ErrRefused}
			}
			return nil
		}
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		errs := make([]error, 4)
		err := conn.Producer(nil).PublishBatch(t.Context(), []*gombu.Message{{Queue: "q", Value: "a"}, {Queue: "q", Value: "no"}, {Queue: "missing", Value: "b"}, {Queue: "q", Value: "c"}}, errs)
		if errs[0] != nil || !errors.Is(errs[1], gombu.ErrRefused) || !errors.Is(errs[2], gombu.ErrUnroutable) || errs[3] != nil || !errors.Is(err, gombu.ErrRefused) {
			t.Fatalf("%v; %v", errs, err)
		}
	})
}

// The caller may write to its body as soon as Publish returns, whatever it returns.
func TestBodyIsTheCallersAgain(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		body := []byte("first")
		w, err := conn.Producer(nil).PublishAsync(t.Context(), &gombu.Message{Queue: "q", Body: body})
		must(t, err)
		copy(body, "XXXXX")
		must(t, w.Wait(t.Context()))
		if got := string(last(t, f, "q").Body); got != "first" {
			t.Fatalf("sent %q", got)
		}
	})
}

// ---- consumer

func TestBehaviour103_111_BadConsumers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		none := func(context.Context, *gombu.Delivery) error { return nil }
		for says, run := range map[string]func() error{
			"Handler": func() error { return conn.Run(t.Context(), gombu.ConsumerConfig{Queues: []string{"q"}}, nil) },
			`"json"`:  func() error { return conn.Run(t.Context(), gombu.ConsumerConfig{Accept: []string{"jsn"}}, none) },
			"65535":   func() error { return conn.Run(t.Context(), gombu.ConsumerConfig{Prefetch: 65536}, none) },
		} {
			if err := run(); !errors.Is(err, gombu.ErrInvalid) || !strings.Contains(err.Error(), says) {
				t.Errorf("%s: %v", says, err)
			}
		}
		if err := conn.Run(t.Context(), gombu.ConsumerConfig{Queues: []string{"missing"}}, none); !errors.Is(err, gombu.ErrNotFound) {
			t.Errorf("missing queue: %v", err)
		}
	})
}

func TestBehaviour104_84_NotAcceptedIsNotHandled(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		send := func() {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: "text"}))
		}
		send()
		var hook, handled int
		cfg := gombu.ConsumerConfig{Queues: []string{"q"}, Accept: []string{"json"}}
		ctx, stop := context.WithCancel(t.Context())
		cfg.OnUndecodable = func(_ context.Context, d *gombu.Delivery, err error) error {
			hook++
			defer stop()
			var v any
			if derr := d.Decode(&v); !errors.Is(derr, gombu.ErrUndecodable) {
				t.Errorf("Decode of what is not accepted: %v", derr)
			}
			return nil
		}
		must(t, conn.Run(ctx, cfg, func(context.Context, *gombu.Delivery) error { handled++; return nil }))
		if hook != 1 || handled != 0 || f.acked != 1 {
			t.Errorf("hook %d, handled %d, acked %d", hook, handled, f.acked)
		}
		send()
		cfg.Accept = []string{"text/plain"}
		consumeAll(t, conn, cfg, 1, func(context.Context, *gombu.Delivery) error { handled++; return nil })
		if handled != 1 {
			t.Error("what is accepted was not handled")
		}
	})
}

func TestBehaviour105_106_SeveralQueues(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		queues := []string{"a", "b", "c", "d"}
		must(t, declare(t.Context(), conn, queues...))
		for _, q := range queues {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: q}))
		}
		got := map[string]int{}
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: append(queues, "a", "b")}, 4, func(_ context.Context, d *gombu.Delivery) error { got[d.Queue]++; return nil })
		if fmt.Sprint(got) != "map[a:1 b:1 c:1 d:1]" {
			t.Fatal(got)
		}
	})
}

func TestBehaviour116_118_PrefetchAndIdle(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		for range 50 {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"}))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		most := 0
		must(t, conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 14}, func(context.Context, *gombu.Delivery) error {
			if f.count("q") > 0 {
				f.mu.Lock()
				out := 50 - f.acked - len(f.queues["q"])
				f.mu.Unlock()
				most = max(most, out)
			}
			return wait(t.Context(), 10*time.Millisecond)
		}))
		if most != 14 || f.acked != 50 {
			t.Fatalf("%d unsettled at most, want 14; acked %d", most, f.acked)
		}
		// An empty queue: the context ends it, the handler is not called.
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		within(t, 1100*time.Millisecond, func() {
			must(t, conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}}, func(context.Context, *gombu.Delivery) error { t.Error("called"); return nil }))
		})
	})
}

// One worker keeps the order; many run at once, bounded.
func TestWorkers(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		for i := range 40 {
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: i}))
		}
		var mu sync.Mutex
		now, most, next := 0, 0, 0
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, 20, gombu.Typed(func(_ context.Context, v int, _ *gombu.Delivery) error {
			if v != next {
				t.Errorf("got %d, want %d", v, next)
			}
			next++
			return nil
		}))
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, Workers: 5}, 20, func(ctx context.Context, _ *gombu.Delivery) error {
			mu.Lock()
			now++
			most = max(most, now)
			mu.Unlock()
			err := wait(t.Context(), time.Second)
			mu.Lock()
			now--
			mu.Unlock()
			return err
		})
		if most != 5 || f.acked < 40 {
			t.Fatalf("%d at once, %d acked", most, f.acked)
		}
	})
}

// ---- delivery

func TestBehaviour123_124_125_Bodies(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: "x", Compression: "gzip"}))
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Body: []byte("corrupt"), Properties: gombu.Properties{
			ContentType: "text/plain", Headers: gombu.Headers{{Key: "compression", Value: "application/x-gzip"}}}}))
		n := 0
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, 2, func(_ context.Context, d *gombu.Delivery) error {
			if n++; n == 1 {
				a, err := d.Bytes()
				must(t, err)
				b, err := d.Bytes()
				must(t, err)
				if &a[0] != &b[0] || string(a) != "x" { // decompressed once
					t.Errorf("%q, %q", a, b)
				}
				var s string
				must(t, d.Decode(&s))
				var v any
				must(t, d.Decode(&v))
				if s != "x" || v != "x" {
					t.Errorf("%q %v", s, v)
				}
				return nil
			}
			for range 2 { // the error is remembered
				if _, err := d.Bytes(); !errors.Is(err, gombu.ErrUndecodable) {
					t.Errorf("corrupt body: %v", err)
				}
			}
			return d.Decode(new(string))
		})
		if f.count("gombu.dead.q") != 1 {
			t.Error("the corrupt message was not parked")
		}
	})
}

func TestBehaviour125_AckRejectRequeue(t *testing.T) {
	ctx := t.Context()
	conn := gombu.New(memory.New(memory.Config{}), nil)
	defer conn.Close()
	must(t, declare(ctx, conn, "q"))
	left := func() int {
		info, err := conn.Inspect(ctx, "q")
		must(t, err)
		return info.Ready
	}
	for verb, want := range map[string]int{"ack": 0, "reject": 0, "requeue": 1, "release": 1} {
		must(t, conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "q", Value: verb}))
		consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}, Prefetch: 1}, 1, func(ctx context.Context, d *gombu.Delivery) error {
			return map[string]func(context.Context) error{"ack": d.Ack, "reject": d.Reject, "requeue": d.Requeue, "release": d.Release}[verb](ctx)
		})
		if left() != want {
			t.Errorf("after %s: %d left, want %d", verb, left(), want)
		}
		_, err := conn.Purge(ctx, "q")
		must(t, err)
	}
}

func TestDetach(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q"}))
		ctx, stop := context.WithCancel(t.Context())
		kept := make(chan *gombu.Delivery, 1)
		over := make(chan error, 1)
		go func() {
			over <- conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}}, func(_ context.Context, d *gombu.Delivery) error {
				kept <- d
				return d.Detach()
			})
		}()
		d := <-kept
		time.Sleep(time.Hour) // it is ours for as long as we keep it
		if f.acked != 0 || f.count("q") != 0 || d.Settled() {
			t.Fatal("settled without being told")
		}
		must(t, d.Ack(t.Context()))
		if err := d.Detach(); !errors.Is(err, gombu.ErrSettled) {
			t.Fatal(err)
		}
		stop()
		must(t, <-over)
		if f.acked != 1 {
			t.Fatal("not acked")
		}
	})
}

// ---- what the Conn knows of exchanges

// A declare that failed teaches nothing, and a delete forgets: otherwise a
// message that no queue takes would vanish with nil.
func TestExchangeTypesAreTheBrokersOnly(t *testing.T) {
	ctx := t.Context()
	conn := inMemory(t)
	exchange := func(typ string) gombu.Topology {
		return gombu.Topology{Exchanges: []gombu.Exchange{{Name: "e", Type: typ}}}
	}
	unroutable := func() bool {
		return errors.Is(conn.Producer(nil).Publish(ctx, &gombu.Message{Exchange: "e", Key: "k"}), gombu.ErrUnroutable)
	}
	must(t, conn.Declare(ctx, exchange(gombu.Topic)))
	if err := conn.Declare(ctx, exchange(gombu.Fanout)); !errors.Is(err, gombu.ErrConflict) {
		t.Fatal(err)
	}
	if !unroutable() {
		t.Error("after a refused declare as fanout the message vanished")
	}
	must(t, conn.Delete(ctx, exchange(""), nil))
	must(t, conn.Declare(ctx, exchange(gombu.Fanout)))
	if unroutable() {
		t.Error("a fanout without listeners is an error")
	}
	must(t, conn.Delete(ctx, exchange(""), nil))
	if !unroutable() {
		t.Error("after the delete the message vanished")
	}
}

func TestDeleteGoesByNameAlone(t *testing.T) {
	ctx := t.Context()
	conn := inMemory(t)
	must(t, declare(ctx, conn, "q"))
	must(t, conn.Delete(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "q", NoDeclare: true}}}, nil))
	if _, err := conn.Inspect(ctx, "q"); !errors.Is(err, gombu.ErrNotFound) {
		t.Fatal(err)
	}
}

func TestADeliveryIsSafeToLog(t *testing.T) {
	conn := inMemory(t)
	must(t, declare(t.Context(), conn, "q"))
	must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Queue: "q", Value: "sesame", Properties: gombu.Properties{MessageID: "m1"}}))
	consumeAll(t, conn, gombu.ConsumerConfig{Queues: []string{"q"}}, 1, func(_ context.Context, d *gombu.Delivery) error {
		var log bytes.Buffer
		textLog(&log).Info("got", "delivery", d)
		for _, text := range []string{log.String(), fmt.Sprint(d), fmt.Sprintf("%+v", d)} {
			if strings.Contains(text, "sesame") || !strings.Contains(text, "m1") {
				t.Errorf("logged %s", text)
			}
		}
		return nil
	})
}

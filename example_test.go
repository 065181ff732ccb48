package gombu_test

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/codec"
	_ "github.com/gombu/gombu/transport/memory"
)

// example opens a broker in memory; its name keeps the examples apart.
func example(name string) (*gombu.Conn, context.Context) {
	conn, err := gombu.Open("memory://example-"+name, nil)
	if err != nil {
		panic(err)
	}
	return conn, context.Background()
}

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func ExampleOpen() {
	conn, err := gombu.Open("memory://shop", nil)
	check(err)
	defer conn.Close()
	fmt.Println(conn)

	_, err = gombu.Open("mermory://shop", nil)
	fmt.Println(errors.Is(err, gombu.ErrInvalid), err)
	// Output:
	// memory://shop
	// true gombu: open: mermory://: invalid: unknown transport scheme; did you mean "memory"? (known: fake, memory)
}

func ExampleConn_Declare() {
	conn, ctx := example("declare")
	defer conn.Close()
	check(conn.Declare(ctx, gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: "media", Type: gombu.Topic}},
		Queues:    []gombu.Queue{{Name: "video", MessageTTL: time.Hour}},
		Bindings:  []gombu.Binding{{Exchange: "media", Queue: "video", Key: "video.*"}},
	}))
	check(conn.Producer(nil).Publish(ctx, &gombu.Message{Exchange: "media", Key: "video.new", Value: 1}))
	info, err := conn.Inspect(ctx, "video")
	check(err)
	fmt.Println(info.Name, info.Ready)

	err = conn.Declare(ctx, gombu.Topology{Exchanges: []gombu.Exchange{{Name: "media", Type: gombu.Fanout}}})
	fmt.Println(errors.Is(err, gombu.ErrConflict))
	// Output:
	// video 1
	// true
}

func ExampleProducer_Publish() {
	conn, ctx := example("publish")
	defer conn.Close()
	check(conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "video"}}}))
	out := conn.Producer(nil)
	fmt.Println(out.Publish(ctx, &gombu.Message{Queue: "video", Value: map[string]any{"name": "/tmp/lolcat1.avi"}}))

	err := out.Publish(ctx, &gombu.Message{Queue: "vidoe", Value: 1})
	fmt.Println(errors.Is(err, gombu.ErrUnroutable))
	// Output:
	// <nil>
	// true
}

func ExampleProducer_PublishAsync() {
	conn, ctx := example("async")
	defer conn.Close()
	check(conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "video"}}}))
	out := conn.Producer(nil)
	var pending []*gombu.Pending
	for i := range 3 {
		w, err := out.PublishAsync(ctx, &gombu.Message{Queue: "video", Value: i})
		check(err)
		pending = append(pending, w)
	}
	for _, w := range pending {
		check(w.Wait(ctx))
	}
	info, err := conn.Inspect(ctx, "video")
	check(err)
	fmt.Println(info.Ready)
	// Output: 3
}

func ExampleConn_Run() {
	conn, ctx := example("run")
	defer conn.Close()
	check(conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "video"}}}))
	check(conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "video", Value: "lolcat"}))

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	check(conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"video"}}, func(_ context.Context, d *gombu.Delivery) error {
		name, err := gombu.Decode[string](d)
		if err != nil {
			return err // parked, not retried
		}
		fmt.Println("processing", name)
		stop()
		return nil // acknowledged
	}))
	// Output: processing lolcat
}

func ExampleTyped() {
	conn, ctx := example("typed")
	defer conn.Close()
	type video struct{ Name string }
	check(conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "video"}}}))
	check(conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "video", Value: video{"lolcat"}}))

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	check(conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"video"}}, gombu.Typed(func(_ context.Context, v video, d *gombu.Delivery) error {
		fmt.Println(v.Name, d.ContentType)
		stop()
		return nil
	})))
	// Output: lolcat application/json
}

func ExampleRetry() {
	conn, ctx := example("retry")
	defer conn.Close()
	check(conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "video"}}}))
	check(conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "video", Value: "lolcat"}))

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	check(conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"video"}}, func(_ context.Context, d *gombu.Delivery) error {
		fmt.Println("redelivered:", d.Redelivered)
		if !d.Redelivered {
			return gombu.Retry(time.Millisecond, errors.New("not ready"))
		}
		stop()
		return gombu.Drop(errors.New("enough"))
	}))
	// Output:
	// redelivered: false
	// redelivered: true
}

func ExampleConn_Deliveries() {
	conn, ctx := example("deliveries")
	defer conn.Close()
	check(conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "video"}}}))
	for i := range 3 {
		check(conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "video", Value: i}))
	}
	for d, err := range conn.Deliveries(ctx, gombu.ConsumerConfig{Queues: []string{"video"}}) {
		check(err)
		n, err := gombu.Decode[int](d)
		check(err)
		fmt.Println(n)
		check(d.Ack(ctx))
		if n == 1 {
			break // the rest is given back
		}
	}
	info, err := conn.Inspect(ctx, "video")
	check(err)
	fmt.Println("left:", info.Ready)
	// Output:
	// 0
	// 1
	// left: 1
}

func ExampleConsumer() {
	conn, ctx := example("consumer")
	defer conn.Close()
	check(conn.Declare(ctx, gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: "news", Type: gombu.Fanout}},
		Queues:    []gombu.Queue{{Name: "reader", PerSession: true, Exclusive: true}},
		Bindings:  []gombu.Binding{{Exchange: "news", Queue: "reader"}},
	}))
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	reader := conn.Consumer(gombu.ConsumerConfig{Queues: []string{"reader"}})
	over := make(chan error, 1)
	go func() {
		over <- reader.Run(ctx, func(_ context.Context, d *gombu.Delivery) error {
			fmt.Println(d.Queue, string(d.Body))
			stop()
			return nil
		})
	}()
	check(reader.Ready(ctx)) // from now on nothing is missed
	check(conn.Producer(nil).Publish(ctx, &gombu.Message{Exchange: "news", Value: "hello"}))
	check(<-over)
	// Output: reader hello
}

func ExampleDelivery_Detach() {
	conn, ctx := example("detach")
	defer conn.Close()
	check(conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "video"}}}))
	check(conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: "video", Value: "long work"}))

	ctx, stop := context.WithCancel(ctx)
	defer stop()
	work := make(chan *gombu.Delivery, 1)
	over := make(chan error, 1)
	go func() {
		over <- conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"video"}}, func(_ context.Context, d *gombu.Delivery) error {
			work <- d
			return d.Detach() // the claim is kept until somebody settles it
		})
	}()
	d := <-work
	fmt.Println(d.Ack(ctx))
	fmt.Println(errors.Is(d.Ack(ctx), gombu.ErrSettled))
	stop()
	check(<-over)
	// Output:
	// <nil>
	// true
}

func ExampleConn_Shutdown() {
	conn, ctx := example("shutdown")
	check(conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "video"}}}))
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	fmt.Println(conn.Shutdown(ctx)) // handlers finish, publishes are flushed
	fmt.Println(errors.Is(conn.Ready(ctx), gombu.ErrClosed))
	// Output:
	// <nil>
	// true
}

// Compressed, with a registry that writes what Kombu up to 5.2 reads.
func ExampleConfig() {
	codecs := codec.New()
	codecs.Register(codec.JSONWith(codec.JSONConfig{Untagged: true}))
	conn, err := gombu.Open("memory://example-config", &gombu.Config{Codecs: codecs})
	check(err)
	defer conn.Close()
	ctx := context.Background()
	check(conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: "q"}}}))
	at := time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC)
	check(conn.Producer(&gombu.ProducerConfig{Compression: "zlib"}).Publish(ctx, &gombu.Message{Queue: "q", Value: at}))
	for d, err := range conn.Deliveries(ctx, gombu.ConsumerConfig{Queues: []string{"q"}}) {
		check(err)
		body, err := d.Bytes()
		check(err)
		fmt.Println(string(body), d.Headers.Get("compression"))
		check(d.Ack(ctx))
		break
	}
	// Output: "2024-01-02T03:04:05Z" application/x-gzip
}

// Hello is Kombu's introductory program in Go: a producer sends a video to be
// processed, a consumer processes it. Run it with go run ./examples/hello; with
// a transport imported and its URL given, the same lines run on any broker.
package main

import (
	"context"
	"fmt"
	"log"

	"github.com/gombu/gombu"
	_ "github.com/gombu/gombu/transport/memory"
)

// Video is what is sent.
type Video struct {
	Name string `json:"name"`
	Size int    `json:"size"`
}

func main() {
	if err := hello(context.Background(), "memory://"); err != nil {
		log.Fatal(err)
	}
}

func hello(ctx context.Context, url string) (err error) {
	conn, err := gombu.Open(url, nil)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := conn.Close(); err == nil {
			err = cerr
		}
	}()

	media := gombu.Topology{
		Exchanges: []gombu.Exchange{{Name: "media"}},
		Queues:    []gombu.Queue{{Name: "video"}},
		Bindings:  []gombu.Binding{{Exchange: "media", Queue: "video", Key: "video"}},
	}

	// Produce.
	producer := conn.Producer(&gombu.ProducerConfig{Exchange: "media", Key: "video", Declare: &media})
	if err := producer.Publish(ctx, &gombu.Message{Value: Video{Name: "/tmp/lolcat1.avi", Size: 1301013}}); err != nil {
		return err
	}

	// Consume, until the first message was processed.
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	return conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"video"}, Declare: &media},
		gombu.Typed(func(_ context.Context, v Video, _ *gombu.Delivery) error {
			fmt.Printf("processing %s, %d bytes\n", v.Name, v.Size)
			stop()
			return nil
		}))
}

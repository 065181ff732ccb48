package amqp

import (
	"fmt"
	"sync"
	"testing"

	"github.com/gombu/gombu/driver"
)

// Messages of 1 KiB that are not persistent, so that the disk is not measured.
func benchMessage(queue string) driver.Outgoing {
	m := driver.Outgoing{Key: queue, Body: make([]byte, 1<<10)}
	m.Props = driver.Properties{ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: driver.Transient}
	return m
}

// Confirmed publishing, by how many messages are on their way at once.
func BenchmarkPublish(b *testing.B) {
	for _, window := range []int{1, 32, 1024} {
		b.Run(fmt.Sprintf("window=%d", window), func(b *testing.B) {
			s := connect(b, brokerConfig(b))
			q := queue(b, s, driver.Queue{MaxLength: 1})
			n := openSender(b, s, driver.SenderConfig{Window: window})
			var wg sync.WaitGroup
			total := b.N
			b.ReportAllocs()
			b.ResetTimer()
			wg.Go(func() {
				dst := make([]driver.Receipt, 128)
				for got := 0; got < total; {
					k, err := n.Outcomes(b.Context(), dst)
					if err != nil {
						b.Error(err)
						return
					}
					got += k
				}
			})
			batch := []driver.Outgoing{benchMessage(q)}
			for range total {
				if _, err := n.Submit(b.Context(), batch); err != nil {
					b.Fatal(err)
				}
			}
			wg.Wait()
		})
	}
}

func BenchmarkConsume(b *testing.B) {
	s := connect(b, brokerConfig(b))
	q := queue(b, s, driver.Queue{})
	n := openSender(b, s, driver.SenderConfig{Window: 1024, NoConfirm: true})
	batch := []driver.Outgoing{benchMessage(q)}
	for range b.N {
		if _, err := n.Submit(b.Context(), batch); err != nil {
			b.Fatal(err)
		}
	}
	if err := n.Close(b.Context()); err != nil {
		b.Fatal(err)
	}
	r := openReceiver(b, s, driver.ReceiverConfig{Queue: q, Prefetch: 512})
	dst := make([]driver.Incoming, 64)
	acks := make([]driver.Settlement, 64)
	b.ReportAllocs()
	b.ResetTimer()
	for got := 0; got < b.N; {
		k, err := r.Receive(b.Context(), dst)
		if err != nil {
			b.Fatal(err)
		}
		for i := range k {
			acks[i] = driver.Settlement{Tag: dst[i].Tag}
		}
		if err := r.Settle(b.Context(), acks[:k]); err != nil {
			b.Fatal(err)
		}
		got += k
	}
}

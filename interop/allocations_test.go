package interop

import (
	"context"
	"runtime"
	"testing"
	"time"

	"github.com/gombu/gombu"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

const (
	allocMessages = 3000
	allocWindow   = 100
)

// mallocs is what f allocates for each of allocMessages messages.
func mallocs(f func()) float64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return float64(after.Mallocs-before.Mallocs) / allocMessages
}

// rawRabbit publishes and consumes with amqp091-go itself, with the same
// properties and guarantees, and returns the allocations of a message.
func rawRabbit(t *testing.T, url, q string, body []byte) (publish, consume float64) {
	t.Helper()
	conn, err := amqp091.Dial(url)
	must(t, err)
	defer conn.Close()
	ch, err := conn.Channel()
	must(t, err)
	must(t, ch.Confirm(false))
	ring := make([]*amqp091.DeferredConfirmation, allocWindow)
	publish = mallocs(func() {
		for i := range allocMessages + allocWindow {
			if c := ring[i%allocWindow]; c != nil && !c.Wait() {
				t.Fatal("refused")
			}
			ring[i%allocWindow] = nil
			if i < allocMessages {
				ring[i%allocWindow], err = ch.PublishWithDeferredConfirm("", q, true, false, amqp091.Publishing{
					ContentType: "application/data", ContentEncoding: "binary", DeliveryMode: amqp091.Persistent, Body: body,
				})
				must(t, err)
			}
		}
	})
	must(t, ch.Qos(allocWindow, 0, false))
	deliveries, err := ch.Consume(q, "", false, false, false, false, nil)
	must(t, err)
	consume = mallocs(func() {
		for range allocMessages {
			d := <-deliveries
			must(t, d.Ack(false))
		}
	})
	return publish, consume
}

// A publish costs at most one allocation more than with the client library alone,
// confirmed, and a delivery, acknowledged, none.
func TestRabbitMQAllocations(t *testing.T) {
	b := brokers()[0]
	need(t, b)
	conn := opened(t, b.url, nil)
	q := name(t, "q")
	must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: q, Expires: 5 * time.Minute}}}))
	body := make([]byte, 256)
	rawPublish, rawConsume := rawRabbit(t, b.url, q, body)

	p := conn.Producer(nil)
	m := &gombu.Message{Queue: q, Body: body}
	ring := make([]*gombu.Pending, allocWindow)
	publish := mallocs(func() {
		for i := range allocMessages + allocWindow {
			if w := ring[i%allocWindow]; w != nil {
				must(t, w.Wait(t.Context()))
			}
			ring[i%allocWindow] = nil
			if i < allocMessages {
				var err error
				ring[i%allocWindow], err = p.PublishAsync(t.Context(), m)
				must(t, err)
			}
		}
	})
	done := make(chan struct{})
	handled := 0
	consume := mallocs(func() {
		running(t, conn, gombu.ConsumerConfig{Queues: []string{q}, Prefetch: allocWindow}, func(context.Context, *gombu.Delivery) error {
			if handled++; handled == allocMessages {
				close(done)
			}
			return nil
		})
		<-done
	})
	t.Logf("publish %.1f, amqp091 alone %.1f; consume %.1f, amqp091 alone %.1f", publish, rawPublish, consume, rawConsume)
	if publish > rawPublish+1+poolDrops {
		t.Errorf("a publish makes %.1f allocations, amqp091 alone %.1f", publish, rawPublish)
	}
	if consume > rawConsume+poolDrops {
		t.Errorf("a delivery makes %.1f allocations, amqp091 alone %.1f", consume, rawConsume)
	}
}

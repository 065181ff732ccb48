package gombu_test

import (
	"context"
	"testing"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
)

// A worker may come before the broker has said that it is worth it: all that it
// needs to know of the subscription is known then.
func TestPulledAtOnce(t *testing.T) {
	bubble(t, func(t *testing.T) {
		f := newFake()
		f.receives = true
		conn := open(t, f, nil)
		must(t, declare(t.Context(), conn, "q"))
		f.set(func() { f.push(driver.Incoming{Queue: "q", Redelivered: true, Attempt: 3}, false) })
		ctx, stop := context.WithCancel(t.Context())
		var attempt int
		must(t, conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{"q"}}, func(_ context.Context, d *gombu.Delivery) error {
			attempt = d.Attempt
			stop()
			return nil
		}))
		if attempt != 3 {
			t.Errorf("attempt %d, want 3: where starts are counted was not known yet", attempt)
		}
	})
}

package gombu_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gombu/gombu"
)

// What may have arrived by an earlier try stays uncertain, whatever becomes of
// the tries after it: given up in the line, or refused by the next session.
func TestResentIsNeverCalledNotSent(t *testing.T) {
	for _, end := range []string{"deadline", "refused for good"} {
		bubble(t, func(t *testing.T) {
			f := newFake()
			conn := open(t, f, nil)
			must(t, declare(t.Context(), conn, "q"))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			f.set(func() { f.swallow = true })
			w, err := conn.Producer(&gombu.ProducerConfig{Resend: true}).PublishAsync(ctx, &gombu.Message{Queue: "q"})
			must(t, err)
			synctest.Wait()
			f.set(func() {
				f.swallow = false
				f.dial = func(int) error { return errors.New("down") }
			})
			f.cut()
			synctest.Wait()
			if end != "deadline" {
				_ = conn.Close() // it says that something is unanswered
			}
			if err := w.Wait(ctx); !errors.Is(err, gombu.ErrUncertain) || errors.Is(err, gombu.ErrNotSent) {
				t.Errorf("%s: %v", end, err)
			}
		})
	}
}

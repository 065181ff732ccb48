package growth

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/gombu/gombu/gombutest/server"
	"github.com/gombu/gombu/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// The ends of every curve, with bounds that hold on a busy machine and under -race.
func TestQuick(t *testing.T) {
	var rows []Row
	c := Quick()
	err := Run(t.Context(), c, func(r Row) error {
		rows = append(rows, r)
		switch {
		case r.Table == "memory" || r.Table == "start" || r.Table == "idle consumers":
			r.Limit *= 20
		case strings.HasPrefix(r.Table, "queues, publish and"), r.Broker != "memory" && strings.HasPrefix(r.Unit, "µs CPU"):
			r.Limit = 0 // known to grow, or a window of few messages: only the long run judges it
		}
		if !r.Met() {
			t.Errorf("%+v", r)
		}
		return nil
	})
	var text strings.Builder
	Table(&text, rows)
	t.Log(text.String())
	if errors.Is(err, server.ErrMissing) && os.Getenv("CI") == "" {
		t.Skipf("%v: run scripts/install", err)
	}
	if err != nil {
		t.Fatal(err)
	}
}

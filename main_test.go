package gombu_test

import (
	"log/slog"
	"os"
	"slices"
	"testing"

	"github.com/gombu/gombu/internal/leak"
)

func TestMain(m *testing.M) {
	if !slices.Contains(os.Args, "-test.v=true") {
		slog.SetDefault(slog.New(slog.DiscardHandler))
	}
	leak.Main(m)
}

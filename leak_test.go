package gombu_test

import (
	"fmt"
	"log/slog"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain fails when goroutines of this module are left after all tests.
func TestMain(m *testing.M) {
	if !slices.Contains(os.Args, "-test.v=true") {
		slog.SetDefault(slog.New(slog.DiscardHandler))
	}
	code := m.Run()
	if left := leaked(5 * time.Second); left != "" && code == 0 {
		fmt.Fprintf(os.Stderr, "goroutines left behind:\n%s\n", left)
		code = 1
	}
	os.Exit(code)
}

// leaked waits for this module's goroutines to end and returns the stacks of
// those that did not.
func leaked(limit time.Duration) string {
	buf := make([]byte, 1<<20)
	for end := time.Now().Add(limit); ; runtime.Gosched() {
		var left []string
		stacks := strings.Split(string(buf[:runtime.Stack(buf, true)]), "\n\n")
		for _, s := range stacks[1:] {
			if strings.Contains(s, "github.com/gombu/gombu") {
				left = append(left, s)
			}
		}
		if len(left) == 0 || time.Now().After(end) {
			return strings.Join(left, "\n\n")
		}
	}
}

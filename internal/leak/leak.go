// Package leak finds goroutines that a package's tests left behind.
package leak

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// patience is how long goroutines may take to notice that they are done.
const patience = 5 * time.Second

// Main runs a package's tests and fails them when goroutines are left:
//
//	func TestMain(m *testing.M) { leak.Main(m) }
//
// ours are texts that mark the stacks of interest; none: every goroutine that
// runs code of this project.
func Main(m *testing.M, ours ...string) {
	code := m.Run()
	if code == 0 {
		if left := Left(ours...); len(left) > 0 {
			fmt.Fprintf(os.Stderr, "%d goroutines were left behind:\n\n%s\n", len(left), strings.Join(left, "\n\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// Left waits until no goroutine of ours is left, and returns the stacks of
// those that stay. The calling goroutine does not count.
func Left(ours ...string) []string {
	if len(ours) == 0 {
		ours = []string{"github.com/gombu/gombu"}
	}
	deadline := time.Now().Add(patience)
	for {
		left := stacks(ours)
		if len(left) == 0 || time.Now().After(deadline) {
			return left
		}
		timer := time.NewTimer(10 * time.Millisecond)
		<-timer.C
	}
}

func stacks(ours []string) []string {
	buf := make([]byte, 1<<20)
	for {
		n := runtime.Stack(buf, true)
		if n < len(buf) {
			buf = buf[:n]
			break
		}
		buf = make([]byte, 2*len(buf))
	}
	var left []string
	for _, g := range strings.Split(string(buf), "\n\n")[1:] { // the first is the caller
		if slices.ContainsFunc(ours, func(o string) bool { return strings.Contains(g, o) }) {
			left = append(left, g)
		}
	}
	return left
}

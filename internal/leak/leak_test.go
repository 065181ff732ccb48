package leak

import (
	"strings"
	"testing"
)

func TestLeftSeesAGoroutine(t *testing.T) {
	stop := make(chan struct{})
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-stop
	}()
	left := stacks([]string{"leak.TestLeftSeesAGoroutine"})
	if len(left) != 1 || !strings.Contains(left[0], "chan receive") {
		t.Errorf("%q", left)
	}
	close(stop)
	<-done
	if left := Left("leak.TestLeftSeesAGoroutine.func"); len(left) != 0 {
		t.Errorf("%q", left)
	}
}

package leak

import "testing"

func TestLeftSeesAGoroutine(t *testing.T) {
	stop, started, done := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		close(started)
		<-stop
	}()
	<-started
	left := stacks([]string{"leak.TestLeftSeesAGoroutine"})
	if len(left) != 1 {
		t.Errorf("%q", left)
	}
	close(stop)
	<-done
	if left := Left("leak.TestLeftSeesAGoroutine.func"); len(left) != 0 {
		t.Errorf("%q", left)
	}
}

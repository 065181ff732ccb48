package contender

import (
	"encoding/json"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestMeterCountsUpToTheMessages(t *testing.T) {
	m := NewMeter(Job{Messages: 10, ServerPIDs: []int{os.Getpid()}})
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	m.Add(9)
	if m.Over() {
		t.Error("over too soon")
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { m.Add(1); m.Took(time.Millisecond) })
	}
	wg.Wait()
	<-m.Finished()
	for i := range 96 {
		m.Took(time.Duration(i) * time.Microsecond)
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	f := m.Figures()
	if f.Messages != 13 || f.Elapsed <= 0 || f.Peak < 1<<20 || f.Allocs == 0 || f.P50 != 50*time.Microsecond || f.P99 != time.Millisecond {
		t.Errorf("%+v", f)
	}
}

func TestMeterEndsInTime(t *testing.T) {
	m := NewMeter(Job{For: 20 * time.Millisecond})
	if err := m.Start(); err != nil {
		t.Fatal(err)
	}
	for !m.Over() { // busy: there is CPU time to find
	}
	if err := m.Stop(); err != nil {
		t.Fatal(err)
	}
	if f := m.Figures(); f.Elapsed < 20*time.Millisecond || f.Client <= 0 {
		t.Errorf("%+v", f)
	}
	if err := NewMeter(Job{ServerPIDs: []int{1 << 30}}).Start(); err == nil {
		t.Error("a server that does not run has used something")
	}
}

func TestBodiesHaveTheirSize(t *testing.T) {
	for _, size := range []int{256, 16 << 10} {
		text := JSON(size)
		if n := len(text); n > size || n < size-10 {
			t.Errorf("%d bytes, not %d", n, size)
		}
		var b Body
		if err := json.Unmarshal(text, &b); err != nil || b != NewBody(size) {
			t.Error(err)
		}
	}
}

func TestFlowKeepsPublishersBack(t *testing.T) {
	m := NewMeter(Job{})
	f := NewFlow()
	var wg sync.WaitGroup
	taken := make(chan bool)
	for range 4 {
		wg.Go(func() {
			for f.Take(m) {
				taken <- true
			}
		})
	}
	for range Backlog {
		<-taken
	}
	for f.waiting.Load() < 4 {
		select {
		case <-taken:
			t.Fatal("more than the backlog was let through")
		default:
			runtime.Gosched()
		}
	}
	f.Done(Backlog / 2)
	for range Backlog / 2 {
		<-taken
	}
	m.End()
	wg.Wait()
	if ahead := f.ahead(); ahead > Backlog+4 {
		t.Error(ahead)
	}
}

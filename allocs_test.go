//go:build !race

package gombu_test

import "testing"

// Publish, route, deliver, ack of a raw body costs at most two allocations.
func TestHotPathAllocations(t *testing.T) {
	const n = 1000
	run := hotPath(t, n)
	run()
	if perMessage := testing.AllocsPerRun(20, run) / n; perMessage > 2 {
		t.Errorf("%.2f allocations a message, at most 2 are allowed", perMessage)
	} else {
		t.Logf("%.2f allocations a message", perMessage)
	}
}

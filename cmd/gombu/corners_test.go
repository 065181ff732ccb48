package main

import (
	"fmt"
	"strings"
	"testing"
)

// Every message is shown once, and all of them are, when they go back at the end.
func TestConsumeRequeueShowsEachOnce(t *testing.T) {
	each(t, func(t *testing.T, u string, unique func(string) string) {
		q := unique("look")
		var in strings.Builder
		for i := range 100 {
			fmt.Fprintln(&in, i)
		}
		want(t, 0, in.String(), "publish", "-u", u, "-q", q, "-f", "-")
		for range 2 {
			r := want(t, 0, "", "consume", "-u", u, "-q", q, "--ack", "requeue", "--timeout", "1s", "--format", "body")
			if got := len(r.lines()); got != 100 {
				t.Errorf("%d lines, want 100\n%s", got, r.err)
			}
		}
	})
}

// The demo ends well also when its last message is consumed before the broker
// has confirmed it.
func TestDemoOfFewMessages(t *testing.T) {
	each(t, func(t *testing.T, u string, _ func(string) string) {
		call(t, "", "delete", "-u", u, "-q", "video") // what an earlier test left
		for range 10 {
			want(t, 0, "", "demo", "-u", u, "--messages", "2")
		}
	})
}

package main

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

func TestBench(t *testing.T) {
	each(t, func(t *testing.T, u string, _ func(string) string) {
		out := want(t, 0, "", "bench", "-u", u, "--for", "300ms", "--messages", "2000", "--producers", "2", "--workers", "2", "--json").out
		var got struct {
			Broker  string
			Results []struct {
				Work     string
				Messages int
				Rate     float64
				Failed   int
				P50      int64 `json:"p50_ns"`
				P99      int64 `json:"p99_ns"`
			}
		}
		if err := json.Unmarshal([]byte(out), &got); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		if len(got.Results) != 4 {
			t.Fatal(out)
		}
		for _, r := range got.Results {
			if r.Messages == 0 || r.Rate <= 0 || r.Failed != 0 || r.Work == "consume" && r.Messages != 2000 {
				t.Errorf("%+v", r)
			}
			if latency := r.Work == "latency"; latency != (r.P50 > 0) || r.P99 < r.P50 {
				t.Errorf("%+v", r)
			}
		}
		if p, err := url.Parse(u); err == nil && p.User != nil && strings.Contains(out, p.User.String()) {
			t.Error("the password is in the output")
		}
		for q := range strings.Lines(want(t, 0, "", "queues", "-u", u).out) {
			if strings.Contains(q, "gombu.bench.") {
				t.Errorf("%s is left", q)
			}
		}
	})
}

func TestBenchFireAndForget(t *testing.T) {
	out := want(t, 0, "", "bench", "--work", "e2e", "--fire-and-forget", "--for", "100ms").out
	if !strings.HasPrefix(out, "e2e ") || !strings.Contains(out, "messages/s") {
		t.Error(out)
	}
}

func TestBenchUsage(t *testing.T) {
	for _, args := range [][]string{{"--work", "sleep"}, {"--size", "0"}, {"--for", "0s"}, {"--rate", "-1"}, {"more"}} {
		want(t, exitUsage, "", append([]string{"bench"}, args...)...)
	}
}

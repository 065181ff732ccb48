// Package contender is what the contenders of a benchmark have in common: the
// work that each is given, and the meter that each is measured with. A contender
// runs alone in a process of its own, so that its CPU time, memory and
// allocations are its own.
package contender

import (
	"context"
	"time"
)

// The kinds of work.
const (
	Publish  = "publish" // messages into a queue that nobody consumes, for a time
	Consume  = "consume" // every message that waits in a queue, each acknowledged
	EndToEnd = "e2e"     // publishers and consumers at once in one process, with a Flow, for a time
	Latency  = "latency" // as EndToEnd, at a given rate: from publish to handler
	Idle     = "idle"    // consumers on empty queues, for a time
	Code     = "code"    // bodies or envelopes written or read, without a broker, for a time
)

// A Job is what a contender does once. It is made by the suite, and the same
// for all contenders of a round but for the names of the queues.
type Job struct {
	Work   string   `json:"work"`
	URL    string   `json:"url"`    // of the broker; empty: in this process
	Queues []string `json:"queues"` // fresh, to be declared by the contender; mostly one

	Size     int           `json:"size"`               // bytes of the JSON of a body, see Body
	Raw      bool          `json:"raw,omitempty"`      // bodies are bytes: not encoded, not decoded
	For      time.Duration `json:"for,omitempty"`      // how long; Consume: at most
	Messages int           `json:"messages,omitempty"` // Consume: how many wait in all; else: no more than these
	Rate     int           `json:"rate,omitempty"`     // Latency: messages a second

	Confirm   bool `json:"confirm,omitempty"`   // persistent, confirmed, mandatory; else fire and forget
	Window    int  `json:"window,omitempty"`    // messages without a confirm at once
	Batch     int  `json:"batch,omitempty"`     // messages of one call, where there is such a call
	Callers   int  `json:"callers,omitempty"`   // goroutines that publish
	Prefetch  int  `json:"prefetch,omitempty"`  // messages without an ack at once
	Consumers int  `json:"consumers,omitempty"` // of each queue
	Workers   int  `json:"workers,omitempty"`   // goroutines that handle, of each consumer

	ServerPIDs []int `json:"server_pids,omitempty"` // whose CPU time is the broker's
}

// A Contender is one way to do the work.
type Contender struct {
	Name string
	// Fill puts job.Messages messages into the queues, for Consume; nil:
	// Gombu's own, which writes what Kombu reads. It runs in a process of its own,
	// but in Run's when job.URL is empty; without one, Run then fills by itself.
	Fill func(ctx context.Context, job Job) error
	// Run does the job. It connects, declares, calls m.Start, works until m.Over
	// says so, and calls m.Stop before it takes anything down.
	Run func(ctx context.Context, job Job, m *Meter) error
}

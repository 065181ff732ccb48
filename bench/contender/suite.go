package contender

// A Suite is a job, the contenders that do it in turn, and what must come out.
type Suite struct {
	Name       string // "rabbitmq-consume-16k"
	Broker     string // "rabbitmq", "redis" or "memory": what the runner starts
	Job        Job    // but for URL, Queues and ServerPIDs, which the runner fills in
	QueueCount int    // 0 is one
	Base       string // the contender that all are compared with in the tables
	Contenders []Contender
	Targets    []Target
}

// The figures that a target may be about. Rates are messages a second; CPU times
// are seconds per 100 000 messages; the rest are per message, or as they are.
const (
	Rate    = "rate"
	Client  = "client"  // CPU
	Server  = "server"  // CPU
	Allocs  = "allocs"  // a message
	P50     = "p50"     // nanoseconds
	P99     = "p99"     // nanoseconds
	Peak    = "peak"    // bytes
	Live    = "live"    // bytes, of Idle
	Elapsed = "elapsed" // nanoseconds
)

// A Target says what one figure of a contender must be: by itself, as a ratio to
// another contender's of the same round, or as the difference to it.
type Target struct {
	Who    string // the contender; empty: "gombu"
	Figure string
	Of     string  // the contender that it is divided by; empty: none
	Above  string  // the contender whose figure is subtracted; empty: none
	Min    float64 // 0: no such bound
	Max    float64 // 0: no such bound
}

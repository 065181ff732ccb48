package memory

import (
	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/loop"
	"github.com/gombu/gombu/bench/ours"
	"github.com/gombu/gombu/bench/python"
)

// Suites are the suites in memory. The channel and the rivals use the standard
// library's JSON.
func Suites() []contender.Suite {
	channel := loop.Contender("channel-json", loop.Std(), dialChannel)
	watermill := loop.Contender("watermill-gochannel", loop.Std(), dialGochan)
	cloud := loop.Contender("gocloud-mempubsub", loop.Std(), dialCloud)
	var suites []contender.Suite
	add := func(name string, job contender.Job, targets []contender.Target, others ...contender.Contender) {
		job.Work, job.Confirm, job.Prefetch = contender.EndToEnd, true, 256
		all := append([]contender.Contender{ours.New("gombu", nil), channel, watermill, cloud}, others...)
		suites = append(suites, contender.Suite{Name: "memory-" + name, Broker: "memory", Job: job, Base: "channel-json", Contenders: all, Targets: targets})
	}
	twice := contender.Target{Figure: contender.Rate, Of: "watermill-gochannel", Min: 2}
	add("e2e", contender.Job{Size: 256}, []contender.Target{twice}, python.Kombu())
	add("e2e-16k", contender.Job{Size: 16 << 10}, []contender.Target{twice}, python.Kombu())
	// At most 3 µs and two allocations from publish to ack; a third is the
	// message that the program makes.
	add("e2e-bytes", contender.Job{Size: 256, Raw: true},
		[]contender.Target{{Figure: contender.Rate, Min: 1e6 / 3.0}, {Figure: contender.Allocs, Max: 3}})
	add("e2e-64", contender.Job{Size: 256, Callers: 64, Consumers: 64}, []contender.Target{twice})
	add("e2e-64-bytes", contender.Job{Size: 256, Raw: true, Callers: 64, Consumers: 64}, []contender.Target{{Figure: contender.Rate, Min: 1e6 / 3.0}})
	return suites
}

// Package rabbitmq has the contenders on RabbitMQ, and the suites in which they
// meet Gombu.
package rabbitmq

import (
	"slices"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/ours"
	"github.com/gombu/gombu/bench/python"
	"github.com/gombu/gombu/codec"
	"github.com/gombu/gombu/codec/sonic"
)

// small and large are the sizes of bodies, in bytes.
const (
	small = 256
	large = 16 << 10
)

// Suites are the suites on RabbitMQ.
func Suites() []contender.Suite {
	all := []contender.Contender{
		ours.New("gombu", nil), raw.contender(), limit.contender(), goRabbitMQ.contender(), watermillAMQP.contender(), python.Kombu(), python.Pika(),
	}
	consumers := append(slices.Clone(all), limitMulti.contender())
	decoders := append(slices.Clone(consumers), ours.New("gombu-sonic", withSonic))
	var suites []contender.Suite
	add := func(name string, job contender.Job, contenders []contender.Contender, targets ...contender.Target) {
		suites = append(suites, contender.Suite{
			Name: "rabbitmq-" + name, Broker: "rabbitmq", Job: job, Base: "raw", Contenders: contenders, Targets: targets,
		})
	}
	fire := contender.Job{Work: contender.Publish, Size: small}
	add("publish", fire, all, least(1, "raw"), cpu(0.6), allocs)
	add("publish-16k", sized(fire), all, least(1.3, "raw"), allocs)

	confirmed := contender.Job{Work: contender.Publish, Size: small, Confirm: true, Window: 100}
	add("confirmed", confirmed, all, least(1, "raw"), allocs)
	add("confirmed-16k", sized(confirmed), all, least(1, "raw"), allocs)

	single := contender.Job{Work: contender.Publish, Size: small, Confirm: true, Window: 1}
	add("confirmed-single", single, all, least(0.95, "raw"))
	add("confirmed-single-16k", sized(single), all, least(0.95, "raw"))

	consume := contender.Job{Work: contender.Consume, Size: small, Prefetch: 100}
	add("consume", consume, consumers, least(1.25, "raw"), allocs)
	add("consume-16k", sized(consume), decoders, least(1.25, "raw"), least(1, "kombu"), allocs,
		contender.Target{Who: "gombu-sonic", Figure: contender.Rate, Of: "kombu", Min: 2})
	consume.Raw = true
	add("consume-bytes", consume, consumers, least(1.25, "raw"), allocs)
	add("consume-bytes-16k", sized(consume), consumers, least(1.25, "raw"), allocs)

	both := contender.Job{Work: contender.EndToEnd, Size: small, Prefetch: 100}
	add("e2e", both, all, least(1.4, "raw"), least(4, "kombu"))
	add("e2e-16k", sized(both), all, least(1.4, "raw"), least(4, "kombu"))
	both.Confirm, both.Window = true, 100
	add("e2e-confirmed", both, all, least(1.4, "raw"), least(4, "kombu"))
	add("e2e-confirmed-16k", sized(both), all, least(1.4, "raw"), least(4, "kombu"))

	latency := contender.Job{Work: contender.Latency, Size: small, Prefetch: 100, Rate: 500, For: 4 * time.Second}
	add("latency", latency, all,
		contender.Target{Figure: contender.P50, Of: "raw", Max: 1.1}, contender.Target{Figure: contender.P99, Max: 1e6})
	idle := contender.Job{Work: contender.Idle, Prefetch: 32, For: time.Second} // Gombu's default
	add("idle", idle, all[:2], contender.Target{Figure: contender.Live, Above: "raw", Max: idleQueues * 20 << 10})
	suites[len(suites)-1].QueueCount = idleQueues
	return suites
}

// withSonic has Gombu decode with the fast codec.
func withSonic(cfg *gombu.Config) {
	cfg.Codecs = codec.New()
	cfg.Codecs.Register(sonic.JSON())
}

// idleQueues is how many queues with a consumer each a connection has, for which
// nothing comes.
const idleQueues = 200

// sized is a job with large bodies.
func sized(job contender.Job) contender.Job {
	job.Size = large
	return job
}

// least is a rate of at least so many times another one's.
func least(times float64, of string) contender.Target {
	return contender.Target{Figure: contender.Rate, Of: of, Min: times}
}

// cpu is at most so many times raw's CPU time.
func cpu(times float64) contender.Target {
	return contender.Target{Figure: contender.Client, Of: "raw", Max: times}
}

// allocs is at most two allocations a message more than raw.
var allocs = contender.Target{Figure: contender.Allocs, Above: "raw", Max: 2}

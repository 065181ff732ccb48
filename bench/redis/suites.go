// Package redis has what Gombu is compared with on Redis: a hand-written limit,
// Kombu's layout on the well-known clients, and rivals with layouts of their own.
package redis

import (
	"time"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/loop"
	"github.com/gombu/gombu/bench/ours"
	"github.com/gombu/gombu/bench/python"
)

// What Gombu is compared with. The limit's JSON codec is Gombu's, the others use
// the standard library's.
var (
	theLimit  = loop.Contender("limit", loop.Ours(), dialLimit)
	naive     = loop.Contender("naive", loop.Std(), pipeliningDialer(byJSON))
	auto64    = loop.Contender("rueidis-auto64", loop.Std(), pipeliningDialer(byHand))
	multi100  = loop.Contender("rueidis-multi100", loop.Std(), pipeliningDialer(byHand))
	kombuInGo = loop.Contender("goredis-tx", loop.Std(), goRedisDialer(sequence))
	pipe100   = loop.Contender("goredis-pipe100", loop.Std(), goRedisDialer(piped))
	lua100    = loop.Contender("goredis-lua100", loop.Std(), goRedisDialer(scripted))
	streams   = own("watermill-redisstream", 1, dialStream)
	kombu     = python.Kombu()
	asynq64   = own("asynq-c64", 64, dialTasks)
)

// own is a contender with a layout of its own, which it fills itself.
func own(name string, callers int, dial loop.Dialer) contender.Contender {
	c := loop.Contender(name, loop.Std(), dial)
	c.Fill = loop.Filler(loop.Std(), callers, dial)
	return c
}

// The sizes of bodies, in bytes.
const small, large = 256, 16 << 10

// Suites are the suites on Redis.
func Suites() []contender.Suite {
	all := append(publishing(), consuming()...)
	return append(all, endToEnd()...)
}

func suite(name string, job contender.Job, targets []contender.Target, cs ...contender.Contender) contender.Suite {
	job.Confirm = true
	if job.Size == 0 {
		job.Size = small
	}
	cs = append([]contender.Contender{ours.New("gombu", nil)}, cs...)
	return contender.Suite{Name: "redis-" + name, Broker: "redis", Job: job, Base: cs[1].Name, Contenders: cs, Targets: targets}
}

func atLeast(ratio float64, of string) contender.Target {
	return contender.Target{Figure: contender.Rate, Of: of, Min: ratio}
}

func publishing() []contender.Suite {
	one := contender.Job{Work: contender.Publish}
	many := contender.Job{Work: contender.Publish, Callers: 64}
	batch := contender.Job{Work: contender.Publish, Batch: 100}
	batchLarge := contender.Job{Work: contender.Publish, Batch: 100, Size: large}
	return []contender.Suite{
		suite("publish-one", one, []contender.Target{atLeast(0.95, "naive")}, naive, streams, kombu),
		suite("publish-64", many, []contender.Target{atLeast(1, "rueidis-auto64")}, auto64, asynq64),
		suite("publish-batch", batch, []contender.Target{atLeast(1.5, "rueidis-multi100")}, multi100, theLimit, pipe100),
		suite("publish-batch-16k", batchLarge, []contender.Target{atLeast(1.5, "rueidis-multi100")}, multi100, theLimit, pipe100),
	}
}

// cpu bounds the server's time a message, in µs.
func cpu(micros float64) contender.Target {
	return contender.Target{Figure: contender.Server, Max: micros / 10} // seconds for 100 000
}

func consuming() []contender.Suite {
	job := func(prefetch, size int, raw bool) contender.Job {
		return contender.Job{Work: contender.Consume, Prefetch: prefetch, Size: size, Raw: raw}
	}
	return []contender.Suite{
		suite("consume-100", job(100, small, false), []contender.Target{atLeast(0.65, "limit"), atLeast(40, "kombu"), cpu(3)},
			theLimit, kombu, kombuInGo, pipe100, lua100, auto64, streams, asynq64),
		suite("consume-1000", job(1000, small, false), []contender.Target{atLeast(0.65, "limit")}, theLimit),
		suite("consume-100-raw", job(100, small, true), []contender.Target{atLeast(0.65, "limit"), cpu(3)}, theLimit, pipe100),
		suite("consume-100-16k", job(100, large, false), []contender.Target{atLeast(6, "kombu"), cpu(15)},
			theLimit, kombu, kombuInGo, pipe100, lua100, auto64),
		suite("consume-1000-16k", job(1000, large, false), nil, theLimit),
		suite("consume-100-16k-raw", job(100, large, true), []contender.Target{cpu(15)}, theLimit, pipe100),
	}
}

func endToEnd() []contender.Suite {
	// asynq looks at an empty queue once a second: it needs some.
	e2e := contender.Job{Work: contender.EndToEnd, Prefetch: 100, Batch: 100, For: 4 * time.Second}
	latency := contender.Job{Work: contender.Latency, Prefetch: 100, Rate: 500, For: 4 * time.Second}
	of := func(size int) contender.Job { j := e2e; j.Size = size; return j }
	return []contender.Suite{
		suite("e2e", e2e, []contender.Target{atLeast(0.65, "limit"), atLeast(28, "kombu"), atLeast(4, "watermill-redisstream"), atLeast(4, "asynq-c64")},
			theLimit, kombu, kombuInGo, pipe100, auto64, streams, asynq64),
		suite("e2e-16k", of(large), nil, theLimit, kombu, pipe100, auto64, streams),
		suite("latency", latency, []contender.Target{{Figure: contender.P50, Of: "goredis-tx", Max: 1.1}}, kombuInGo, kombu, theLimit, streams),
	}
}

// Package codecs has what Gombu's JSON and Kombu's envelope are compared with:
// the standard library's encoding/json and a fast third-party codec. There is no
// broker; a message is a body or an envelope that is written or read.
package codecs

import (
	"context"
	"encoding/json"
	"runtime"

	"github.com/bytedance/sonic"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/codec"
	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/specimen"
	"github.com/gombu/gombu/wire/kombu"
)

// Suites are the suites of codecs.
func Suites() []contender.Suite {
	var suites []contender.Suite
	add := func(name string, size int, targets []contender.Target, gombu, std, fast func() error) {
		suites = append(suites, contender.Suite{
			Name: name, Broker: "memory", Base: "encoding-json", Job: contender.Job{Work: contender.Code, Size: size}, Targets: targets,
			Contenders: []contender.Contender{{Name: "gombu", Run: over(gombu)}, {Name: "encoding-json", Run: over(std)}, {Name: "sonic", Run: over(fast)}},
		})
	}
	ours := codec.JSON()
	for _, kind := range specimen.Kinds {
		body := specimen.Body(kind)
		least := 1.5
		if kind == "string" {
			least = 4
		}
		into := func(decode func([]byte, any) error) func() error {
			return func() error { return decode(body, new(any)) }
		}
		add("codec-any-"+kind, len(body), []contender.Target{{Figure: contender.Rate, Of: "encoding-json", Min: least}},
			into(ours.Decode), into(json.Unmarshal), into(sonic.Unmarshal))
	}
	for _, size := range []int{256, 16 << 10} {
		name, most := "", []float64{1e9 / 600.0, 1e9 / 1300.0} // asked at 256 bytes: 600 ns and 1.3 µs
		if size > 256 {
			name, most = "-16k", []float64{0, 0}
		}
		m := specimen.Message(size)
		raw, plain := envelope(m)
		writes := func(encode func(any) ([]byte, error)) func() error {
			return func() error { _, err := encode(plain); return err }
		}
		add("envelope-encode"+name, size, absolute(most[0], 1),
			func() error { _, err := kombu.AppendEnvelope(nil, m, specimen.Tag); return err }, writes(json.Marshal), writes(sonic.Marshal))
		reads := func(decode func([]byte, any) error) func() error {
			return func() error { return decode(raw, new(specimen.Envelope)) }
		}
		add("envelope-decode"+name, size, absolute(most[1], 3),
			func() error { return kombu.Decode(raw, new(driver.Incoming)) }, reads(json.Unmarshal), reads(sonic.Unmarshal))
	}
	return suites
}

// absolute are targets that have nothing to do with the others.
func absolute(rate, allocs float64) []contender.Target {
	targets := []contender.Target{{Figure: contender.Allocs, Max: allocs + 0.05}} // what the runtime itself allocates in the meantime
	if rate > 0 {
		targets = append(targets, contender.Target{Figure: contender.Rate, Min: rate})
	}
	return targets
}

// envelope returns a message as Kombu's envelope, and as what others make of it.
func envelope(m *driver.Outgoing) ([]byte, *specimen.Envelope) {
	raw, err := kombu.AppendEnvelope(nil, m, specimen.Tag)
	plain := new(specimen.Envelope)
	if err == nil {
		err = json.Unmarshal(raw, plain)
	}
	if err != nil {
		panic(err) // the specimen is ours
	}
	return raw, plain
}

// ballast is the heap of the program that a codec is part of. With nothing in it
// a heap of a few MB is collected a hundred times a second, and that is measured.
const ballast = 64 << 20

// over repeats f until the time is over, on one goroutine.
func over(f func() error) func(context.Context, contender.Job, *contender.Meter) error {
	return func(_ context.Context, _ contender.Job, m *contender.Meter) error {
		const warm, batch = 64, 16
		heap := make([]byte, ballast)
		defer runtime.KeepAlive(heap)
		for range warm {
			if err := f(); err != nil {
				return err
			}
		}
		if err := m.Start(); err != nil {
			return err
		}
		for !m.Over() {
			for range batch {
				if err := f(); err != nil {
					return err
				}
			}
			m.Add(batch)
		}
		return m.Stop()
	}
}

package loop

import (
	"encoding/json"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/codec"
)

// Bodies is a JSON codec.
type Bodies struct {
	Encode func(v any) ([]byte, error)
	Decode func(data []byte, v any) error
}

// Std is the standard library's.
func Std() Bodies { return Bodies{json.Marshal, json.Unmarshal} }

// Ours is Gombu's default.
func Ours() Bodies {
	c := codec.JSON()
	return Bodies{c.Encode, c.Decode}
}

// A Sink takes what is consumed. It is safe for several goroutines.
type Sink struct {
	job    contender.Job
	meter  *contender.Meter
	bodies Bodies
	flow   *contender.Flow
}

// Handle is what a user's handler does with a body: it decodes it.
func (s *Sink) Handle(body []byte) error {
	if s.job.Raw {
		return nil
	}
	var b contender.Body
	if err := s.bodies.Decode(body, &b); err != nil {
		return err
	}
	s.Decoded(&b)
	return nil
}

// Decoded is Handle for a body that was decoded already.
func (s *Sink) Decoded(b *contender.Body) {
	if s.job.Work == contender.Latency {
		s.meter.Took(since(b.Sent))
	}
}

// Done says that n messages are acknowledged.
func (s *Sink) Done(n int) {
	s.flow.Done(n)
	s.meter.Add(n)
}

// Over says that no more needs to be consumed.
func (s *Sink) Over() bool { return s.meter.Over() }

package ledger

import (
	"errors"

	"github.com/gombu/gombu/driver"
)

// Outcome is what publishing a message came to. Of several for one message the
// highest stays.
type Outcome uint8

// The outcomes.
const (
	Unanswered Outcome = iota // none yet, or the producer died waiting for it
	NotSent                   // surely not at the broker
	Refused                   // the broker, or the library, said no
	Uncertain                 // it may be there
	Confirmed                 // the broker has it: never to be lost
)

// outcomeLetters are the outcomes in the stream.
const outcomeLetters = "-nruc"

// OutcomeOf is the outcome that an error of Publish means. One that says nothing
// about the message is Uncertain.
func OutcomeOf(err error) Outcome {
	switch {
	case err == nil:
		return Confirmed
	case errors.Is(err, driver.ErrUncertain):
		return Uncertain
	case errors.Is(err, driver.ErrNotSent):
		return NotSent
	case errors.Is(err, driver.ErrUnroutable), errors.Is(err, driver.ErrRefused), errors.Is(err, driver.ErrTooLarge), errors.Is(err, driver.ErrInvalid):
		return Refused
	}
	return Uncertain
}

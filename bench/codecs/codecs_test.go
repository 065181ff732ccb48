package codecs

import (
	"testing"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// Every contender reads and writes every specimen, and all that it does is counted.
func TestSuites(t *testing.T) {
	for _, suite := range Suites() {
		for _, c := range suite.Contenders {
			t.Run(suite.Name+"/"+c.Name, func(t *testing.T) {
				job := suite.Job
				job.For, job.Messages = time.Minute, 160
				m := contender.NewMeter(job)
				if err := c.Run(t.Context(), job, m); err != nil {
					t.Fatal(err)
				}
				if n := m.Figures().Messages; n != job.Messages {
					t.Errorf("%d messages", n)
				}
			})
		}
	}
}

package memory

import (
	"testing"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/drivertest"
)

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		New:        func(*testing.T) driver.Connector { return New(Config{}) },
		KeepsExtra: true,
	})
}

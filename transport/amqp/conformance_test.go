package amqp

import (
	"testing"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/drivertest"
)

func TestConformance(t *testing.T) {
	cfg := brokerConfig(t)
	drivertest.Run(t, drivertest.Harness{
		New:  func(*testing.T) driver.Connector { return New(cfg) },
		Kill: kill,
	})
}

// kill ends a connection with what the socket has been given, and without a
// goodbye: the broker reads to the end and finds nobody.
func kill(t *testing.T, c driver.Conn) {
	l := c.(*session).link
	eventually(t, "all is written", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return len(l.pending) == 0 && l.reserved == 0
	})
	if err := l.socket.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
		t.Fatal(err)
	}
}

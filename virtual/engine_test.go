package virtual_test

import (
	"testing"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/driver/drivertest"
	"github.com/gombu/gombu/internal/leak"
)

func TestMain(m *testing.M) { leak.Main(m) }

// The engine over sockets: claimers, pushers, envelopes, shared tables, native
// fan-out. Memory's tests are those of the inline path.
func TestConformance(t *testing.T) {
	for name, make := range map[string]func() *fake{
		"sole":           func() *fake { return newFake(false) },
		"shared":         func() *fake { return newFake(true) },
		"queue by queue": func() *fake { f := newFake(false); f.claimQueues = 1; return f },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var k *killable
			drivertest.Run(t, drivertest.Harness{
				New: func(*testing.T) driver.Connector {
					k = make().killable()
					return k
				},
				Kill:           func(_ *testing.T, c driver.Conn) { k.kill(c) },
				KeepsExtra:     true,
				ImplicitQueues: name == "shared",
			})
		})
	}
}

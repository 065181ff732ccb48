//go:build !race

package codec

import (
	"testing"

	"github.com/gombu/gombu/internal/specimen"
)

// A body costs one allocation to write, none where there is room. To read it costs that of each long
// string, one for every KiB of short ones, and what is asked for: the struct,
// the maps. (With -race a sync.Pool forgets at random.)
func TestAllocations(t *testing.T) {
	c := JSON()
	for kind, most := range map[string]float64{"string": 3, "escapes": 3, "fields": 30, "numbers": 16} {
		body, v := specimen.Body(kind), structs(kind)
		if n := testing.AllocsPerRun(50, func() { _ = c.Decode(body, structs(kind)) }); n > most {
			t.Errorf("%s: %v allocations to read, want at most %v", kind, n, most)
		}
		if err := c.Decode(body, v); err != nil {
			t.Fatal(err)
		}
		if n := testing.AllocsPerRun(50, func() { _, _ = c.Encode(v) }); n > 1 {
			t.Errorf("%s: %v allocations to write, want 1", kind, n)
		}
		room, r := make([]byte, 0, 64<<10), New()
		if n := testing.AllocsPerRun(50, func() { _, _, _, _ = r.Append(room, "json", v) }); n > 0 {
			t.Errorf("%s: %v allocations to write into room, want none", kind, n)
		}
	}
}

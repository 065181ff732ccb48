package kombu

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/specimen"
)

func benchEnvelope(tb testing.TB, size int) []byte {
	raw, err := AppendEnvelope(nil, specimen.Message(size), specimen.Tag)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

var benchSizes = []int{256, 16 << 10}

func BenchmarkEncode(b *testing.B) {
	for _, size := range benchSizes {
		m := specimen.Message(size)
		b.Run(fmt.Sprint(size, "/gombu"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := AppendEnvelope(nil, m, specimen.Tag); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint(size, "/gombu-reused"), func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				buf, _ = AppendEnvelope(buf[:0], m, specimen.Tag)
			}
		})
		b.Run(fmt.Sprint(size, "/encoding-json"), func(b *testing.B) {
			b.ReportAllocs()
			var e specimen.Envelope
			if err := json.Unmarshal(benchEnvelope(b, size), &e); err != nil {
				b.Fatal(err)
			}
			for b.Loop() {
				if _, err := json.Marshal(&e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkDecode(b *testing.B) {
	for _, size := range benchSizes {
		raw := benchEnvelope(b, size)
		b.Run(fmt.Sprint(size, "/gombu"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var in driver.Incoming
				if err := Decode(raw, &in); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint(size, "/encoding-json"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				var e specimen.Envelope
				if err := json.Unmarshal(raw, &e); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// An envelope costs one allocation to write, and two to read: the body, and
// the texts behind it.
func TestAllocations(t *testing.T) {
	for _, size := range benchSizes {
		m, raw := specimen.Message(size), benchEnvelope(t, size)
		if n := testing.AllocsPerRun(100, func() { _, _ = AppendEnvelope(nil, m, specimen.Tag) }); n > 1 {
			t.Errorf("%d bytes: %v allocations to write an envelope, want 1", size, n)
		}
		var in driver.Incoming
		if n := testing.AllocsPerRun(100, func() { _ = Decode(raw, &in) }); n > 2 {
			t.Errorf("%d bytes: %v allocations to read an envelope, want 2", size, n)
		}
	}
}

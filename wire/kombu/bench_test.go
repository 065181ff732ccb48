package kombu

import (
	"encoding/json"
	"fmt"
	"testing"

	"github.com/gombu/gombu/driver"
)

const benchTag = "00000000-0000-4000-8000-000000000001"

func benchMessage(size int) *driver.Outgoing {
	m := driver.Outgoing{Exchange: "media", Key: "video.new", Body: make([]byte, size)}
	m.Props.ContentType, m.Props.ContentEncoding, m.Props.MessageID = "application/json", "utf-8", "0b2f5f7e-1111-4222-8333-444444444444"
	return &m
}

func benchEnvelope(tb testing.TB, size int) []byte {
	raw, err := AppendEnvelope(nil, benchMessage(size), benchTag)
	if err != nil {
		tb.Fatal(err)
	}
	return raw
}

// plainEnvelope is what encoding/json needs to read and write the same.
type plainEnvelope struct {
	Body            []byte         `json:"body"`
	ContentEncoding string         `json:"content-encoding"`
	ContentType     string         `json:"content-type"`
	Headers         map[string]any `json:"headers"`
	Properties      struct {
		MessageID    string `json:"message_id"`
		DeliveryMode int    `json:"delivery_mode"`
		DeliveryInfo struct {
			Exchange   string `json:"exchange"`
			RoutingKey string `json:"routing_key"`
		} `json:"delivery_info"`
		Priority     int    `json:"priority"`
		BodyEncoding string `json:"body_encoding"`
		DeliveryTag  string `json:"delivery_tag"`
	} `json:"properties"`
}

var benchSizes = []int{256, 16 << 10}

func BenchmarkEncode(b *testing.B) {
	for _, size := range benchSizes {
		m := benchMessage(size)
		b.Run(fmt.Sprint(size, "/gombu"), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := AppendEnvelope(nil, m, benchTag); err != nil {
					b.Fatal(err)
				}
			}
		})
		b.Run(fmt.Sprint(size, "/gombu-reused"), func(b *testing.B) {
			b.ReportAllocs()
			var buf []byte
			for b.Loop() {
				buf, _ = AppendEnvelope(buf[:0], m, benchTag)
			}
		})
		b.Run(fmt.Sprint(size, "/encoding-json"), func(b *testing.B) {
			b.ReportAllocs()
			var e plainEnvelope
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
				var e plainEnvelope
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
		m, raw := benchMessage(size), benchEnvelope(t, size)
		if n := testing.AllocsPerRun(100, func() { _, _ = AppendEnvelope(nil, m, benchTag) }); n > 1 {
			t.Errorf("%d bytes: %v allocations to write an envelope, want 1", size, n)
		}
		var in driver.Incoming
		if n := testing.AllocsPerRun(100, func() { _ = Decode(raw, &in) }); n > 2 {
			t.Errorf("%d bytes: %v allocations to read an envelope, want 2", size, n)
		}
	}
}

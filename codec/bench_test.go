package codec

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

// bodies are 16 KiB of each kind of JSON.
func bodies() map[string][]byte {
	const size = 16 << 10
	repeat := func(open, end string, part func(i int) string) []byte {
		var b strings.Builder
		b.WriteString(open)
		for i := 0; b.Len() < size-64; i++ {
			if i > 0 {
				b.WriteString(", ")
			}
			b.WriteString(part(i))
		}
		return []byte(b.String() + end)
	}
	text := func(s string) []byte {
		return []byte(`{"id": 7, "kind": "note", "at": 1700000000.25, "ok": true, "text": "` + strings.Repeat(s, size/len(s)) + `"}`)
	}
	return map[string][]byte{
		"string":  text("The quick brown fox jumps over the lazy dog; "),
		"escapes": text(`l\u00e4ngst \"da\"\n\ud83d\ude00 `),
		"fields": repeat("[", "]", func(i int) string {
			return `{"id": ` + strconv.Itoa(i) + `, "name": "user` + strconv.Itoa(i) + `", "active": true, "score": 0.5, "city": "Oslo"}`
		}),
		"numbers": repeat(`{"values": [`, "]}", func(i int) string {
			if i%2 == 0 {
				return strconv.Itoa(i * 7919)
			}
			return strconv.FormatFloat(float64(i)*1.0625+1e-3, 'g', -1, 64)
		}),
	}
}

type noteBody struct {
	ID   int     `json:"id"`
	Kind string  `json:"kind"`
	At   float64 `json:"at"`
	OK   bool    `json:"ok"`
	Text string  `json:"text"`
}

type userBody struct {
	ID     int     `json:"id"`
	Name   string  `json:"name"`
	Active bool    `json:"active"`
	Score  float64 `json:"score"`
	City   string  `json:"city"`
}

// structs makes what a user would decode each body into.
func structs(kind string) any {
	switch kind {
	case "fields":
		return new([]userBody)
	case "numbers":
		return new(struct{ Values []float64 })
	}
	return new(noteBody)
}

var kinds = []string{"string", "fields", "escapes", "numbers"}

// BenchmarkDecode reads into an any, BenchmarkDecodeStruct into a user's type.
func BenchmarkDecode(b *testing.B) { benchmarkDecode(b, func(string) any { return new(any) }) }

func BenchmarkDecodeStruct(b *testing.B) { benchmarkDecode(b, structs) }

func benchmarkDecode(b *testing.B, target func(kind string) any) {
	for _, kind := range kinds {
		body := bodies()[kind]
		for _, c := range []struct {
			name   string
			decode func([]byte, any) error
		}{{"gombu", JSON().Decode}, {"encoding-json", json.Unmarshal}} {
			b.Run(kind+"/"+c.name, func(b *testing.B) {
				b.ReportAllocs()
				b.SetBytes(int64(len(body)))
				for b.Loop() {
					if err := c.decode(body, target(kind)); err != nil {
						b.Fatal(err)
					}
				}
			})
		}
	}
}

// BenchmarkEncode writes what BenchmarkDecodeStruct read.
func BenchmarkEncode(b *testing.B) {
	for _, form := range []string{"struct", "any"} {
		for _, kind := range kinds {
			v := any(new(any))
			if form == "struct" {
				v = structs(kind)
			}
			if err := json.Unmarshal(bodies()[kind], v); err != nil {
				b.Fatal(err)
			}
			for _, c := range []struct {
				name   string
				encode func(any) ([]byte, error)
			}{{"gombu", JSON().Encode}, {"encoding-json", json.Marshal}} {
				b.Run(form+"/"+kind+"/"+c.name, func(b *testing.B) {
					b.ReportAllocs()
					for b.Loop() {
						if _, err := c.encode(v); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		}
	}
}

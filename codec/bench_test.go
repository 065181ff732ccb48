package codec

import (
	"encoding/json"
	"testing"

	"github.com/gombu/gombu/internal/specimen"
)

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

// BenchmarkDecode reads into an any, BenchmarkDecodeStruct into a user's type.
func BenchmarkDecode(b *testing.B) { benchmarkDecode(b, func(string) any { return new(any) }) }

func BenchmarkDecodeStruct(b *testing.B) { benchmarkDecode(b, structs) }

func benchmarkDecode(b *testing.B, target func(kind string) any) {
	for _, kind := range specimen.Kinds {
		body := specimen.Body(kind)
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
		for _, kind := range specimen.Kinds {
			v := any(new(any))
			if form == "struct" {
				v = structs(kind)
			}
			if err := json.Unmarshal(specimen.Body(kind), v); err != nil {
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

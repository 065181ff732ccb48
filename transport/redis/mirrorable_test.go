package redis

import (
	"strings"
	"testing"
)

func TestMirrorable(t *testing.T) {
	with := func(headers, info string) string {
		return `{"body": "", "headers": ` + headers + `, "properties": {"delivery_info": ` + info + `}}`
	}
	const info = `{"exchange": "", "routing_key": "q"}`
	for text, ok := range map[string]bool{
		envelope("a", 3): true,
		`{"body": "", "properties": {"delivery_info": {}}}`:                                                                             true,
		with(`{"n": 1e5, "l": [1, null, {"a": "b"}]}`, info):                                                                            true,
		with(`{"b": {"__type__": "bytes", "__value__": "x"}, "t": {"__type__": "datetime", "__value__": "2024-01-02T03:04:05"}}`, info): true,
		with(`{"b": {"__type__": "bytes", "__value__": "x", "more": 1}}`, info):                                                         true,
		"garbage":                       false,
		with("null", info):              false,
		with("{}", "null"):              false,
		with("{\"a\": \"\xff\"}", info): false,
		// Seen by Go under another name, by Python not.
		`{"body": "", "headers": null, "Headers": {}, "properties": {"delivery_info": ` + info + `}}`: false,
		// The last of equal names counts.
		`{"body": "", "headers": {}, "properties": {"delivery_info": {}, "delivery_info": null}}`: false,
		// What Python's or Kombu's reader raises at: the sweep would stop there.
		with(`{"n": `+strings.Repeat("9", 5000)+`}`, info):                         false,
		with(`{"x": {"__type__": "nosuch", "__value__": "x"}}`, info):              false,
		with(`{"x": [{"__value__": "never", "__type__": "datetime"}]}`, info):      false,
		with(`{"__type__": "bytes", "__value__": "x"}`, info):                      false,
		with(`{"x": `+strings.Repeat("[", 990)+strings.Repeat("]", 990)+`}`, info): false,
	} {
		if mirrorable(text) != ok {
			t.Errorf("%v for %.150s", !ok, text)
		}
	}
}

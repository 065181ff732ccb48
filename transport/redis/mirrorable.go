package redis

import (
	"encoding/json"
	"strings"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/kjson"
	"github.com/gombu/gombu/wire/kombu"
)

// mirrorable: both Kombus can restore it. Their sweep stops for everybody at a
// text that their json does not load, and loses one in which what it marks as
// redelivered is no table, such as null headers.
func mirrorable(text string) bool {
	var in driver.Incoming
	if len(text) > maxMirrored || !strings.HasPrefix(text, "{") || kombu.Decode([]byte(text), &in) != nil {
		return false
	}
	d := json.NewDecoder(strings.NewReader(text))
	d.UseNumber()
	var top map[string]any
	if d.Decode(&top) != nil || !loadable(top) {
		return false
	}
	headers, has := top["headers"]
	properties, _ := top["properties"].(map[string]any)
	return (!has || isTable(headers)) && isTable(top["properties"]) && isTable(properties["delivery_info"])
}

// maxMirrored bounds the texts that the heartbeat judges and copies: it has one
// second, and the server is held while it copies.
const maxMirrored = 16 << 20

// pythonDigits is how many digits of a whole number Python reads.
const pythonDigits = 4300

// loadable finds numbers that Python refuses, and tagged values (envelope.md
// section 4) that Kombu's reader may: of those only the kinds pass that can be
// told here.
func loadable(v any) bool {
	switch v := v.(type) {
	case json.Number:
		return len(v) <= pythonDigits
	case []any:
		for _, o := range v {
			if !loadable(o) {
				return false
			}
		}
	case map[string]any:
		for _, o := range v {
			if !loadable(o) {
				return false
			}
		}
		if isTagged(v) {
			_, still := kjson.Untag(driver.Headers{{Key: "__type__", Value: v["__type__"]}, {Key: "__value__", Value: v["__value__"]}}).(driver.Headers)
			return !still
		}
	}
	return true
}

func isTagged(v map[string]any) bool {
	_, typed := v["__type__"]
	_, valued := v["__value__"]
	return len(v) == 2 && typed && valued
}

// isTable: it is one after Kombu has read it.
func isTable(v any) bool {
	table, ok := v.(map[string]any)
	return ok && !isTagged(table)
}

package redis

import (
	"bytes"
	"encoding/json"
	"slices"
)

// setFlag returns object with the member at path set to true and every other
// byte unchanged. A table on the way that is missing is not made; text that is
// no object is returned as it is.
func setFlag(object []byte, path ...string) []byte {
	d := json.NewDecoder(bytes.NewReader(object))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return object
	}
	empty := true
	from, to := -1, -1
	var found json.RawMessage
	for d.More() {
		key, err := d.Token()
		if err != nil {
			return object
		}
		empty = false
		var value json.RawMessage
		if err := d.Decode(&value); err != nil {
			return object
		}
		if key == path[0] { // the last of equal keys is the one that readers see
			found, to = value, int(d.InputOffset())
			from = to - len(value)
		}
	}
	if _, err := d.Token(); err != nil {
		return object
	}
	end := int(d.InputOffset()) - 1 // of the closing brace
	switch {
	case len(path) > 1 && from < 0:
		return object
	case len(path) > 1:
		return splice(object, from, to, setFlag(found, path[1:]...))
	case from >= 0:
		return splice(object, from, to, []byte("true"))
	case empty:
		return splice(object, end, end, []byte(`"`+path[0]+`": true`))
	}
	return splice(object, end, end, []byte(`, "`+path[0]+`": true`))
}

func splice(text []byte, from, to int, by []byte) []byte {
	return slices.Concat(text[:from], by, text[to:])
}

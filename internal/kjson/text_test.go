package kjson

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

// Any byte at any place of a word of eight is written and read as it should
// be: by a rune at a time, and by encoding/json.
func FuzzText(f *testing.F) {
	for c := range 256 {
		for at := range 9 {
			f.Add(strings.Repeat("a", at) + string([]byte{byte(c)}) + "bcdefghijk")
		}
	}
	f.Add("\xff\xff\xff\xff\xff\xff\xff\xff\x7f\x80\u00e4\u2028\U0001f600\"\\\n")
	f.Fuzz(func(t *testing.T, text string) {
		want := []byte{'"'}
		for _, r := range text {
			if strconv.IsPrint(r) && r < 0x7f && r != '"' && r != '\\' {
				want = append(want, byte(r))
			} else {
				want = appendEscape(want, r)
			}
		}
		want = append(want, '"')
		got := AppendString(nil, text)
		if string(got) != string(want) {
			t.Fatalf("%q: %s, want %s", text, got, want)
		}
		var plain string
		if err := json.Unmarshal(got, &plain); err != nil {
			t.Fatal(err)
		}
		if s := (Scanner{B: got}); s.String() != plain || s.Err != nil {
			t.Fatalf("%s: %v", got, s.Err)
		}
		raw := []byte(`"` + text + `"`)
		if s := (Scanner{B: raw}); json.Valid(raw) && (string(s.Bytes()) == "" && text != "" || s.Err != nil || s.I != len(raw)) {
			t.Fatalf("%q: stopped at %d, %v", raw, s.I, s.Err)
		}
	})
}

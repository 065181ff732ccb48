package b64

import (
	"bytes"
	"encoding/base64"
	"testing"
)

// Every input is written and read as by encoding/base64.
func FuzzAsStandard(f *testing.F) {
	for _, s := range []string{"", "Y", "YQ", "YQ==", "YWI=", "YWJj", "YWJjZGVmZ2hpamtsbW5vcA==", "YWJjZGVmZ2hp\namtsbW5vcA==", "YWJjZGVmZ2hpamtsbW5vcA==YQ==", "YWJj=GVmZ2hpamts", "YWJjZGVmZ2hpamtsbW5v\r\n", "abcd-_ghijklmnop"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		want := base64.StdEncoding.AppendEncode([]byte("x"), data)
		if got := AppendEncode([]byte("x"), data); !bytes.Equal(got, want) {
			t.Fatalf("%q: %s, want %s", data, got, want)
		}
		if back, err := Decode(want[1:]); err != nil || !bytes.Equal(back, data) {
			t.Fatalf("%q: came back as %q, %v", data, back, err)
		}
		got, err := Decode(data)
		plain := make([]byte, base64.StdEncoding.DecodedLen(len(data)))
		n, theirs := base64.StdEncoding.Decode(plain, data)
		if (err == nil) != (theirs == nil) || err == nil && !bytes.Equal(got, plain[:n]) {
			t.Fatalf("%q: %q, %v; want %q, %v", data, got, err, plain[:n], theirs)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	text := AppendEncode(nil, make([]byte, 16<<10))
	b.Run("gombu", func(b *testing.B) {
		for b.Loop() {
			_, _ = Decode(text)
		}
	})
	b.Run("encoding-base64", func(b *testing.B) {
		for b.Loop() {
			_, _ = base64.StdEncoding.AppendDecode(nil, text)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	body := make([]byte, 16<<10)
	b.Run("gombu", func(b *testing.B) {
		for b.Loop() {
			AppendEncode(nil, body)
		}
	})
	b.Run("encoding-base64", func(b *testing.B) {
		for b.Loop() {
			base64.StdEncoding.AppendEncode(nil, body)
		}
	})
}

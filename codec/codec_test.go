package codec

import (
	"errors"
	"strings"
	"testing"

	"github.com/gombu/gombu/driver"
)

func TestBehaviour90_ContentTypeByValue(t *testing.T) {
	r := New()
	for _, c := range []struct {
		name           string
		v              any
		body, typ, enc string
	}{
		{"", "hé", "hé", "text/plain", "utf-8"},
		{"", []byte{1}, "\x01", "application/data", "binary"},
		{"", map[string]int{"a": 1}, `{"a": 1}`, "application/json", "utf-8"},
		{"json", "x", `"x"`, "application/json", "utf-8"},
		{"raw", "x", "x", "application/data", "utf-8"},
		{"raw", []byte("x"), "x", "application/data", "binary"},
		{"application/json", 1, "1", "application/json", "utf-8"},
	} {
		body, typ, enc, err := r.Encode(c.name, c.v)
		if err != nil || string(body) != c.body || typ != c.typ || enc != c.enc {
			t.Errorf("%q %v: %q %s %s %v", c.name, c.v, body, typ, enc, err)
		}
	}
}

func TestBehaviour100_162_163_UnknownAndFailing(t *testing.T) {
	r := New()
	_, _, _, err := r.Encode("jsn", 1)
	if !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), `"json"`) {
		t.Errorf("unknown serializer: %v", err)
	}
	if _, err := r.Compression("gzp"); !errors.Is(err, driver.ErrInvalid) || !strings.Contains(err.Error(), `"gzip"`) {
		t.Errorf("unknown compression: %v", err)
	}
	if _, _, _, err := r.Encode("json", make(chan int)); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("encoder that fails: %v", err)
	}
	var v any
	if err := r.Decode("application/json", "utf-8", []byte("{"), &v); !errors.Is(err, driver.ErrUndecodable) {
		t.Errorf("decoder that fails: %v", err)
	}
	if err := r.Decode("application/json", "utf-8", []byte(`{"__type__":"x","__value__":1}`), &v); !errors.Is(err, driver.ErrUndecodable) {
		t.Errorf("unknown tag: %v", err)
	}
}

func TestBehaviour102_103_160_Accept(t *testing.T) {
	r := New()
	for _, c := range []struct {
		accept []string
		typ    string
		want   bool
	}{
		{nil, "application/x-anything", true},
		{[]string{}, "application/json", false},
		{[]string{}, "application/data", true},
		{[]string{}, "application/text", true},
		{[]string{}, "", true},
		{[]string{"json"}, "application/json", true},
		{[]string{"application/json"}, "application/json", true},
		{[]string{"json"}, "text/plain", false},
		{[]string{"text/x-own"}, "text/x-own", true},
	} {
		set, err := r.Accept(c.accept)
		if err != nil || set.Has(c.typ) != c.want {
			t.Errorf("%v has %q: %v, %v", c.accept, c.typ, set.Has(c.typ), err)
		}
	}
	if _, err := r.Accept([]string{"pickle"}); !errors.Is(err, driver.ErrInvalid) {
		t.Errorf("unknown accept name: %v", err)
	}
}

func TestBehaviour164_DataByEncoding(t *testing.T) {
	r := New()
	var v any
	for _, c := range []struct {
		typ, enc string
		want     any
	}{
		{"application/x-unknown", "latin-1", "é"},
		{"", "latin-1", "é"},
		{"application/data", "binary", "\xe9"},
		{"application/x-unknown", "binary", "\xe9"},
	} {
		if err := r.Decode(c.typ, c.enc, []byte{0xe9}, &v); err != nil {
			t.Errorf("%+v: %v", c, err)
		}
		if b, ok := v.([]byte); ok {
			v = string(b)
		}
		if v != c.want {
			t.Errorf("%+v: %q", c, v)
		}
	}
	var s string
	if err := r.Decode("text/plain", "utf-8", []byte{0xe9}, &s); !errors.Is(err, driver.ErrUndecodable) {
		t.Errorf("text that is not UTF-8: %v", err)
	}
	var n int
	if err := r.Decode("text/plain", "utf-8", []byte("1"), &n); !errors.Is(err, driver.ErrUndecodable) {
		t.Errorf("text into an int: %v", err)
	}
}

// Parameters of a content type change neither what decodes it nor whether it
// is accepted.
func TestContentTypeParameters(t *testing.T) {
	r := New()
	var n int
	if err := r.Decode("application/json; charset=utf-8", "", []byte("7"), &n); err != nil || n != 7 {
		t.Errorf("%d, %v", n, err)
	}
	var s string
	if err := r.Decode("x/unknown; charset=latin-1", "", []byte{0xe9}, &s); err != nil || s != "é" {
		t.Errorf("%q, %v", s, err)
	}
	set, err := r.Accept([]string{"json"})
	if err != nil || !set.Has("application/json; charset=utf-8") || set.Has("text/plain; x=y") {
		t.Error("accept list", err)
	}
}

// Append writes behind what is there, and leaves that alone when it fails.
func TestAppend(t *testing.T) {
	r := New()
	kept := []byte("kept by its codec")
	r.Register(Codec{Name: "kept", ContentType: "application/x-kept", Encode: func(any) ([]byte, error) { return kept, nil }})
	if got, _, _, err := r.Append(nil, "kept", 1); err != nil || string(got) != string(kept) || &got[0] == &kept[0] {
		t.Errorf("%q, %v: not a copy", got, err)
	}
	for name, v := range map[string]any{"json": map[string]any{"a": 1}, "text": "text", "raw": []byte("raw"), "": []byte("bytes")} {
		want, typ, encoding, err := r.Encode(name, v)
		if err != nil {
			t.Fatal(err)
		}
		for _, dst := range [][]byte{nil, []byte("before"), append(make([]byte, 0, 64), "before"...)} {
			got, typ2, encoding2, err := r.Append(dst, name, v)
			if err != nil || string(got) != string(dst)+string(want) || typ2 != typ || encoding2 != encoding {
				t.Errorf("%q behind %q: %q, %s, %s, %v", name, dst, got, typ2, encoding2, err)
			}
		}
		if got, _, _, err := r.Append([]byte("before"), name, func() {}); err == nil || string(got) != "before" {
			t.Errorf("%q: %q, %v", name, got, err)
		}
	}
}

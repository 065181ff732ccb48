package virtual

import (
	"crypto/rand"
	"encoding/hex"
	mathrand "math/rand/v2"
	"sync"
)

const (
	uuidBytes = 16
	uuidText  = 36
	uuidsMade = 32 // at a time
)

// uuids makes version 4 UUID texts, as many at a time as share a string: they
// are short-lived, and each would be an allocation.
type uuids struct {
	mu     sync.Mutex
	rest   string
	random *mathrand.ChaCha8 // seeded by the system, which need not be asked each time
}

func (u *uuids) next() string {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.rest == "" {
		u.rest = u.makeUUIDs()
	}
	id := u.rest[:uuidText]
	u.rest = u.rest[uuidText:]
	return id
}

func (u *uuids) makeUUIDs() string {
	if u.random == nil {
		var seed [32]byte
		_, _ = rand.Read(seed[:]) // never fails: it ends the program instead
		u.random = mathrand.NewChaCha8(seed)
	}
	var random [uuidBytes * uuidsMade]byte
	_, _ = u.random.Read(random[:])
	var texts [uuidText * uuidsMade]byte
	for i := range uuidsMade {
		id, text := random[i*uuidBytes:][:uuidBytes], texts[i*uuidText:][:uuidText]
		id[6] = id[6]&0x0f | 0x40
		id[8] = id[8]&0x3f | 0x80
		hex.Encode(text[0:], id[0:4])
		hex.Encode(text[9:], id[4:6])
		hex.Encode(text[14:], id[6:8])
		hex.Encode(text[19:], id[8:10])
		hex.Encode(text[24:], id[10:16])
		text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	}
	return string(texts[:])
}

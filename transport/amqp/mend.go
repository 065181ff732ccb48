package amqp

import (
	"encoding/binary"
	"io"
)

// py-amqp writes a whole number that needs more than 32 bits as field type
// 'L' (wire: amqp.md section 2), RabbitMQ passes it on as it is, and amqp091
// knows only the equal 'l': it would end the connection at the first such
// header, again each time the message is redelivered. The mender turns the one
// into the other, in place, in the headers of incoming messages.

const (
	frameHead       = 7 // type, channel, size; AMQP 0-9-1, section 4.2.3
	frameTypeHeader = 2
	mendLimit       = 1 << 20 // a larger header frame passes as it is
	readBuffer      = 64 << 10
)

// A mender reads frames from a stream. It holds back the incomplete frame
// header, or the incomplete content header frame, at the end of what it has.
type mender struct {
	buf  []byte // unread bytes; buf[:done] may go out
	back []byte // the array behind buf
	done int
	skip int // bytes still to come of a frame that needs no look
}

func (m *mender) ready() bool { return m.done > 0 }

// read fills p like io.Reader, from r where it has nothing.
func (m *mender) read(r io.Reader, p []byte) (int, error) {
	for m.done == 0 {
		if m.back == nil {
			m.back = make([]byte, readBuffer)
		}
		// What is held back moves to the front, and the array grows when a
		// frame fills it.
		if len(m.buf) == len(m.back) {
			m.back = append(m.back, make([]byte, len(m.back))...)
		}
		held := copy(m.back, m.buf)
		n, err := r.Read(m.back[held:])
		m.buf = m.back[:held+n]
		m.scan()
		if err != nil && m.done == 0 {
			return 0, err
		}
	}
	n := copy(p, m.buf[:m.done])
	m.buf, m.done = m.buf[n:], m.done-n
	return n, nil
}

// scan sets done behind the last byte that may go out.
func (m *mender) scan() {
	for rest := m.buf[m.done:]; len(rest) > 0; rest = m.buf[m.done:] {
		if m.skip > 0 {
			n := min(m.skip, len(rest))
			m.skip -= n
			m.done += n
			continue
		}
		if len(rest) < frameHead {
			return
		}
		size := int(binary.BigEndian.Uint32(rest[3:]))
		whole := frameHead + size + 1 // the end octet
		if rest[0] != frameTypeHeader || size > mendLimit {
			m.skip = whole
			continue
		}
		if len(rest) < whole {
			return
		}
		mendHeader(rest[frameHead : frameHead+size])
		m.done += whole
	}
}

// mendHeader mends the payload of a content header frame: class, weight, body
// size, property flags, properties (AMQP 0-9-1, section 4.2.6.1).
func mendHeader(p []byte) {
	if len(p) < 14 {
		return
	}
	flags := binary.BigEndian.Uint16(p[12:])
	p = p[14:]
	for _, flag := range []uint16{0x8000, 0x4000} { // content type and encoding
		if flags&flag != 0 {
			if len(p) == 0 || len(p) < 1+int(p[0]) {
				return
			}
			p = p[1+int(p[0]):]
		}
	}
	if flags&0x2000 != 0 {
		mendTable(p, 0)
	}
}

// mendTable mends a table or an array with its length field at the start of p.
func mendTable(p []byte, depth int) { mendFields(p, depth, true) }

func mendFields(p []byte, depth int, keys bool) {
	if len(p) < 4 || depth > maxDepth {
		return
	}
	n := int(binary.BigEndian.Uint32(p))
	if n > len(p)-4 {
		return
	}
	for p = p[4 : 4+n]; len(p) > 0; {
		if keys {
			if len(p) < 2+int(p[0]) {
				return
			}
			p = p[1+int(p[0]):]
		}
		if p[0] == 'L' {
			p[0] = 'l'
		}
		switch p[0] {
		case 'F', 'A':
			mendFields(p[1:], depth+1, p[0] == 'F')
		}
		size := fieldSize(p)
		if size < 0 || size > len(p) {
			return
		}
		p = p[size:]
	}
}

// fieldSize is how many bytes the field at the start of p takes, its type
// included; -1 when the type is unknown or the length cut off.
func fieldSize(p []byte) int {
	switch p[0] {
	case 'V':
		return 1
	case 't', 'b', 'B':
		return 2
	case 's', 'u':
		return 3
	case 'I', 'i', 'f':
		return 5
	case 'D':
		return 6
	case 'l', 'd', 'T':
		return 9
	case 'S', 'x', 'F', 'A':
		if len(p) >= 5 {
			return 5 + int(binary.BigEndian.Uint32(p[1:]))
		}
	}
	return -1
}

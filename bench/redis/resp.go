package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"time"
)

// A wire is the least that a Redis client can be: commands are appended to a
// buffer, which goes out in one write, and replies are read in order. It is for
// one goroutine.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
	stop func() bool
}

// dialWire connects to a redis:// URL. Reads and writes fail once ctx has ended.
func dialWire(ctx context.Context, raw string) (*wire, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	w := &wire{conn: c, in: bufio.NewReaderSize(c, 64<<10)}
	w.stop = context.AfterFunc(ctx, func() { _ = c.SetDeadline(time.Now()) })
	return w, nil
}

func (w *wire) close() {
	w.stop()
	_ = w.conn.Close() // there is nothing more to hear
}

// command begins a command of n words; word and bytes are its words.
func (w *wire) command(n int, name string) {
	w.out = append(strconv.AppendInt(append(w.out, '*'), int64(n), 10), "\r\n"...)
	w.word(name)
}

func (w *wire) length(n int) {
	w.out = append(strconv.AppendInt(append(w.out, '$'), int64(n), 10), "\r\n"...)
}

func (w *wire) word(s string) {
	w.length(len(s))
	w.out = append(append(w.out, s...), "\r\n"...)
}

func (w *wire) bytes(b []byte) {
	w.length(len(b))
	w.out = append(append(w.out, b...), "\r\n"...)
}

func (w *wire) flush() error {
	_, err := w.conn.Write(w.out)
	w.out = w.out[:0]
	return err
}

var errProtocol = errors.New("not a reply of Redis")

// line reads the type of a reply and its number; -1 is none. For a simple
// string the number is 0.
func (w *wire) line() (byte, int, error) {
	b, err := w.in.ReadSlice('\n')
	if err != nil {
		return 0, 0, err
	}
	if len(b) < 3 {
		return 0, 0, errProtocol
	}
	kind, text := b[0], b[1:len(b)-2]
	switch kind {
	case '-':
		return 0, 0, fmt.Errorf("redis: %s", text)
	case '+':
		return kind, 0, nil
	}
	n, negative := 0, false
	for i, c := range text {
		switch {
		case c == '-' && i == 0:
			negative = true
		case c < '0' || c > '9':
			return 0, 0, errProtocol
		default:
			n = 10*n + int(c-'0')
		}
	}
	if negative {
		n = -1
	}
	return kind, n, nil
}

// number reads an integer reply, which nobody wants to know.
func (w *wire) number() error {
	kind, _, err := w.line()
	if err == nil && kind != ':' {
		err = errProtocol
	}
	return err
}

// array reads the head of an array; -1: it is none.
func (w *wire) array() (int, error) {
	kind, n, err := w.line()
	if err == nil && kind != '*' {
		err = errProtocol
	}
	return n, err
}

// text appends a bulk string to dst.
func (w *wire) text(dst []byte) ([]byte, error) {
	kind, n, err := w.line()
	if err != nil {
		return dst, err
	}
	if kind != '$' || n < 0 {
		return dst, errProtocol
	}
	have := len(dst)
	for cap(dst)-have < n+2 {
		dst = append(dst[:cap(dst)], 0)
	}
	dst = dst[:have+n+2]
	for at := have; at < len(dst); {
		k, err := w.in.Read(dst[at:])
		if err != nil {
			return dst[:have], err
		}
		at += k
	}
	return dst[:have+n], nil
}

package growth

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"
)

// A wire is a connection with a command under way at most.
type wire struct {
	net.Conn
	in     *bufio.Reader
	closed chan struct{}
}

func dialWire(ctx context.Context, addr string) (*wire, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	return &wire{conn, bufio.NewReaderSize(conn, 1024), make(chan struct{})}, nil
}

func (w *wire) close() {
	close(w.closed)
	_ = w.Close() // nothing is under way that matters
}

// rest waits, unless the wire is closed.
func (w *wire) rest(d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-w.closed:
		return net.ErrClosed
	}
}

// do returns a simple reply as text; none is empty.
func (w *wire) do(args ...string) (string, error) {
	out := fmt.Appendf(nil, "*%d\r\n", len(args))
	for _, a := range args {
		out = fmt.Appendf(out, "$%d\r\n%s\r\n", len(a), a)
	}
	if _, err := w.Write(out); err != nil {
		return "", err
	}
	line, err := w.in.ReadString('\n')
	if err != nil {
		return "", err
	}
	line = strings.TrimSuffix(line, "\r\n")
	switch line[:min(1, len(line))] {
	case ":", "+":
		return line[1:], nil
	case "*":
		return "", nil // of nothing
	case "$":
		n, err := strconv.Atoi(line[1:])
		if err != nil || n < 0 {
			return "", err
		}
		text := make([]byte, n+2)
		_, err = io.ReadFull(w.in, text)
		return string(text[:n]), err
	}
	return "", errors.New(line)
}

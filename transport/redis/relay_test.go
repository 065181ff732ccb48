package redis

import (
	"bufio"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
)

// relay copies between what l accepts and backend until the test ends.
func relay(t testing.TB, l net.Listener, backend string) {
	relayBy(t, l, backend, func(front, back net.Conn) {
		var wg sync.WaitGroup
		wg.Go(func() { _, _ = io.Copy(back, front); back.Close() })
		_, _ = io.Copy(front, back)
		front.Close()
		wg.Wait()
	})
}

// relayBy has pass carry what goes between them; it closes both. No
// backend: there is only front.
func relayBy(t testing.TB, l net.Listener, backend string, pass func(front, back net.Conn)) {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var open []net.Conn
	ended := false
	keep := func(c net.Conn) {
		mu.Lock()
		defer mu.Unlock()
		open = append(open, c)
		if ended {
			c.Close()
		}
	}
	wg.Go(func() {
		for {
			front, err := l.Accept()
			if err != nil {
				return
			}
			var back net.Conn
			if backend != "" {
				if back, err = net.Dial("tcp", backend); err != nil {
					front.Close()
					continue
				}
				keep(back)
			}
			keep(front)
			wg.Go(func() { pass(front, back) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		mu.Lock()
		ended = true
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
}

// serve answers every command by itself.
func serve(t testing.TB, l net.Listener, answer func(args []string) string) {
	relayBy(t, l, "", func(front, _ net.Conn) {
		defer front.Close()
		for r := bufio.NewReader(front); ; {
			args, _, err := readCommand(r)
			if err != nil {
				return
			}
			if _, err := io.WriteString(front, answer(args)); err != nil {
				return
			}
		}
	})
}

// readCommand reads one command and its text.
func readCommand(r *bufio.Reader) (args []string, text string, err error) {
	text, err = r.ReadString('\n')
	n, _ := strconv.Atoi(strings.Trim(text, "*\r\n"))
	for range n {
		head, e := r.ReadString('\n')
		if e != nil {
			return nil, "", e
		}
		size, _ := strconv.Atoi(strings.Trim(head, "$\r\n"))
		body := make([]byte, size+2)
		if _, e := io.ReadFull(r, body); e != nil {
			return nil, "", e
		}
		args, text = append(args, string(body[:size])), text+head+string(body)
	}
	return args, text, err
}

// readReply reads one answer with what the server pushed before it.
func readReply(r *bufio.Reader) (string, error) {
	text, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	n, _ := strconv.Atoi(strings.TrimRight(text[1:], "\r\n"))
	kind := text[0]
	switch kind {
	case '$', '=', '!':
		if n >= 0 {
			body := make([]byte, n+2)
			_, err = io.ReadFull(r, body)
			text += string(body)
		}
		return text, err
	case '%', '|':
		n *= 2
	case '*', '~', '>':
	default:
		return text, nil
	}
	for range n {
		part, err := readReply(r)
		if err != nil {
			return "", err
		}
		text += part
	}
	if kind == '>' || kind == '|' {
		part, err := readReply(r)
		return text + part, err
	}
	return text, nil
}

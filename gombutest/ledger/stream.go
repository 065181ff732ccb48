package ledger

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"sync"
)

// The stream is lines, one a fact, of letters and decimal numbers between single
// spaces, so that a program in any language can write it:
//
//	s PRODUCER SEQ TIME           sent
//	o PRODUCER SEQ TIME OUTCOME   c confirmed, u uncertain, r refused, n not sent
//	b PRODUCER SEQ TIME ATTEMPT   a handler began
//	h PRODUCER SEQ TIME           handled
//	a PRODUCER SEQ TIME OK        acknowledged: 1, or 0 when that failed
//	# TEXT                        a note to whoever reads
//
// TIME is Unix time in microseconds. A line without its end was not written.

// A Writer writes a stream: a line a write, so that what it was told before the
// process died is in the pipe. It is a Recorder.
type Writer struct {
	mu     sync.Mutex
	w      io.Writer
	broken func(error)
	buf    []byte
}

// NewWriter makes a writer. broken is called, once for each line that could not
// be written, by the goroutine that told it; nil: such lines are forgotten.
func NewWriter(w io.Writer, broken func(error)) *Writer {
	if broken == nil {
		broken = func(error) {}
	}
	return &Writer{w: w, broken: broken}
}

// Sent implements Recorder.
func (w *Writer) Sent(id ID) { w.line('s', id, "") }

// Outcome implements Recorder.
func (w *Writer) Outcome(id ID, err error) {
	o := OutcomeOf(err)
	w.line('o', id, outcomeLetters[o:o+1])
}

// Started implements Recorder.
func (w *Writer) Started(id ID, attempt int) { w.line('b', id, strconv.Itoa(attempt)) }

// Handled implements Recorder.
func (w *Writer) Handled(id ID) { w.line('h', id, "") }

// Settled implements Recorder.
func (w *Writer) Settled(id ID, err error) {
	ok := "1"
	if err != nil {
		ok = "0"
	}
	w.line('a', id, ok)
}

// Note writes text, on one line.
func (w *Writer) Note(text string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.buf = append(w.buf[:0], "# "...)
	w.buf = append(w.buf, strings.Map(func(r rune) rune {
		if r == '\n' || r == '\r' {
			return ' '
		}
		return r
	}, text)...)
	w.write()
}

func (w *Writer) line(verb byte, id ID, arg string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	b := append(w.buf[:0], verb, ' ')
	b = strconv.AppendInt(b, int64(id.Producer), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, int64(id.Seq), 10)
	b = append(b, ' ')
	b = strconv.AppendInt(b, now(), 10)
	if arg != "" {
		b = append(append(b, ' '), arg...)
	}
	w.buf = b
	w.write()
}

func (w *Writer) write() {
	w.buf = append(w.buf, '\n')
	if _, err := w.w.Write(w.buf); err != nil {
		w.broken(err)
	}
}

// Read takes in a stream until it ends, which is no error; a line that is none
// of the stream's is. note gets the notes, on this goroutine; nil drops them.
func (s *Source) Read(r io.Reader, note func(string)) error {
	in := bufio.NewReaderSize(r, 1<<16)
	for {
		line, err := in.ReadBytes('\n')
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		line = bytes.TrimRight(line, "\r\n")
		if text, ok := bytes.CutPrefix(line, []byte("# ")); ok {
			if note != nil {
				note(string(text))
			}
			continue
		}
		if err := s.take(line); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
}

// take enters one line.
func (s *Source) take(line []byte) error {
	bad := func() error { return fmt.Errorf("not a line of a ledger: %.80q", line) }
	parts := strings.Split(string(line), " ")
	if len(parts) < 4 || len(parts[0]) != 1 {
		return bad()
	}
	var n [3]int64
	for i := range n {
		v, err := strconv.ParseInt(parts[i+1], 10, 64)
		if err != nil {
			return bad()
		}
		n[i] = v
	}
	id, at, arg := ID{int(n[0]), int(n[1])}, n[2], ""
	if len(parts) > 4 {
		arg = parts[4]
	}
	switch parts[0] {
	case "s":
		s.l.sent(id, at)
	case "o":
		o := strings.Index(outcomeLetters, arg)
		if len(arg) != 1 || o < 1 {
			return bad()
		}
		s.l.outcome(id, Outcome(o), at)
	case "b":
		attempt, err := strconv.Atoi(arg)
		if err != nil {
			return bad()
		}
		s.started(id, attempt, at)
	case "h":
		s.l.handled(id, at)
	case "a":
		s.l.acked(id, arg == "1", at)
	default:
		return bad()
	}
	return nil
}

package amqp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

const (
	bufferLimit = 1 << 20  // bytes waiting for the socket before reserve waits
	writeChunk  = 32 << 10 // bytes given to the socket under one deadline
	spareLimit  = 4 << 20  // a larger buffer is not kept for the next time
)

// A link is what amqp091 gets for a connection. amqp091 writes while it holds
// the connection's mutex and knows no deadlines, so Write only copies into memory;
// one flusher gives that to the socket, in big pieces, and ends the link when
// the peer reads nothing for a whole timeout. Read mends what amqp091 could
// not parse (see mend), ends the link when the peer is silent for too long, and
// tells the senders when amqp091 is through with all that came.
//
// It has no SetReadDeadline: amqp091 would wake a goroutine of its own for
// every frame to call that.
//
// The memory is bounded because whoever starts a write (not a reply) reserves
// room first, where it can wait under its own context.
type link struct {
	conn    net.Conn
	socket  net.Conn // under conn, without its TLS
	timeout time.Duration
	silence atomic.Int64 // how long the peer may be silent, in nanoseconds; 0: for ever
	in      mender
	idle    atomic.Pointer[[]chan struct{}] // told before each wait for input

	mu        sync.Mutex
	pending   []byte        // not yet given to the socket
	reserved  int           // promised to callers that have not written yet
	queued    int64         // bytes ever taken by Write
	attempted int64         // bytes ever given to the socket, those of a failed write included
	blocked   bool          // the broker said that it reads nothing for now
	err       error         // why the link is over
	waiting   bool          // somebody waits for room
	room      chan struct{} // closed when there is some, or an end
	work      chan struct{} // one token: the flusher has something to do
}

func newLink(conn, socket net.Conn, timeout time.Duration) *link {
	l := &link{
		conn: conn, socket: socket, timeout: timeout,
		room: make(chan struct{}), work: make(chan struct{}, 1),
	}
	l.idle.Store(&[]chan struct{}{})
	return l
}

// reserve waits until n more bytes may be written. It lets in anyone while the
// buffer is below its limit, so that a message larger than the limit is not
// starved by small ones.
func (l *link) reserve(ctx context.Context, n int) error {
	for {
		l.mu.Lock()
		if l.err != nil {
			l.mu.Unlock()
			return l.err
		}
		if len(l.pending)+l.reserved < bufferLimit {
			l.reserved += n
			l.pending = slices.Grow(l.pending, n) // a large body arrives in frames
			l.mu.Unlock()
			return nil
		}
		l.waiting = true
		room := l.room
		l.mu.Unlock()
		select {
		case <-ctx.Done():
			return cause(ctx)
		case <-room:
		}
	}
}

// tryReserve is reserve without the wait.
func (l *link) tryReserve(n int) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.err != nil || len(l.pending)+l.reserved >= bufferLimit {
		return false
	}
	l.reserved += n
	l.pending = slices.Grow(l.pending, n)
	return true
}

// release gives a reservation back, after the write that it was made for.
func (l *link) release(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.reserved -= n
	l.makeRoom()
}

// makeRoom wakes those that wait in reserve; l.mu is held.
func (l *link) makeRoom() {
	if l.waiting && (l.err != nil || len(l.pending)+l.reserved < bufferLimit) {
		close(l.room)
		l.room, l.waiting = make(chan struct{}), false
	}
}

// position is where in the stream the next byte written will stand.
func (l *link) position() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.queued
}

// reached says whether the byte at position p may have reached the socket.
func (l *link) reached(p int64) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return p < l.attempted
}

// Write copies; it never blocks.
func (l *link) Write(p []byte) (int, error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return 0, l.err
	}
	l.pending = append(l.pending, p...)
	l.queued += int64(len(p))
	l.mu.Unlock()
	tell(l.work)
	return len(p), nil
}

// flush is the flusher. It returns when the link is over.
func (l *link) flush() {
	var spare []byte
	for range l.work {
		l.mu.Lock()
		if l.err != nil {
			l.mu.Unlock()
			return
		}
		batch := l.pending
		l.pending = spare[:0]
		l.reserved += len(batch) // still to be written, so still no room
		l.mu.Unlock()
		if err := l.writeOut(batch); err != nil {
			l.end(err)
			return
		}
		spare = batch
		if cap(spare) > spareLimit {
			spare = nil
		}
	}
}

func (l *link) writeOut(batch []byte) error {
	for len(batch) > 0 {
		chunk := batch[:min(len(batch), writeChunk)]
		l.mu.Lock()
		l.attempted += int64(len(chunk))
		l.setDeadline()
		l.mu.Unlock()
		if _, err := l.conn.Write(chunk); err != nil {
			if ne, ok := errors.AsType[net.Error](err); ok && ne.Timeout() {
				err = fmt.Errorf("the broker read nothing for %v: %w", l.timeout, err)
			}
			return err
		}
		batch = batch[len(chunk):]
		l.release(len(chunk))
	}
	return nil
}

// setDeadline gives the write that is under way, or starts next, a whole
// timeout; none while the broker is blocked. l.mu is held: a deadline set is
// memory, no I/O.
func (l *link) setDeadline() {
	t := time.Time{}
	if !l.blocked {
		t = time.Now().Add(l.timeout)
	}
	// A connection that cannot set one fails its writes too.
	_ = l.conn.SetWriteDeadline(t)
}

// setBlocked suspends the write deadline: a broker in an alarm reads nothing
// from publishers for as long as it lasts, and says so.
func (l *link) setBlocked(blocked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.blocked = blocked
	if l.err == nil {
		l.setDeadline()
	}
}

// end closes the socket; the first err is kept.
func (l *link) end(err error) {
	l.mu.Lock()
	if l.err != nil {
		l.mu.Unlock()
		return
	}
	l.err = err
	l.makeRoom()
	l.mu.Unlock()
	tell(l.work) // the flusher is to see it
	// What was not flushed is lost with the session, and counted as not sent.
	// A TLS connection's own Close would first write a farewell and wait for it.
	_ = l.socket.Close()
}

// failed is why the link is over, nil while it is not.
func (l *link) failed() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.err
}

// Close closes the socket at once.
func (l *link) Close() error {
	l.end(net.ErrClosed)
	return nil
}

// Read is amqp091's reader asking for more: it is through with all before.
func (l *link) Read(p []byte) (int, error) {
	if !l.in.ready() {
		for _, c := range *l.idle.Load() {
			tell(c)
		}
	}
	n, err := l.in.read((*input)(l), p)
	if err != nil {
		l.end(err)
	}
	return n, err
}

// input is the link's socket, as the mender reads it.
type input link

func (in *input) Read(p []byte) (int, error) {
	(*link)(in).awaitSign()
	return in.conn.Read(p)
}

// awaitSign gives the peer a whole silence from now on.
func (l *link) awaitSign() {
	if d := time.Duration(l.silence.Load()); d > 0 {
		// A connection that cannot set one fails its reads too.
		_ = l.conn.SetReadDeadline(time.Now().Add(d))
	}
}

// endAfter ends the link when the peer is silent for d, from now on.
func (l *link) endAfter(d time.Duration) {
	l.silence.Store(int64(d))
	l.awaitSign() // also for the read that is under way
}

// LocalAddr and RemoteAddr are the socket's; amqp091 asks for them.
func (l *link) LocalAddr() net.Addr  { return l.conn.LocalAddr() }
func (l *link) RemoteAddr() net.Addr { return l.conn.RemoteAddr() }

// onIdle registers c; the returned function takes it back.
func (l *link) onIdle(c chan struct{}) (forget func()) {
	l.changeIdle(func(list []chan struct{}) []chan struct{} { return append(list, c) })
	return func() {
		l.changeIdle(func(list []chan struct{}) []chan struct{} {
			kept := list[:0]
			for _, e := range list {
				if e != c {
					kept = append(kept, e)
				}
			}
			return kept
		})
	}
}

func (l *link) changeIdle(change func([]chan struct{}) []chan struct{}) {
	for {
		old := l.idle.Load()
		list := change(append([]chan struct{}(nil), *old...))
		if l.idle.CompareAndSwap(old, &list) {
			return
		}
	}
}

// tell puts a token where there is none yet.
func tell(token chan struct{}) {
	select {
	case token <- struct{}{}:
	default:
	}
}

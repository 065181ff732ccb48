package rabbitmq

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"

	"github.com/gombu/gombu/bench/contender"
)

// limit is what is left when a client library is not there: frames written by
// hand into one buffer, acks of all that one read brought in one write. It
// knows channel 1 and one queue, and nothing that could go wrong.
var limit = client{name: "limit", publisher: newWirePublisher, consumer: wireConsumerOf(false)}

// limitMulti acknowledges all that one read brought with a single frame.
var limitMulti = client{name: "limit-multi", publisher: newWirePublisher, consumer: wireConsumerOf(true)}

const (
	frameMax   = 131072
	writeSize  = 32 << 10
	frameEnd   = 0xCE
	methodType = 1
	headerType = 2
	bodyType   = 3
)

// A wire is a connection with channel 1 open.
type wire struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
	body []byte // of the frame that was read last
}

func dialWire(ctx context.Context, job *contender.Job) (*wire, error) {
	u, err := url.Parse(job.URL)
	if err != nil {
		return nil, err
	}
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.Host)
	if err != nil {
		return nil, err
	}
	w := &wire{conn: c, in: bufio.NewReaderSize(c, 64<<10), out: make([]byte, 0, 2*writeSize)}
	password, _ := u.User.Password()
	w.out = append(w.out, "AMQP\x00\x00\x09\x01"...)
	steps := []struct {
		class, method uint16 // wanted
		answer        func()
	}{
		{10, 10, func() { // start: start-ok
			w.method(0, 10, 11, func(b []byte) []byte {
				b = append(b, 0, 0, 0, 0) // no properties
				b = short(b, "PLAIN")
				plain := "\x00" + u.User.Username() + "\x00" + password
				b = append(binary.BigEndian.AppendUint32(b, uint32(len(plain))), plain...)
				return short(b, "en_US")
			})
		}},
		{10, 30, func() { // tune: tune-ok, open
			w.method(0, 10, 31, func(b []byte) []byte { return append(b, 0, 1, 0, 2, 0, 0, 0, 0) })
			w.method(0, 10, 40, func(b []byte) []byte { return append(short(b, "/"), 0, 0) })
		}},
		{10, 41, func() { w.method(1, 20, 10, func(b []byte) []byte { return append(b, 0) }) }}, // open-ok: channel.open
		{20, 11, func() {}}, // channel.open-ok
	}
	for _, s := range steps {
		if err := w.call(s.class, s.method); err != nil {
			return nil, errors.Join(err, c.Close())
		}
		s.answer()
	}
	return w, nil
}

func short(b []byte, s string) []byte { return append(append(b, byte(len(s))), s...) }

// method appends a method's frame.
func (w *wire) method(channel, class, method uint16, args func([]byte) []byte) {
	at := len(w.out)
	w.out = binary.BigEndian.AppendUint16(append(w.out, methodType), channel)
	w.out = append(w.out, 0, 0, 0, 0)
	w.out = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(w.out, class), method)
	w.out = args(w.out)
	binary.BigEndian.PutUint32(w.out[at+3:], uint32(len(w.out)-at-7))
	w.out = append(w.out, frameEnd)
}

func (w *wire) write() error {
	if len(w.out) == 0 {
		return nil
	}
	_, err := w.conn.Write(w.out)
	w.out = w.out[:0]
	return err
}

// call writes what there is and waits for a method.
func (w *wire) call(class, method uint16) error {
	if err := w.write(); err != nil {
		return err
	}
	typ, err := w.read()
	if err != nil {
		return err
	}
	if typ != methodType || binary.BigEndian.Uint16(w.body) != class || binary.BigEndian.Uint16(w.body[2:]) != method {
		return fmt.Errorf("not %d.%d but a frame %d of %q", class, method, typ, w.body)
	}
	return nil
}

// read reads a frame, of any channel.
func (w *wire) read() (typ byte, err error) {
	head, err := w.in.Peek(7)
	if err != nil {
		return 0, err
	}
	typ = head[0]
	size := int(binary.BigEndian.Uint32(head[3:])) + 1
	if size > frameMax {
		return 0, fmt.Errorf("a frame of %d bytes", size)
	}
	if _, err := w.in.Discard(7); err != nil {
		return 0, err
	}
	if cap(w.body) < size {
		w.body = make([]byte, size, 2*size)
	}
	w.body = w.body[:size]
	if _, err := io.ReadFull(w.in, w.body); err != nil {
		return 0, err
	}
	w.body = w.body[:size-1]
	return typ, nil
}

// A wirePublisher writes when 32 KiB are together, or when it has to wait.
type wirePublisher struct {
	*wire
	job    *contender.Job
	before []byte // the publish frame, and the header's up to the size
	after  []byte // the rest of the header

	wg     sync.WaitGroup // reads confirms
	mu     sync.Mutex
	cond   sync.Cond
	sent   uint64
	low    uint64              // all up to it are confirmed
	ahead  map[uint64]struct{} // and these beyond it
	failed error
}

func newWirePublisher(ctx context.Context, job *contender.Job) (publisher, error) {
	w, err := dialWire(ctx, job)
	if err != nil {
		return nil, err
	}
	p := &wirePublisher{wire: w, job: job, ahead: map[uint64]struct{}{}}
	p.cond.L = &p.mu
	mandatory, mode := byte(0), byte(1)
	if job.Confirm {
		mandatory, mode = 1, 2
		w.method(1, 85, 10, func(b []byte) []byte { return append(b, 0) })
		if err := w.call(85, 11); err != nil {
			return nil, err
		}
		p.wg.Go(p.confirms)
	}
	w.method(1, 60, 40, func(b []byte) []byte { return append(short(append(b, 0, 0, 0), job.Queues[0]), mandatory) })
	props := short(short([]byte{0xD0, 0}, "application/json"), "utf-8")
	props = append(props, mode)
	w.out = append(w.out, headerType, 0, 1)
	w.out = binary.BigEndian.AppendUint32(w.out, uint32(12+len(props)))
	w.out = append(w.out, 0, 60, 0, 0)
	p.before, w.out = append([]byte(nil), w.out...), w.out[:0]
	p.after = append(props, frameEnd)
	return p, nil
}

func (p *wirePublisher) send(_ context.Context, body []byte) error {
	p.out = append(p.out, p.before...)
	p.out = binary.BigEndian.AppendUint64(p.out, uint64(len(body)))
	p.out = append(p.out, p.after...)
	for rest := body; len(rest) > 0; {
		part := rest[:min(len(rest), frameMax-8)]
		p.out = append(p.out, bodyType, 0, 1)
		p.out = binary.BigEndian.AppendUint32(p.out, uint32(len(part)))
		p.out = append(append(p.out, part...), frameEnd)
		rest = rest[len(part):]
	}
	if len(p.out) >= writeSize || p.job.Rate > 0 {
		if err := p.write(); err != nil {
			return err
		}
	}
	if !p.job.Confirm {
		return nil
	}
	return p.room(uint64(max(p.job.Window, 1)))
}

// room counts one more, and waits until fewer than so many are unconfirmed.
func (p *wirePublisher) room(window uint64) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent++
	return p.below(window)
}

// below waits, under the lock, for the confirms to come.
func (p *wirePublisher) below(n uint64) error {
	if p.open() < n {
		return p.failed
	}
	p.mu.Unlock()
	err := p.write()
	p.mu.Lock()
	for err == nil && p.failed == nil && p.open() >= n {
		p.cond.Wait()
	}
	return errors.Join(err, p.failed)
}

// open is how many are unconfirmed.
func (p *wirePublisher) open() uint64 { return p.sent - p.low - uint64(len(p.ahead)) }

// confirms reads acks; the sender is woken when no more are here.
func (p *wirePublisher) confirms() {
	for {
		err := p.confirm()
		if err != nil || p.in.Buffered() == 0 {
			p.mu.Lock()
			if p.failed == nil {
				p.failed = err
			}
			p.cond.Signal()
			p.mu.Unlock()
		}
		if err != nil {
			return
		}
	}
}

func (p *wirePublisher) confirm() error {
	typ, err := p.read()
	if err != nil {
		return err
	}
	if typ != methodType || len(p.body) != 13 || p.body[1] != 60 || p.body[3] != 80 {
		return fmt.Errorf("not an ack but a frame %d of %q", typ, p.body)
	}
	tag := binary.BigEndian.Uint64(p.body[4:])
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.body[12]&1 == 0 && tag != p.low+1 {
		p.ahead[tag] = struct{}{}
		return nil
	}
	for t := range p.ahead {
		if t <= tag {
			delete(p.ahead, t)
		}
	}
	for p.low = tag; len(p.ahead) > 0; p.low++ {
		if _, ok := p.ahead[p.low+1]; !ok {
			break
		}
		delete(p.ahead, p.low+1)
	}
	return nil
}

func (p *wirePublisher) flush(context.Context) error {
	if err := p.write(); err != nil || !p.job.Confirm {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.below(1)
}

// close makes sure that the broker has read everything.
func (p *wirePublisher) close() error {
	var err error
	if !p.job.Confirm {
		p.method(0, 10, 50, func(b []byte) []byte { return append(b, 0, 0, 0, 0, 0, 0, 0) })
		err = p.call(10, 51)
	}
	err = errors.Join(err, p.conn.Close())
	p.wg.Wait()
	return err
}

// A wireConsumer reads, handles and acknowledges in one goroutine.
type wireConsumer struct {
	*wire
	multiple bool
	wg       sync.WaitGroup
	closing  chan struct{}
	err      error
}

func wireConsumerOf(multiple bool) func(context.Context, *contender.Job) (consumer, error) {
	return func(ctx context.Context, job *contender.Job) (consumer, error) {
		w, err := dialWire(ctx, job)
		if err != nil {
			return nil, err
		}
		w.method(1, 60, 10, func(b []byte) []byte {
			return append(binary.BigEndian.AppendUint16(append(b, 0, 0, 0, 0), uint16(job.Prefetch)), 0)
		})
		if err := w.call(60, 11); err != nil {
			return nil, err
		}
		w.method(1, 60, 20, func(b []byte) []byte {
			return append(short(append(b, 0, 0), job.Queues[0]), 0, 0, 0, 0, 0, 0) // tag, bits, no arguments
		})
		return &wireConsumer{wire: w, multiple: multiple, closing: make(chan struct{})}, nil
	}
}

func (k *wireConsumer) start(_ context.Context, handle func([]byte) error) error {
	if err := k.call(60, 21); err != nil {
		return err
	}
	k.wg.Go(func() {
		for k.err == nil {
			k.err = k.next(handle)
		}
		select {
		case <-k.closing:
			k.err = nil
		default:
		}
	})
	return nil
}

// next handles one delivery; acks are written when no more are here.
func (k *wireConsumer) next(handle func([]byte) error) error {
	if _, err := k.read(); err != nil {
		return err
	}
	if k.body[1] != 60 || k.body[3] != 60 {
		return fmt.Errorf("not a delivery but %q", k.body)
	}
	tag := binary.BigEndian.Uint64(k.body[5+int(k.body[4]):])
	if _, err := k.read(); err != nil {
		return err
	}
	size := int(binary.BigEndian.Uint64(k.body[4:]))
	if _, err := k.read(); err != nil {
		return err
	}
	if len(k.body) != size {
		return fmt.Errorf("a body of %d bytes in several frames", size) // no job has one
	}
	if err := handle(k.body); err != nil {
		return err
	}
	last := k.in.Buffered() == 0
	if !k.multiple || last || len(k.body) > writeSize {
		k.out = append(k.out, methodType, 0, 1, 0, 0, 0, 13, 0, 60, 0, 80)
		k.out = binary.BigEndian.AppendUint64(k.out, tag)
		bits := byte(0)
		if k.multiple {
			bits = 1
		}
		k.out = append(k.out, bits, frameEnd)
	}
	if last || len(k.out) >= writeSize {
		return k.write()
	}
	return nil
}

func (k *wireConsumer) close() error {
	close(k.closing)
	err := k.conn.Close()
	k.wg.Wait()
	return errors.Join(k.err, err)
}

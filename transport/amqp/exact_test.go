package amqp

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/gombu/gombu/driver"
)

// A mime is a broker for the exact time of a bubble, on a pipe: it answers so
// many methods, and then none; deaf, it does not even read them, so that what is
// written to it blocks at once.
type mime struct {
	answers atomic.Int64
	deaf    atomic.Bool
	closed  chan struct{}
	wg      sync.WaitGroup
}

// answers of a broker, by class and method, with a zero byte where a name or a
// table is empty (AMQP 0-9-1, section 1).
var mimicked = map[uint32]string{
	0x000a000b: "\x00\x0a\x00\x1e\x07\xff\x00\x02\x00\x00\x00\x00",                                   // start-ok: tune
	0x000a0028: "\x00\x0a\x00\x29\x00",                                                               // open: open-ok
	0x000a0032: "\x00\x0a\x00\x33",                                                                   // close: close-ok
	0x0014000a: "\x00\x14\x00\x0b\x00\x00\x00\x00",                                                   // channel.open: open-ok
	0x00140028: "\x00\x14\x00\x29",                                                                   // channel.close: close-ok
	0x0032000a: "\x00\x32\x00\x0b\x01q\x00\x00\x00\x00\x00\x00\x00\x00",                              // queue.declare: declare-ok
	0x003c000a: "\x00\x3c\x00\x0b",                                                                   // basic.qos: qos-ok
	0x003c0014: "\x00\x3c\x00\x15\x01t",                                                              // basic.consume: consume-ok
	0x0055000a: "\x00\x55\x00\x0b",                                                                   // confirm.select: select-ok
	0x414d5150: "\x00\x0a\x00\x0a\x00\x09\x00\x00\x00\x00\x00\x00\x00\x05PLAIN\x00\x00\x00\x05en_US", // the protocol header: start
}

func (m *mime) dial(context.Context, string, string) (net.Conn, error) {
	near, far := net.Pipe()
	m.wg.Go(func() {
		defer far.Close()
		m.serve(far)
	})
	return near, nil
}

func (m *mime) serve(c net.Conn) {
	in := bufio.NewReader(c)
	head := make([]byte, 8)
	if _, err := io.ReadFull(in, head); err != nil || !m.answer(c, 0, binary.BigEndian.Uint32(head)) {
		return
	}
	for !m.deaf.Load() {
		if _, err := io.ReadFull(in, head[:7]); err != nil {
			return
		}
		payload := make([]byte, binary.BigEndian.Uint32(head[3:7])+1)
		if _, err := io.ReadFull(in, payload); err != nil {
			return
		}
		if head[0] == 1 && !m.answer(c, binary.BigEndian.Uint16(head[1:]), binary.BigEndian.Uint32(payload)) {
			return
		}
	}
	<-m.closed
}

// answer answers a method; false: nobody is there any more.
func (m *mime) answer(c net.Conn, channel uint16, method uint32) bool {
	payload, known := mimicked[method]
	if !known || m.answers.Add(-1) < 0 {
		return true
	}
	frame := binary.BigEndian.AppendUint16([]byte{1}, channel)
	frame = binary.BigEndian.AppendUint32(frame, uint32(len(payload)))
	_, err := c.Write(append(append(frame, payload...), 0xCE))
	return err == nil
}

// mimed runs test in a bubble, with a broker that gives so many answers.
func mimed(t *testing.T, answers int64, test func(t *testing.T, cfg Config, m *mime)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		m := &mime{closed: make(chan struct{})}
		m.answers.Store(answers)
		test(t, Config{DialConfig: driver.DialConfig{Dial: m.dial, Heartbeat: -1, ConnectTimeout: 7 * time.Second}, WriteTimeout: time.Hour}, m)
		close(m.closed)
		m.wg.Wait()
	})
}

// exactly fails unless f takes d, to the nanosecond.
func exactly(t *testing.T, what string, d time.Duration, f func()) {
	t.Helper()
	began := time.Now()
	f()
	if took := time.Since(began); took != d {
		t.Errorf("%s took %v, want %v", what, took, d)
	}
}

// A broker that falls silent at any stage of the login: the attempt ends at the
// connect timeout.
func TestLoginEndsAtItsDeadline(t *testing.T) {
	for stage := range 3 {
		for _, deaf := range []bool{false, true} {
			mimed(t, int64(stage), func(t *testing.T, cfg Config, m *mime) {
				m.deaf.Store(deaf) // after the header, which starts it all
				exactly(t, "connect", 7*time.Second, func() {
					err := tryConnect(t, cfg)
					if !errors.Is(err, driver.ErrUnavailable) || !errors.Is(err, context.DeadlineExceeded) {
						t.Errorf("stage %d: %v", stage, err)
					}
				})
			})
		}
	}
}

// Every call ends at its deadline with a broker that answers nothing, and with
// one that reads nothing either.
func TestCallsEndAtTheirDeadlines(t *testing.T) {
	for _, deaf := range []bool{false, true} {
		mimed(t, 1000, func(t *testing.T, cfg Config, m *mime) {
			env, _ := testEnv(driver.Both)
			s, err := newConnector(cfg).connect(t.Context(), env)
			if err != nil {
				t.Fatal(err)
			}
			n := openSender(t, s, driver.SenderConfig{Window: 1000})
			r := openReceiver(t, s, driver.ReceiverConfig{Queue: "q", Prefetch: 1, Tag: "t"})
			apply(t, s, driver.Step{Queue: &driver.Queue{Name: "q"}})
			m.answers.Store(0)
			m.deaf.Store(deaf)
			for what, call := range map[string]func(context.Context) error{
				"apply":   func(ctx context.Context) error { return s.Apply(ctx, []driver.Step{{Queue: &driver.Queue{Name: "q"}}}) },
				"inspect": func(ctx context.Context) error { _, err := s.Inspect(ctx, "q"); return err },
				"purge":   func(ctx context.Context) error { _, err := s.Purge(ctx, "q"); return err },
				"open sender": func(ctx context.Context) error {
					_, err := s.OpenSender(ctx, driver.SenderConfig{Window: 1})
					return err
				},
				"open receiver": func(ctx context.Context) error {
					_, err := s.OpenReceiver(ctx, driver.ReceiverConfig{Queue: "q", Prefetch: 1})
					return err
				},
				"receive":      func(ctx context.Context) error { _, err := r.Receive(ctx, make([]driver.Incoming, 1)); return err },
				"set prefetch": func(ctx context.Context) error { return r.SetPrefetch(ctx, 5) },
				"outcomes":     func(ctx context.Context) error { _, err := n.Outcomes(ctx, make([]driver.Receipt, 1)); return err },
			} {
				for range 3 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Second)
					exactly(t, what, time.Second, func() {
						if err := call(ctx); !errors.Is(err, context.DeadlineExceeded) {
							t.Errorf("%s, deaf %v: %v", what, deaf, err)
						}
					})
					cancel()
				}
			}
			if deaf {
				submitToTheDeaf(t, n)
			}
			soon, late := context.WithTimeout(t.Context(), time.Second)
			defer late()
			exactly(t, "close receiver", time.Second, func() { r.Close(soon) })
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			exactly(t, "close", time.Second, func() { s.Close(ctx) })
		})
	}
}

// submitToTheDeaf fills the buffer, and waits for room in it.
func submitToTheDeaf(t *testing.T, n driver.Sender) {
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	began := time.Now()
	for seq := uint64(0); ; seq++ {
		_, err := n.Submit(ctx, []driver.Outgoing{{Seq: seq, Key: "q", Body: make([]byte, 64<<10)}})
		if err == nil && seq < 1000 {
			continue
		}
		if took := time.Since(began); took != time.Second || !errors.Is(err, driver.ErrNotSent) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("submit %d: after %v: %v", seq, took, err)
		}
		return
	}
}

package redis

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
)

// replicated is a master with a replica that follows, of the test's own.
func replicated(t testing.TB) (master, replica *server) {
	t.Helper()
	master = startServer(t, "--repl-diskless-sync-delay", "0")
	host, port, _ := net.SplitHostPort(master.addr)
	replica = startServer(t, "--replicaof", host+" "+port)
	eventually(t, "the replica to follow", func() bool {
		m, _ := ask(master.addr, "INFO", "replication")
		info, _ := m.ToString()
		return strings.Contains(info, "state=online")
	})
	return master, replica
}

func openConn(t testing.TB, url string, cfg *gombu.Config) *gombu.Conn {
	t.Helper()
	c, err := gombu.Open(url, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

func TestReplicas(t *testing.T) {
	t.Parallel()
	master, replica := replicated(t)
	c := openConn(t, "redis://"+master.addr, nil)
	p := c.Producer(&gombu.ProducerConfig{Key: "q", Replicas: 1})
	plain := c.Producer(&gombu.ProducerConfig{Key: "q"})
	for i := range 20 {
		if err := p.Publish(soon(t), &gombu.Message{Body: fmt.Append(nil, i)}); err != nil {
			t.Fatal(err)
		}
	}
	m, err := ask(replica.addr, "LLEN", "q")
	if n, _ := m.AsInt64(); n != 20 || err != nil {
		t.Fatalf("the replica has %d of 20, %v", n, err)
	}

	two := c.Producer(&gombu.ProducerConfig{Key: "q", Replicas: 2})
	pause(t, replica)
	for _, short := range []struct {
		p                    *gombu.Producer
		have, want           int
		patience, took, slow time.Duration
	}{{p, 0, 1, 400 * time.Millisecond, 400 * time.Millisecond, 100 * time.Millisecond}, {two, 0, 2, time.Minute, keepFor, time.Second}} {
		ctx, cancel := context.WithTimeout(context.Background(), short.patience)
		defer cancel()
		start := time.Now()
		err := short.p.Publish(ctx, &gombu.Message{Body: []byte("short")})
		took := time.Since(start)
		wantKind(t, "short", err, gombu.ErrUncertain)
		e, ok := errors.AsType[*driver.ReplicaError](err)
		if !ok || e.Replicas != short.have || e.Want != short.want {
			t.Fatalf("have %+v, %v", e, err)
		}
		if took > short.took+short.slow+raceSlack {
			t.Fatalf("took %v", took)
		}
	}
	// Who waits for a replica is in nobody's way: claims, settles, other publishes.
	var wg sync.WaitGroup
	defer wg.Wait()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	wg.Go(func() { _ = p.Publish(ctx, &gombu.Message{Body: []byte("waits")}) })
	start := time.Now()
	if err := plain.Publish(soon(t), &gombu.Message{Body: []byte("plain")}); err != nil {
		t.Fatal(err)
	}
	n := 0
	for d, err := range c.Deliveries(soon(t), gombu.ConsumerConfig{Queues: []string{"q"}}) {
		if err != nil {
			t.Fatal(err)
		}
		if err := d.Ack(soon(t)); err != nil {
			t.Fatal(err)
		}
		if n++; n == 22 {
			break
		}
	}
	if took := time.Since(start); took > time.Second+raceSlack {
		t.Fatalf("others waited %v", took)
	}
}

// With Resend as well, a message that is short of replicas is not sent again.
func TestReplicasWithResend(t *testing.T) {
	master, _ := replicated(t)
	c := openConn(t, "redis://"+master.addr, nil)
	if err := c.Producer(&gombu.ProducerConfig{Key: "first", Replicas: 1}).Publish(soon(t), &gombu.Message{}); err != nil {
		t.Fatal(err)
	}
	p := c.Producer(&gombu.ProducerConfig{Key: "q", Replicas: 2, Resend: true})
	ctx, cancel := context.WithTimeout(context.Background(), 300*time.Millisecond)
	defer cancel()
	err := p.Publish(ctx, &gombu.Message{Body: []byte("once")})
	e, ok := errors.AsType[*driver.ReplicaError](err)
	if !ok || e.Replicas != 1 {
		t.Fatal(err)
	}
	m, _ := ask(master.addr, "LLEN", "q")
	n, _ := m.AsInt64()
	want(t, "copies", n, 1)
}

func TestReplicasAreRefused(t *testing.T) {
	v := startServer(t, "--appendonly", "yes")
	c := openConn(t, "redis://"+v.addr, nil)
	for _, cfg := range []gombu.ProducerConfig{{Replicas: -1}, {Replicas: 1, NoConfirm: true}, {Fsync: true, NoConfirm: true}} {
		wantKind(t, fmt.Sprint(cfg), c.Producer(&cfg).Publish(soon(t), &gombu.Message{Key: "q"}), gombu.ErrInvalid)
	}
	info, _ := ask(v.addr, "INFO", "server")
	text, _ := info.ToString()
	if atLeast(infoField(text, "redis_version"), 7, 2) {
		t.Log("this server has WAITAOF")
	} else {
		err := c.Producer(&gombu.ProducerConfig{Fsync: true}).Publish(soon(t), &gombu.Message{Key: "q", Body: []byte("x")})
		wantKind(t, "before 7.2", err, gombu.ErrUnsupported)
		wantKind(t, "before 7.2", err, gombu.ErrNotSent)
	}
	m, _ := ask(v.addr, "EXISTS", "q")
	n, _ := m.AsInt64()
	want(t, "sent", n, 0)
}

// What is sent to a server that has WAITAOF, as a proxy sees it that answers
// that command in the server's stead.
func TestFsyncOnANewerServer(t *testing.T) {
	v := startServer(t, "--appendonly", "yes")
	for answer, says := range map[string]string{
		"*2\r\n:1\r\n:2\r\n": "",
		"*2\r\n:0\r\n:2\r\n": "not on the broker's disk and on 2 of 2",
		"*2\r\n:1\r\n:1\r\n": "on the broker's disk and on 1 of 2",
		"-ERR WAITAOF cannot be used when numlocal is set but appendonly is disabled.\r\n": "appendonly",
	} {
		proxy := &waitaof{backend: v.addr, answer: answer}
		c := openConn(t, "redis://"+proxy.start(t), nil)
		p := c.Producer(&gombu.ProducerConfig{Key: "q", Replicas: 2, Fsync: true})
		ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
		err := p.Publish(ctx, &gombu.Message{Body: []byte("x")})
		cancel()
		proxy.mu.Lock()
		seen := strings.Join(proxy.seen, ", ")
		proxy.mu.Unlock()
		switch {
		case says == "appendonly":
			wantKind(t, says, err, gombu.ErrUnsupported)
			want(t, "sent", seen, "WAITAOF 1 0 1")
			continue
		case says == "" && err != nil:
			t.Fatal(err)
		case says != "":
			wantKind(t, says, err, gombu.ErrUncertain)
			if !strings.Contains(err.Error(), says) {
				t.Fatalf("%v: want it to say %q", err, says)
			}
		}
		if !strings.HasPrefix(seen, "WAITAOF 1 0 1, LPUSH q, WAITAOF 1 2 ") {
			t.Fatal(seen)
		}
	}
}

// waitaof is a proxy that answers WAITAOF itself, and notes it and LPUSH.
type waitaof struct {
	backend, answer string
	mu              sync.Mutex
	seen            []string
}

func (w *waitaof) start(t testing.TB) string {
	back, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relayBy(t, back, w.backend, w.pass)
	return back.Addr().String()
}

// pass copies commands to the server; what it answers itself is a PING there,
// so that answers keep their order.
func (w *waitaof) pass(front, back net.Conn) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer back.Close()
	replies := bufio.NewReader(back)
	pings := make(chan bool, 1024)
	wg.Go(func() {
		defer front.Close()
		for ours := range pings {
			text, err := readReply(replies)
			if err != nil {
				return
			}
			if ours {
				text = w.answer
			}
			if _, err := front.Write([]byte(text)); err != nil {
				return
			}
		}
	})
	defer close(pings)
	requests := bufio.NewReader(front)
	for {
		args, text, err := readCommand(requests)
		if err != nil {
			return
		}
		ours := args[0] == "WAITAOF"
		w.mu.Lock()
		if ours {
			w.seen = append(w.seen, strings.Join(args, " "))
			text = "*1\r\n$4\r\nPING\r\n"
			if len(w.seen) == 1 && !strings.HasPrefix(w.answer, "-") { // the first asks whether there is such a command
				ours = false
				text = "*3\r\n$4\r\nWAIT\r\n$1\r\n0\r\n$1\r\n1\r\n"
			}
		}
		if args[0] == "LPUSH" {
			w.seen = append(w.seen, "LPUSH "+args[1])
		}
		w.mu.Unlock()
		pings <- ours
		if _, err := back.Write([]byte(text)); err != nil {
			return
		}
	}
}

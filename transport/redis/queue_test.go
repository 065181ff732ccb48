package redis

import (
	"fmt"
	"testing"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
)

func TestQueues(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	_, err := s.Stat(soon(t), "q")
	wantKind(t, "a queue without a key", err, driver.ErrNotFound)
	if err := s.Create(soon(t), &driver.Queue{Name: "q"}); err != nil {
		t.Fatal(err)
	}
	info, err := s.Stat(soon(t), "q")
	if err != nil || info != (driver.QueueInfo{Name: "q", Unsettled: -1, Delayed: -1, Consumers: -1}) {
		t.Fatal(info, err)
	}
	for p := range 10 {
		t.pushItems(s, []virtual.Item{{Queue: "r", Priority: uint8(p), Raw: []byte("x")}})
	}
	t.claim(s, 1, "r")
	t.do("SADD", "set", "x")
	queues, err := s.Queues(soon(t))
	if err != nil || len(queues) != 2 || queues[0].Name != "q" || queues[1].Name != "r" || queues[1].Ready != 9 {
		t.Fatal(queues, err)
	}
	if n, err := s.Purge(soon(t), "r"); n != 9 || err != nil {
		t.Fatal(n, err)
	}
	_, err = s.Stat(soon(t), "r")
	wantKind(t, "after purge", err, driver.ErrNotFound)
}

func TestDropRemovesBindings(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	bind(t, s, driver.TypeTopic, driver.Binding{Exchange: "e", Queue: "q", Key: "#"}, driver.Binding{Exchange: "e", Queue: "r", Key: "#"})
	t.do("SADD", bindings+"read", "k\x06\x16\x06\x16q")
	if _, _, err := s.Table(soon(t), "read", ""); err != nil {
		t.Fatal(err)
	}
	t.pushItems(s, []virtual.Item{{Queue: "q", Priority: 9, Raw: []byte("x")}, {Queue: "q", Raw: []byte("x")}})
	if err := s.Drop(soon(t), "q"); err != nil {
		t.Fatal(err)
	}
	want(t, "keys", t.keys() != "" && t.number("EXISTS", "q", "q\x06\x169", bindings+"read") == 0, true)
	want(t, "other bindings", t.number("SCARD", bindings+"e"), 1)
	if err := s.Drop(soon(t), "q"); err != nil {
		t.Fatal("a missing queue is no error: ", err)
	}
}

func TestNamesOfOtherKeysAreRefused(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	for _, name := range []string{"", "unacked", "unacked_index", "unacked_mutex", "_kombu.binding.e", "a\x06\x16b", ownersKey, ownKey + "x:q", ledgerKey + "x", aliveKey + "x"} {
		wantKind(t, name, s.Create(soon(t), &driver.Queue{Name: name}), driver.ErrInvalid)
		items := []virtual.Item{{Queue: name, Raw: []byte("x")}}
		if err := s.Push(soon(t), items); err != nil {
			t.Fatal(err)
		}
		wantKind(t, name, items[0].Err, driver.ErrInvalid)
		_, err := s.Stat(soon(t), name)
		wantKind(t, name, err, driver.ErrInvalid)
	}
	if err := s.Create(soon(t), &driver.Queue{Name: "gombu.dead.q"}); err != nil {
		t.Fatal(err)
	}
}

func TestUnsupportedBindings(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	wantKind(t, "exchange to exchange", s.Bind(soon(t), "", []driver.Binding{{Exchange: "e", ToExchange: "f"}}), driver.ErrUnsupported)
	wantKind(t, "headers", s.Bind(soon(t), driver.TypeHeaders, []driver.Binding{{Exchange: "e", Queue: "q"}}), driver.ErrUnsupported)
	wantKind(t, "separator", s.Bind(soon(t), "", []driver.Binding{{Exchange: "e", Queue: "q", Key: "a\x06\x16b"}}), driver.ErrInvalid)
	wantKind(t, "no exchange", s.Bind(soon(t), "", []driver.Binding{{Queue: "q"}}), driver.ErrInvalid)
}

// A claim from very many queues is one pipeline, on the connection that stands.
func TestAThousandQueues(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	var wants []virtual.Want
	for i := range 1000 {
		wants = append(wants, virtual.Want{Queue: fmt.Sprint("q", i), Max: 1})
	}
	t.push(s, "q0", "first")
	t.push(s, "q999", "last")
	dst := make([]virtual.Claim, 1000)
	n, err := s.Claim(soon(t), virtual.ClaimRequest{Wants: wants}, dst)
	if err != nil || n != 2 {
		t.Fatal(n, err)
	}
	t.mustSettle(s, driver.Ack, dst[:n]...)
}

package drivertest

import (
	"fmt"
	"slices"

	"github.com/gombu/gombu/driver"
)

var routingCases = []testCase{
	{"DefaultExchange", defaultExchange},
	{"Behaviour173_Direct", direct},
	{"Behaviour174_Topic", topic},
	{"Behaviour175_OneCopyPerQueue", oneCopy},
	{"Behaviour181_Fanout", fanout},
	{"Headers", headers},
	{"ExchangeToExchange", exchangeToExchange},
	{"Alternate", alternate},
	{"Predeclared", predeclared},
	{"Behaviour200_OnlyMatchingQueues", unroutableTable},
}

func defaultExchange(k *kit) {
	s := k.connect()
	s.declare(driver.Queue{Name: k.name("q")}, driver.Queue{Name: k.name("other")})
	s.mustPublish(message("", k.name("q"), "m"))
	in := k.receive(s.consume(k.name("q"), 2), 1)
	if in[0].Exchange != "" || in[0].Key != k.name("q") || in[0].Queue != k.name("q") || in[0].Redelivered {
		k.Errorf("%+v", in[0])
	}
	k.nothing(s.consume(k.name("other"), 1))
}

// table binds a queue per row to one exchange, publishes each key once, and
// compares what arrived where.
type table struct {
	keys []string
	rows []row
}

type row struct {
	binding string
	takes   []string
}

func (k *kit) route(typ string, t table) {
	k.Helper()
	k.needsType(typ)
	s := k.connect()
	x := k.name("x")
	s.declare(driver.Exchange{Name: x, Type: typ})
	for i, r := range t.rows {
		q := k.name(fmt.Sprint("q", i))
		s.declare(driver.Queue{Name: q}, driver.Binding{Exchange: x, Queue: q, Key: r.binding})
	}
	for _, key := range t.keys {
		m := message(x, key, key+"!")
		m.NoMandatory = true
		s.mustPublish(m)
	}
	for i, r := range t.rows {
		q := k.name(fmt.Sprint("q", i))
		s.ready(q, len(r.takes))
		if len(r.takes) == 0 {
			continue
		}
		receiver := s.consume(q, len(r.takes))
		got := []string{}
		for _, in := range k.receive(receiver, len(r.takes)) {
			got = append(got, in.Key)
			if string(in.Body) != in.Key+"!" || in.Exchange != x || in.Queue != q {
				k.Errorf("%+v", in)
			}
		}
		slices.Sort(got)
		if want := slices.Sorted(slices.Values(r.takes)); !slices.Equal(got, want) {
			k.Errorf("%q took %q, want %q", r.binding, got, want)
		}
		k.must(receiver.Close(k.ctx))
	}
}

func direct(k *kit) {
	k.route(driver.TypeDirect, table{
		keys: []string{"d1", "d2", "d", "", "d1.x", "#", "*"},
		rows: []row{{"d1", []string{"d1"}}, {"d2", []string{"d2"}}, {"", []string{""}}, {"#", []string{"#"}}, {"D1", nil}},
	})
}

// AMQP 0-9-1, section 3.1.3.3: * is one word, # none or more.
func topic(k *kit) {
	keys := []string{"stock.us.nasdaq", "stock.europe.OSE", "stockxeuropexOSE", "stock", "stock.us", "a.b", "a", "a.x.b", "a.x.y.b", "b", ""}
	k.route(driver.TypeTopic, table{
		keys: keys,
		rows: []row{
			{"stock.#", []string{"stock.us.nasdaq", "stock.europe.OSE", "stock", "stock.us"}},
			{"stock.us.*", []string{"stock.us.nasdaq"}},
			{"#", keys},
			{"*", []string{"stockxeuropexOSE", "stock", "a", "b"}}, // no words are not one word
			{"*.*", []string{"stock.us", "a.b"}},
			{"a.#.b", []string{"a.b", "a.x.b", "a.x.y.b"}},
			{"#.b", []string{"a.b", "a.x.b", "a.x.y.b", "b"}},
			{"a.*.b", []string{"a.x.b"}},
			{"a.b", []string{"a.b"}},
			{"#.#", keys},
			{"*.#", keys[:len(keys)-1]},
			{"a.*.#", []string{"a.b", "a.x.b", "a.x.y.b"}},
			{"", []string{""}},
			{"A", nil},
		},
	})
}

func oneCopy(k *kit) {
	k.needsType(driver.TypeTopic)
	s := k.connect()
	x, q := k.name("x"), k.name("q")
	s.declare(driver.Exchange{Name: x, Type: driver.TypeTopic}, driver.Queue{Name: q})
	for _, key := range []string{"a.#", "a.*", "#", "a.b"} {
		s.declare(driver.Binding{Exchange: x, Queue: q, Key: key})
	}
	s.mustPublish(message(x, "a.b", "m"))
	r := s.consume(q, 10)
	k.wantBodies(k.receive(r, 1), "m")
	k.nothing(r)
}

// Subscribers stand before the publish: a native fan-out keeps nothing for
// those who come later.
func fanout(k *kit) {
	k.needsType(driver.TypeFanout)
	s := k.connect()
	x := k.name("x")
	s.declare(driver.Exchange{Name: x, Type: driver.TypeFanout})
	var receivers []driver.Receiver
	for i := range 3 {
		q := k.name(fmt.Sprint("q", i))
		s.declare(driver.Queue{Name: q}, driver.Binding{Exchange: x, Queue: q})
		receivers = append(receivers, s.consume(q, 10))
	}
	m := message(x, "", "to all")
	m.NoMandatory = true
	s.mustPublish(m)
	for _, r := range receivers {
		in := k.receive(r, 1)
		k.wantBodies(in, "to all")
		k.settle(r, driver.Ack, in...)
		k.nothing(r)
	}
	q := k.name("q0")
	k.must(s.apply(step(driver.Delete, driver.Binding{Exchange: x, Queue: q})))
	s.mustPublish(m)
	k.wantBodies(k.receive(receivers[1], 1), "to all")
	k.nothing(receivers[0])
}

func headers(k *kit) {
	k.needsType(driver.TypeHeaders)
	s := k.connect()
	x := k.name("x")
	s.declare(driver.Exchange{Name: x, Type: driver.TypeHeaders})
	type h = driver.Headers
	bindings := []struct {
		args  h
		takes []string
	}{
		{h{{Key: "x-match", Value: "all"}, {Key: "format", Value: "pdf"}, {Key: "pages", Value: int64(2)}}, []string{"pdf2", "extra"}},
		{h{{Key: "x-match", Value: "any"}, {Key: "format", Value: "pdf"}, {Key: "pages", Value: int64(2)}}, []string{"pdf2", "pdf3", "extra", "zip2"}},
		{h{{Key: "format", Value: "pdf"}}, []string{"pdf2", "pdf3", "extra"}}, // all is the default
		{h{{Key: "x-match", Value: "all"}}, []string{"pdf2", "pdf3", "extra", "zip2", "none"}},
		{h{{Key: "x-match", Value: "any"}}, nil},
		{h{{Key: "format", Value: nil}}, []string{"pdf2", "pdf3", "extra", "zip2"}}, // no value: presence
		{h{{Key: "x-match", Value: "all"}, {Key: "x-ignored", Value: "no"}, {Key: "format", Value: "zip"}}, []string{"zip2"}},
	}
	for i, b := range bindings {
		q := k.name(fmt.Sprint("q", i))
		s.declare(driver.Queue{Name: q}, driver.Binding{Exchange: x, Queue: q, Args: b.args})
	}
	for body, head := range map[string]h{
		"pdf2":  {{Key: "format", Value: "pdf"}, {Key: "pages", Value: int64(2)}},
		"pdf3":  {{Key: "format", Value: "pdf"}, {Key: "pages", Value: int64(3)}},
		"extra": {{Key: "a", Value: true}, {Key: "pages", Value: int64(2)}, {Key: "format", Value: "pdf"}},
		"zip2":  {{Key: "format", Value: "zip"}, {Key: "pages", Value: int64(2)}},
		"none":  nil,
	} {
		m := message(x, "ignored", body)
		m.Props.Headers = head
		s.mustPublish(m)
	}
	for i, b := range bindings {
		q := k.name(fmt.Sprint("q", i))
		s.ready(q, len(b.takes))
		if len(b.takes) == 0 {
			continue
		}
		got := slices.Sorted(slices.Values(bodies(k.receive(s.consume(q, 10), len(b.takes)))))
		if want := slices.Sorted(slices.Values(b.takes)); !slices.Equal(got, want) {
			k.Errorf("%v took %q, want %q", b.args, got, want)
		}
	}
}

// Cycles end, and a queue reached by several ways gets one copy.
func exchangeToExchange(k *kit) {
	k.needsType(driver.TypeTopic)
	s := k.connect()
	a, b, c, q := k.name("a"), k.name("b"), k.name("c"), k.name("q")
	s.declare(
		driver.Exchange{Name: a}, driver.Exchange{Name: b, Type: driver.TypeTopic}, driver.Exchange{Name: c}, driver.Queue{Name: q},
		driver.Binding{Exchange: a, ToExchange: b, Key: "k"}, driver.Binding{Exchange: b, ToExchange: c, Key: "#"},
		driver.Binding{Exchange: c, ToExchange: a, Key: "k"},
		driver.Binding{Exchange: c, Queue: q, Key: "k"}, driver.Binding{Exchange: a, Queue: q, Key: "k"},
	)
	s.mustPublish(message(a, "k", "m"))
	r := s.consume(q, 10)
	in := k.receive(r, 1)
	if in[0].Exchange != a {
		k.Errorf("exchange %q, want the one published to", in[0].Exchange)
	}
	k.settle(r, driver.Ack, in...)
	k.nothing(r)
	k.must(s.apply(step(driver.Delete, driver.Binding{Exchange: a, Queue: q, Key: "k"})))
	k.must(s.apply(step(driver.Delete, driver.Binding{Exchange: b, ToExchange: c, Key: "#"})))
	k.unroutable(s, message(a, "k", "m"))
	k.must(s.apply(step(driver.Delete, driver.Exchange{Name: b})))
	k.unroutable(s, message(a, "k", "m"))
}

func alternate(k *kit) {
	k.needs("alternate")
	s := k.connect()
	x, rest, q := k.name("x"), k.name("rest"), k.name("q")
	s.declare(
		driver.Exchange{Name: rest, Type: driver.TypeFanout}, driver.Exchange{Name: x, Alternate: rest},
		driver.Queue{Name: q}, driver.Binding{Exchange: rest, Queue: q},
	)
	s.mustPublish(message(x, "nobody", "m"))
	in := k.receive(s.consume(q, 1), 1)
	if in[0].Exchange != x || in[0].Key != "nobody" {
		k.Errorf("%+v", in[0])
	}
}

func predeclared(k *kit) {
	s := k.connect()
	q := k.name("q")
	s.declare(driver.Queue{Name: q}, driver.Binding{Exchange: "amq.direct", Queue: q, Key: q})
	s.mustPublish(message("amq.direct", q, "m"))
	k.wantBodies(k.receive(s.consume(q, 1), 1), "m")
	k.must(s.apply(step(driver.Delete, driver.Binding{Exchange: "amq.direct", Queue: q, Key: q})))
	if err := s.apply(step(driver.Delete, driver.Exchange{Name: "amq.direct"})); err == nil {
		k.Error("a predeclared exchange was deleted")
	}
}

func unroutableTable(k *kit) {
	if !k.features.Mandatory {
		k.Skip("the transport does not know where messages go")
	}
	s := k.connect()
	x, q := k.name("x"), k.name("q")
	s.declare(driver.Exchange{Name: x}, driver.Queue{Name: q}, driver.Binding{Exchange: x, Queue: q, Key: "k"})
	errs := s.publish(message(x, "k", "1"), message(x, "nobody", "2"), message(x, "k", "3"), message(x, "nobody", "4"))
	for i, err := range errs {
		if i%2 == 0 {
			k.must(err)
		} else {
			k.wantKind(err, driver.ErrUnroutable)
		}
	}
	if !k.h.ImplicitQueues {
		k.wantKind(s.publish(message("", k.name("none"), "m"))[0], driver.ErrUnroutable)
	}
	k.wantBodies(k.receive(s.consume(q, 10), 2), "1", "3")
}

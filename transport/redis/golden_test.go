package redis

import (
	"encoding/json"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/virtual"
	"github.com/gombu/gombu/wire/kombu"
)

// golden is what Kombu sent to Redis, see testdata.
type goldenSample struct {
	Name     string
	Commands []struct {
		DB   int
		Args []string
	}
	Keyspace map[string]struct {
		Type  string
		Value any
	} `json:"keyspace_after"`
}

func goldenSamples(t testing.TB) map[string]goldenSample {
	t.Helper()
	data, err := os.ReadFile("testdata/redis_commands.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct{ Samples []goldenSample }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	out := map[string]goldenSample{}
	for _, s := range file.Samples {
		out[s.Name] = s
	}
	return out
}

// sent returns the arguments of the sample's commands of that name.
func (g goldenSample) sent(command string) [][]string {
	var out [][]string
	for _, c := range g.Commands {
		if c.Args[0] == command {
			out = append(out, c.Args[1:])
		}
	}
	return out
}

func deliveryTag(t testing.TB, text string) string {
	t.Helper()
	_, tag, ok := strings.Cut(text, `"delivery_tag": "`)
	tag, _, ok2 := strings.Cut(tag, `"`)
	if !ok || !ok2 {
		t.Fatal("no delivery tag in " + text)
	}
	return tag
}

// Each message that Kombu published straight to a queue, published by us, is
// the same text in the same list.
func TestGoldenPublish(tt *testing.T) {
	t := newTester(tt)
	full, err := t.config.withDefaults()
	if err != nil {
		t.Fatal(err)
	}
	var tag string
	e := full.engine()
	e.NewID = func() string { return tag }
	conn, err := virtual.New(e).Connect(soon(t), driver.Env{Owner: "golden", Notify: func(driver.Event) {}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := conn.Close(soon(t)); err != nil {
			t.Error(err)
		}
	}()
	sender, err := conn.OpenSender(soon(t), driver.SenderConfig{Window: 1})
	if err != nil {
		t.Fatal(err)
	}
	tried := 0
	for name, sample := range goldenSamples(t) {
		if !strings.HasPrefix(name, "publish_") || name == "publish_priorities_odd" { // priorities that a driver.Properties cannot hold
			continue
		}
		for _, push := range sample.sent("LPUSH") {
			list, text := push[0], push[1]
			var in driver.Incoming
			if err := kombu.Decode([]byte(text), &in); err != nil {
				t.Fatal(name, err)
			}
			queue, _, _ := strings.Cut(list, defaultSep)
			tag = deliveryTag(t, text)
			text = strings.Replace(text, `"exchange": "`+in.Exchange+`", "routing_key": "`+in.Key+`"`, `"exchange": "", "routing_key": "`+queue+`"`, 1)
			out := []driver.Outgoing{{Seq: 1, Key: queue, Props: in.Props, Body: in.Body}}
			if n, err := sender.Submit(soon(t), out); n != 1 || err != nil {
				t.Fatal(name, err)
			}
			if n, err := sender.Outcomes(soon(t), make([]driver.Receipt, 1)); n != 1 || err != nil {
				t.Fatal(name, err)
			}
			have := t.list(list)
			if len(have) != 1 || have[0] != text {
				t.Fatalf("%s, list %q: have\n%q\nwant\n%q\nkeys %s", name, list, have, text, t.keys())
			}
			t.do("DEL", list)
			tried++
		}
	}
	if tried < 20 {
		t.Fatalf("only %d samples", tried)
	}
}

func TestGoldenBindings(tt *testing.T) {
	t := newTester(tt)
	s, _ := t.open()
	samples := goldenSamples(t)
	for name, typ := range map[string]string{"declare_bind_direct": driver.TypeDirect, "declare_bind_topic": driver.TypeTopic,
		"fanout_consumer_start": driver.TypeFanout, "fanout_consumer_pattern": driver.TypeFanout} {
		adds := samples[name].sent("SADD")
		if len(adds) == 0 {
			t.Fatal("no binding in " + name)
		}
		for _, add := range adds {
			key, _, queue, ok := kombu.ParseBindingMember(add[1], defaultSep)
			if !ok {
				t.Fatal(add)
			}
			exchange := strings.TrimPrefix(add[0], bindings)
			b := driver.Binding{Exchange: exchange, Queue: queue, Key: key}
			bind(t, s, typ, b, b)
			members, _ := t.do("SMEMBERS", add[0]).AsStrSlice()
			want(t, "members of "+name, strings.Join(members, "|"), add[1])
			if err := s.Unbind(soon(t), typ, []driver.Binding{b}); err != nil {
				t.Fatal(err)
			}
			want(t, "after unbind", t.number("EXISTS", add[0]), 0)
		}
	}
}

func TestGoldenFanoutNames(t *testing.T) {
	samples := goldenSamples(t)
	named := func(change func(*Config)) *store {
		c := Config{}
		if change != nil {
			change(&c)
		}
		full, err := c.withDefaults()
		if err != nil {
			t.Fatal(err)
		}
		return &store{cfg: full, keys: newKeys(full)}
	}
	for _, c := range []struct {
		sample, exchange, key string
		change                func(*Config)
	}{
		{"fanout_publish", "ex_fan", "", nil},
		{"fanout_publish_rk", "ex_fan", "some.key", nil},
		{"fanout_opts_no_prefix", "", "k", func(c *Config) { c.NoFanoutPrefix = true }},
		{"fanout_opts_no_patterns", "", "k", func(c *Config) { c.NoFanoutPatterns = true }},
		{"fanout_opts_custom_prefix", "", "k", func(c *Config) { c.FanoutPrefix = "/custom." }},
		{"fanout_db3", "", "", func(c *Config) { c.DB = 3 }},
		{"keyprefix_fanout_publish", "", "", func(c *Config) { c.Prefix = "pfx:" }},
	} {
		published := samples[c.sample].sent("PUBLISH")
		if len(published) != 1 {
			t.Fatal(c.sample, published)
		}
		var in driver.Incoming
		if err := kombu.Decode([]byte(published[0][1]), &in); err != nil {
			t.Fatal(err)
		}
		want(t, c.sample, named(c.change).channel(in.Exchange, in.Key), published[0][0])
	}
	for _, c := range []struct {
		sample string
		b      driver.Binding
		change func(*Config)
	}{
		{"fanout_consumer_start", driver.Binding{Exchange: "ex_fan"}, nil},
		{"fanout_consumer_pattern_fresh", driver.Binding{Exchange: "ex_fan", Key: "some.#"}, nil},
		{"fanout_opts_no_patterns", driver.Binding{Exchange: "ex_f2", Key: "k"}, func(c *Config) { c.NoFanoutPatterns = true }},
	} {
		subscribed := samples[c.sample].sent("PSUBSCRIBE")
		if len(subscribed) != 1 {
			t.Fatal(c.sample, subscribed)
		}
		b := c.b
		if i := strings.LastIndexByte(subscribed[0][0], '.'); c.sample == "fanout_opts_no_patterns" {
			b.Exchange = subscribed[0][0][i+1:]
		}
		if have := named(c.change).patternsOf(&b); have[0] != subscribed[0][0] {
			t.Fatalf("%s: have %q, want %q first", c.sample, have, subscribed[0])
		}
	}
}

// The facts of redis_semantics.json that are not defects of Kombu's.
func TestGoldenSemantics(tt *testing.T) {
	data, err := os.ReadFile("testdata/redis_semantics.json")
	if err != nil {
		tt.Fatal(err)
	}
	var file struct {
		Samples []struct {
			Name      string
			Delivered []any
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		tt.Fatal(err)
	}
	at := slices.IndexFunc(file.Samples, func(s struct {
		Name      string
		Delivered []any
	}) bool {
		return s.Name == "priority_order"
	})
	if at < 0 {
		tt.Fatal("no sample of priorities")
	}
	t := newTester(tt)
	s, _ := t.open()
	var expected []string
	for p := range 10 {
		t.pushItems(s, []virtual.Item{{Queue: "q", Priority: uint8(p), Raw: []byte{byte('0' + p)}}})
	}
	for _, v := range file.Samples[at].Delivered {
		if f, ok := v.(float64); ok && f >= 0 && f <= 9 {
			expected = append(expected, string(rune('0'+int(f))))
		}
	}
	want(t, "order", t.bodies(t.claim(s, 10, "q")), strings.Join(expected, " "))
}

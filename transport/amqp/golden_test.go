package amqp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
)

// A recorder keeps what is written to the sockets that a Config dials.
type recorder struct {
	mu  sync.Mutex
	buf []byte
}

type recorded struct {
	net.Conn
	r *recorder
}

func (c recorded) Write(p []byte) (int, error) {
	c.r.mu.Lock()
	c.r.buf = append(c.r.buf, p...)
	c.r.mu.Unlock()
	return c.Conn.Write(p)
}

func record(cfg *Config) *recorder {
	r := &recorder{}
	cfg.Dial = func(ctx context.Context, network, addr string) (net.Conn, error) {
		c, err := (&net.Dialer{}).DialContext(ctx, network, addr)
		return recorded{c, r}, err
	}
	return r
}

type frame struct {
	kind    byte
	payload []byte
}

// frames returns what was written so far, without heartbeats.
func (r *recorder) frames(t *testing.T) []frame {
	t.Helper()
	r.mu.Lock()
	b := bytes.TrimPrefix(r.buf, []byte("AMQP\x00\x00\x09\x01"))
	r.mu.Unlock()
	var out []frame
	for len(b) >= 8 {
		n := int(binary.BigEndian.Uint32(b[3:]))
		if len(b) < 8+n || b[7+n] != 0xCE {
			t.Fatalf("no frame: % x", b[:8])
		}
		if b[0] != 8 {
			out = append(out, frame{b[0], b[7 : 7+n]})
		}
		b = b[8+n:]
	}
	return out
}

// method returns the frames of one class and method: "0032000a" is queue.declare.
func (r *recorder) method(t *testing.T, id string) []frame {
	t.Helper()
	return slices.DeleteFunc(r.frames(t), func(f frame) bool {
		return f.kind != 1 || hex.EncodeToString(f.payload[:4]) != id
	})
}

// golden returns the frames of one kind that py-amqp sent in a sample.
func golden(t *testing.T, sample, id string) [][]byte {
	t.Helper()
	data, err := os.ReadFile("testdata/amqp_frames.json")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Samples []struct {
			Name   string
			Frames []struct {
				Frames []struct {
					Payload string `json:"payload_hex"`
				}
			} `json:"client_frames"`
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	var out [][]byte
	for _, s := range file.Samples {
		if s.Name != sample {
			continue
		}
		for _, c := range s.Frames {
			for _, f := range c.Frames {
				if strings.HasPrefix(f.Payload, id) {
					b, err := hex.DecodeString(f.Payload)
					if err != nil {
						t.Fatal(err)
					}
					out = append(out, b)
				}
			}
		}
	}
	if len(out) == 0 {
		t.Fatalf("no %s in sample %s", id, sample)
	}
	return out
}

// plain decodes a field table or value to something that compares without
// regard to order; 'L' counts as the equal 'l'.
func plainTable(b []byte) map[string]any {
	n := binary.BigEndian.Uint32(b)
	out := map[string]any{}
	for b = b[4 : 4+n]; len(b) > 0; {
		key := string(b[1 : 1+b[0]])
		b = b[1+b[0]:]
		size := fieldSize(b)
		if b[0] == 'L' {
			size = 9
		}
		out[key] = plainField(b[:size])
		b = b[size:]
	}
	return out
}

func plainField(b []byte) any {
	switch b[0] {
	case 'F':
		return plainTable(b[1:])
	case 'L':
		return "l" + string(b[1:])
	}
	return string(b)
}

// goldenSession is in a virtual host of its own, so that the samples' names are free.
func goldenSession(t *testing.T) (*session, *recorder) {
	t.Helper()
	cfg := brokerConfig(t)
	cfg.VHost = unique(t)
	ask(t, http.MethodPut, "vhosts/"+cfg.VHost, "")
	t.Cleanup(func() { ask(t, http.MethodDelete, "vhosts/"+cfg.VHost, "") })
	rec := record(&cfg)
	return connect(t, cfg), rec
}

// Each declaration is what py-amqp sends; tables compare without order.
func TestGoldenDeclarations(t *testing.T) {
	s, rec := goldenSession(t)
	direct := driver.Exchange{Name: "ex_d"}
	topic := driver.Exchange{Name: "ex_t", Type: driver.TypeTopic}
	fanout := driver.Exchange{Name: "ex_f", Type: driver.TypeFanout, Transient: true, AutoDelete: true}
	args := driver.Queue{
		Name: "q_args", Expires: 30 * time.Second, MessageTTL: 1500 * time.Millisecond, MaxLength: 10, MaxLengthBytes: 1000,
		MaxPriority: 9, Args: driver.Headers{{Key: "x-queue-mode", Value: "lazy"}, {Key: "x-expires", Value: 1}}, // behaviour 82: the attribute wins
	}
	apply(t, s,
		driver.Step{Exchange: &direct}, driver.Step{Queue: &driver.Queue{Name: "q_d"}},
		driver.Step{Binding: &driver.Binding{Exchange: "ex_d", Queue: "q_d", Key: "rk"}},
		driver.Step{Exchange: &topic}, driver.Step{Queue: &args},
		driver.Step{Binding: &driver.Binding{Exchange: "ex_t", Queue: "q_args", Key: "a.#"}},
		driver.Step{Exchange: &fanout}, driver.Step{Queue: &driver.Queue{Name: "q_excl", Transient: true, Exclusive: true}},
		driver.Step{Binding: &driver.Binding{Exchange: "ex_f", Queue: "q_excl"}})
	if _, err := s.Purge(testContext(t), "q_d"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Inspect(testContext(t), "q_d"); err != nil {
		t.Fatal(err)
	}
	apply(t, s, driver.Step{Op: driver.Delete, Queue: &driver.Queue{Name: "q_d"}})
	var want [][]byte
	for _, sample := range []string{"declare_direct", "declare_args", "declare_exclusive_fanout"} {
		for _, id := range []string{"0028000a", "0032000a", "00320014"} {
			want = append(want, golden(t, sample, id)...)
		}
	}
	for _, id := range []string{"0032001e", "0032000a", "00320028"} { // purge, passive declare, delete
		want = append(want, golden(t, "cancel_passive_get_purge_delete", id)...)
	}
	var got [][]byte
	for _, f := range rec.frames(t) {
		if f.kind == 1 && (f.payload[1] == 40 || f.payload[1] == 50) {
			got = append(got, f.payload)
		}
	}
	if len(got) != len(want) {
		t.Fatalf("%d frames, want %d", len(got), len(want))
	}
	for i := range want {
		if bytes.Equal(got[i], want[i]) {
			continue
		}
		at := bytes.Index(want[i], []byte("q_args")) + len("q_args") + 1 // only that one has a table
		if !bytes.Equal(got[i][:at], want[i][:at]) || !reflect.DeepEqual(plainTable(got[i][at:]), plainTable(want[i][at:])) {
			t.Errorf("frame %d:\n%x, want\n%x", i, got[i], want[i])
		}
	}
}

func TestGoldenConsume(t *testing.T) {
	s, rec := goldenSession(t)
	apply(t, s, driver.Step{Queue: &driver.Queue{Name: "q_d"}})
	mustPublish(t, s, to("q_d", "1"), to("q_d", "2"))
	r := openReceiver(t, s, driver.ReceiverConfig{Queue: "q_d", Prefetch: 4, Tag: "None1"})
	in := receive(t, r, 2)
	settle(t, r, driver.Ack, in[0])
	settle(t, r, driver.Reject, in[1])
	if err := r.SetPrefetch(testContext(t), 0); err != nil {
		t.Fatal(err)
	}
	for id, sample := range map[string]string{
		"003c000a": "consume_qos", "003c0014": "consume_qos",
		"003c0050": "ack_reject_requeue", "003c001e": "cancel_passive_get_purge_delete",
	} {
		if got, want := rec.method(t, id), golden(t, sample, id)[0]; len(got) != 1 || !bytes.Equal(got[0].payload, want) {
			t.Errorf("%s: %x, want %x", id, got, want)
		}
	}
	// A prefetch of the whole channel is refused by quorum queues: none is ever sent.
	if err := r.SetPrefetch(testContext(t), 9); err != nil {
		t.Fatal(err)
	}
	for _, f := range rec.method(t, "003c000a") {
		if f.payload[len(f.payload)-1] != 0 {
			t.Errorf("global prefetch: %x", f.payload)
		}
	}
	if got, want := rec.method(t, "003c005a"), golden(t, "ack_reject_requeue", "003c005a")[0]; len(got) != 1 || !bytes.Equal(got[0].payload, want) {
		t.Errorf("reject: %x, want %x", got, want)
	}
}

// properties decodes a content header frame.
func properties(t *testing.T, p []byte) map[string]any {
	t.Helper()
	flags := binary.BigEndian.Uint16(p[12:])
	out := map[string]any{"size": binary.BigEndian.Uint64(p[4:])}
	p = p[14:]
	for i, kind := range "ssFbbssssTssss" {
		if flags&(0x8000>>i) == 0 {
			continue
		}
		name, n := fmt.Sprint(i), 0
		switch kind {
		case 's':
			n = 1 + int(p[0])
			out[name] = string(p[1:n])
		case 'b':
			n = 1
			out[name] = p[0]
		case 'T':
			n = 8
			out[name] = binary.BigEndian.Uint64(p)
		case 'F':
			n = 4 + int(binary.BigEndian.Uint32(p))
			out[name] = plainTable(p)
		}
		p = p[n:]
	}
	return out
}

func TestGoldenPublish(t *testing.T) {
	s, rec := goldenSession(t)
	apply(t, s, driver.Step{Queue: &driver.Queue{Name: "q_d"}}, driver.Step{Exchange: &driver.Exchange{Name: "ex_d"}},
		driver.Step{Binding: &driver.Binding{Exchange: "ex_d", Queue: "q_d", Key: "rk"}})
	full := to("q_d", "0123456789abcdef")
	full.Props = driver.Properties{
		ContentType: "application/json", ContentEncoding: "utf-8", DeliveryMode: driver.Transient, Priority: 5,
		CorrelationID: "c", ReplyTo: "r", Expiration: 1500 * time.Millisecond, MessageID: "m", Timestamp: time.Unix(1700000000, 0),
		Type: "t", UserID: "guest", AppID: "app",
		Headers: driver.Headers{
			{Key: "i", Value: 1}, {Key: "f", Value: 1.5}, {Key: "s", Value: "x"}, {Key: "n"}, {Key: "l", Value: []any{1, "a"}},
			{Key: "d", Value: driver.Headers{{Key: "k", Value: true}}}, {Key: "big", Value: 1 << 40}, {Key: "compression", Value: "application/x-gzip"},
		},
	}
	json := driver.Outgoing{Exchange: "ex_d", Key: "rk", Body: []byte(`{"hello": "world"}`)}
	json.Props = driver.Properties{ContentType: "application/json", ContentEncoding: "utf-8"}
	text := to("q_d", "text")
	text.Props = driver.Properties{ContentType: "text/plain", ContentEncoding: "utf-8"}
	for sample, m := range map[string]driver.Outgoing{"publish_json": json, "publish_text": text, "publish_all_props": full} {
		before := len(rec.frames(t))
		m.NoMandatory = true // as Kombu by default
		mustPublish(t, s, m)
		var header, method frame
		for _, f := range rec.frames(t)[before:] {
			switch {
			case f.kind == 2:
				header = f
			case f.kind == 1 && f.payload[1] == 60:
				method = f
			}
		}
		if want := golden(t, sample, "003c0028")[0]; !bytes.Equal(method.payload, want) {
			t.Errorf("%s: method %x, want %x", sample, method.payload, want)
		}
		want := properties(t, golden(t, sample, "003c0000")[0])
		if table, _ := want["2"].(map[string]any); len(table) == 0 {
			delete(want, "2") // amqp091 leaves an empty table and priority 0 out
		}
		if want["4"] == byte(0) {
			delete(want, "4")
		}
		if got := properties(t, header.payload); !reflect.DeepEqual(got, want) {
			t.Errorf("%s: properties %v, want %v", sample, got, want)
		}
	}
}

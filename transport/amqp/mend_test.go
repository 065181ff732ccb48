package amqp

import (
	"bytes"
	"encoding/binary"
	"io"
	"math"
	"os/exec"
	"reflect"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// A chunked reader gives at most n bytes at a time.
type chunked struct {
	data []byte
	n    int
}

func (c *chunked) Read(p []byte) (int, error) {
	if len(c.data) == 0 {
		return 0, io.EOF
	}
	n := copy(p, c.data[:min(c.n, len(c.data))])
	c.data = c.data[n:]
	return n, nil
}

type mended struct {
	m mender
	r io.Reader
}

func (m *mended) Read(p []byte) (int, error) { return m.m.read(m.r, p) }

func mend(t *testing.T, data []byte, chunk int) []byte {
	t.Helper()
	out, err := io.ReadAll(&mended{r: &chunked{bytes.Clone(data), chunk}})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func asFrame(kind byte, payload []byte) []byte {
	head := binary.BigEndian.AppendUint32([]byte{kind, 0, 1}, uint32(len(payload)))
	return append(append(head, payload...), 0xCE)
}

// headerFrame is a content header with content type, encoding and headers.
func headerFrame(table []byte) []byte {
	p := append(make([]byte, 12), 0xE0, 0)
	p = append(p, "\x0atext/plain\x05utf-8"...)
	return asFrame(2, append(p, table...))
}

func TestMendOnlyBigNumbersInHeaders(t *testing.T) {
	big := int64(1) << 40
	table := appendTable(nil, amqp091.Table{"F": amqp091.Table{"A": []any{"LL", -big, nil, true, 1.5, []byte("L"), []any{big}}}})
	good := headerFrame(table)
	foreign := bytes.Clone(good)
	for _, n := range []int64{big, -big} {
		field := appendField(nil, n)
		at := bytes.Index(foreign, field)
		if at < 0 {
			t.Fatal("the number is not in the frame")
		}
		foreign[at] = 'L'
	}
	around := func(header []byte) []byte {
		return bytes.Join([][]byte{
			asFrame(8, nil), asFrame(1, []byte("method L")), header, asFrame(3, bytes.Repeat([]byte("L"), 300)), header, asFrame(8, nil),
		}, nil)
	}
	in, want := around(foreign), around(good)
	for chunk := 1; chunk <= len(in); chunk++ {
		if got := mend(t, in, chunk); !bytes.Equal(got, want) {
			t.Fatalf("in chunks of %d:\n% x, want\n% x", chunk, got, want)
		}
	}
}

func TestMendLargeFrames(t *testing.T) {
	table := appendTable(nil, amqp091.Table{"n": int64(1) << 40, "s": string(make([]byte, 3*readBuffer))})
	good := headerFrame(table)
	foreign := bytes.Clone(good)
	foreign[bytes.Index(foreign, appendField(nil, int64(1)<<40))] = 'L'
	if got := mend(t, append(foreign, asFrame(3, make([]byte, 5*readBuffer))...), 1000); !bytes.Equal(got[:len(good)], good) {
		t.Fatal("a header frame larger than the buffer is not mended")
	}
	huge := headerFrame(appendTable(nil, amqp091.Table{"s": string(make([]byte, 2*mendLimit))}))
	if got := mend(t, huge, readBuffer); !bytes.Equal(got, huge) {
		t.Fatal("a huge frame does not pass as it is")
	}
}

// Whatever comes: no panic, nothing changed but 'L' to 'l', and the result
// does not depend on how the bytes arrive.
func FuzzMend(f *testing.F) {
	f.Add(headerFrame(appendTable(nil, amqp091.Table{"n": int64(1) << 40, "a": []any{nil, "x"}})), 5)
	f.Add([]byte("\x02\x00\x01\x00\x00\x00\x13123456789012\x20\x00\x00\x00\x00\xffL\xce"), 1)
	f.Add([]byte("\x02\x00\x01\xff\xff\xff\xff"), 3)
	f.Fuzz(func(t *testing.T, data []byte, chunk int) {
		got := mend(t, data, max(1, chunk))
		if whole := mend(t, data, max(1, len(data))); !bytes.Equal(got, whole) {
			t.Fatalf("% x, in one piece % x", got, whole)
		}
		if len(got) > len(data) {
			t.Fatal("more came out than went in")
		}
		for i := range got {
			if got[i] != data[i] && (data[i] != 'L' || got[i] != 'l') {
				t.Fatalf("byte %d became %q from %q", i, got[i], data[i])
			}
		}
	})
}

// python runs a script with Debian's Kombu, and returns what it prints.
func python(t *testing.T, script string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command("/usr/bin/python3", append([]string{"-c", script, brokerURL()}, args...)...).CombinedOutput()
	if err != nil {
		needs(t, "python3-kombu ("+string(out)+")", "scripts/install")
	}
	return out
}

// What amqp091 leaves out of a message, an empty header table and priority 0,
// Kombu reads as given.
func TestKombuReads(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	plain, full := to(q, "plain"), to(q, "full")
	plain.Props = driver.Properties{ContentType: "text/plain", ContentEncoding: "utf-8"}
	full.Props = plain.Props
	full.Props.CorrelationID, full.Props.ReplyTo, full.Props.Priority, full.Props.Expiration = "c", "r", 7, 1500*time.Millisecond
	full.Props.Headers = driver.Headers{
		{Key: "n", Value: int64(1) << 40}, {Key: "i", Value: -5}, {Key: "list", Value: []any{1.5, nil, true, "x"}},
		{Key: "map", Value: map[string]any{"deep": uint16(7)}}, {Key: "u32", Value: uint32(math.MaxUint32)},
	}
	mustPublish(t, s, plain, full)
	got := python(t, `
import sys, json, kombu
with kombu.Connection(sys.argv[1]) as c:
    q = kombu.Queue(sys.argv[2], channel=c.default_channel, no_declare=True)
    for m in (q.get(), q.get()):
        print(json.dumps([m.payload, m.headers, m.properties.get("priority") or 0, m.properties.get("correlation_id"),
            m.properties.get("reply_to"), m.properties.get("expiration"), m.properties["delivery_mode"]], sort_keys=True))
        m.ack()
`, q)
	want := `["plain", {}, 0, null, null, null, 2]
["full", {"i": -5, "list": [1.5, null, true, "x"], "map": {"deep": 7}, "n": 1099511627776, "u32": 4294967295}, 7, "c", "r", "1500", 2]
`
	if string(got) != want {
		t.Fatalf("%s\nwant\n%s", got, want)
	}
}

// Python's Kombu sends a whole number of more than 32 bits as field type 'L',
// which amqp091 cannot read: unmended, such a message ends each connection that
// receives it, for ever.
func TestKombuBigIntegerHeaders(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	python(t, `
import sys, kombu
with kombu.Connection(sys.argv[1]) as c:
    c.Producer().publish("hello", exchange="", routing_key=sys.argv[2], headers={
        "big": 5000000000, "negative": -5000000000, "list": [1, 2**62, {"deep": -2**63}], "small": 7, "text": "L"})
`, q)
	got := receive(t, openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 1}), 1)[0].Props.Headers
	want := driver.Headers{
		{Key: "big", Value: int64(5000000000)},
		{Key: "list", Value: []any{int64(1), int64(1) << 62, driver.Headers{{Key: "deep", Value: int64(math.MinInt64)}}}},
		{Key: "negative", Value: int64(-5000000000)}, {Key: "small", Value: int64(7)}, {Key: "text", Value: "L"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%v, want %v", got, want)
	}
}

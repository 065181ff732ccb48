package amqp

import (
	"encoding/binary"
	"math"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

func nest(depth int) any {
	if depth == 0 {
		return 1
	}
	return []any{nest(depth - 1)}
}

func TestHeadersRoundTrip(t *testing.T) {
	s := connect(t, brokerConfig(t))
	q := queue(t, s, driver.Queue{})
	at := time.Date(2024, 2, 29, 12, 30, 15, 0, time.UTC)
	m := to(q, "")
	m.Props = driver.Properties{
		ContentType: "text/plain", ContentEncoding: "utf-8", MessageID: "мид", CorrelationID: "c", ReplyTo: "r", Type: "t",
		AppID: "a", UserID: "guest", Expiration: time.Hour, Timestamp: at, Priority: 9, DeliveryMode: driver.Transient,
		Headers: driver.Headers{
			{Key: "z", Value: "ключ\x00☃"}, {Key: "bytes", Value: []byte{0, 255}}, {Key: "nil"}, {Key: "bool", Value: true},
			{Key: "int", Value: -7}, {Key: "u8", Value: uint8(200)}, {Key: "i16", Value: int16(-300)}, {Key: "u32", Value: uint32(math.MaxUint32)},
			{Key: "min", Value: int64(math.MinInt64)}, {Key: "max", Value: uint64(math.MaxInt64)}, {Key: "f32", Value: float32(1.5)},
			{Key: "f64", Value: math.Pi}, {Key: "time", Value: at.In(time.FixedZone("x", 3600))}, {Key: "list", Value: []any{1, "x", nil, []any{}, driver.Headers{}}},
			{Key: "map", Value: map[string]any{"in": driver.Headers{{Key: "deep", Value: nest(29)}}}}, {Key: "", Value: "empty key"},
			{Key: "dec", Value: amqp091.Decimal{Scale: 2, Value: -125}},
		},
	}
	mustPublish(t, s, m)
	got := receive(t, openReceiver(t, s, driver.ReceiverConfig{Queue: q, Prefetch: 1}), 1)[0].Props
	want := m.Props
	want.Headers = driver.Headers{ // sorted, numbers int64, times UTC
		{Key: "", Value: "empty key"}, {Key: "bool", Value: true}, {Key: "bytes", Value: []byte{0, 255}},
		{Key: "dec", Value: amqp091.Decimal{Scale: 2, Value: -125}}, {Key: "f32", Value: 1.5}, {Key: "f64", Value: math.Pi},
		{Key: "i16", Value: int64(-300)}, {Key: "int", Value: int64(-7)}, {Key: "list", Value: []any{int64(1), "x", nil, []any(nil), driver.Headers{}}},
		{Key: "map", Value: driver.Headers{{Key: "in", Value: driver.Headers{{Key: "deep", Value: wide(nest(29))}}}}},
		{Key: "max", Value: int64(math.MaxInt64)}, {Key: "min", Value: int64(math.MinInt64)}, {Key: "nil", Value: nil},
		{Key: "time", Value: at}, {Key: "u32", Value: int64(math.MaxUint32)}, {Key: "u8", Value: int64(200)}, {Key: "z", Value: "ключ\x00☃"},
	}
	if !reflect.DeepEqual(got, want) {
		t.Fatalf("%+v\nwant\n%+v", got, want)
	}
}

func wide(v any) any {
	if list, ok := v.([]any); ok {
		return []any{wide(list[0])}
	}
	return int64(v.(int))
}

func TestUnsupportedHeaders(t *testing.T) {
	for name, v := range map[string]any{
		"struct": struct{}{}, "chan": make(chan int), "complex": complex(1, 1), "uint64": uint64(math.MaxUint64), "named": time.Second,
		"in list": []any{1, struct{}{}}, "in map": map[string]any{"x": struct{}{}}, "deep": nest(33), "long": make([]any, maxEntries+1),
		"key": map[string]any{strings.Repeat("k", 256): 1},
	} {
		_, _, err := fromHeaders(driver.Headers{{Key: "here", Value: v}})
		if err == nil || !strings.Contains(err.Error(), `"here"`) {
			t.Errorf("%s: %v; want an error that names the key", name, err)
		}
	}
}

// The size that fromHeaders says is that of the encoding, and what it says of
// each field is what mend reads.
func FuzzHeaderSize(f *testing.F) {
	f.Add("key", "value", int64(1)<<40, []byte("x"), 1.5, uint8(3))
	f.Add("", "", int64(-1), []byte(nil), math.NaN(), uint8(0))
	f.Fuzz(func(t *testing.T, key, s string, n int64, b []byte, d float64, depth uint8) {
		if len(key) > maxShortstr {
			return // no key of a table
		}
		var v any = driver.Headers{{Key: key, Value: s}, {Key: "n", Value: n}, {Key: key, Value: b}}
		for range depth % 20 {
			v = []any{v, d, nil, true, time.Unix(n, 0), float32(d), map[string]any{key: int32(n)}}
		}
		table, size, err := fromHeaders(driver.Headers{{Key: "v", Value: v}})
		if err != nil {
			t.Fatal(err)
		}
		wire := appendTable(nil, table)
		if len(wire) != size {
			t.Fatalf("%d bytes on the wire, %d said", len(wire), size)
		}
		if got := fieldSize(wire[4+2:]); got != size-4-2 { // behind the length and the key "v"
			t.Fatalf("the field has %d bytes, mend sees %d", size-4-2, got)
		}
	})
}

// appendTable is the field table grammar of AMQP 0-9-1, section 4.2.5.5, with
// RabbitMQ's types.
func appendTable(dst []byte, t amqp091.Table) []byte {
	var body []byte
	for k, v := range t {
		body = appendField(append(append(body, byte(len(k))), k...), v)
	}
	return append(binary.BigEndian.AppendUint32(dst, uint32(len(body))), body...)
}

func appendField(dst []byte, v any) []byte {
	be := binary.BigEndian
	switch v := v.(type) {
	case nil:
		return append(dst, 'V')
	case bool:
		return append(dst, 't', 1)
	case string:
		return append(be.AppendUint32(append(dst, 'S'), uint32(len(v))), v...)
	case []byte:
		return append(be.AppendUint32(append(dst, 'x'), uint32(len(v))), v...)
	case int32:
		return be.AppendUint32(append(dst, 'I'), uint32(v))
	case int64:
		return be.AppendUint64(append(dst, 'l'), uint64(v))
	case float32:
		return be.AppendUint32(append(dst, 'f'), math.Float32bits(v))
	case float64:
		return be.AppendUint64(append(dst, 'd'), math.Float64bits(v))
	case time.Time:
		return be.AppendUint64(append(dst, 'T'), uint64(v.Unix()))
	case amqp091.Table:
		return appendTable(append(dst, 'F'), v)
	case []any:
		var body []byte
		for _, e := range v {
			body = appendField(body, e)
		}
		return append(be.AppendUint32(append(dst, 'A'), uint32(len(body))), body...)
	}
	panic(v)
}

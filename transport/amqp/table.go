package amqp

import (
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"time"

	"github.com/gombu/gombu/driver"
	amqp091 "github.com/rabbitmq/amqp091-go"
)

// Limits of the field table grammar (AMQP 0-9-1, section 4.2.5.5), and what
// amqp091 refuses to read back: such a header would cost every Go consumer
// of the queue its connection.
const (
	maxShortstr = 255
	maxDepth    = 32
	maxEntries  = 8192
)

// fromHeaders makes a field table of h and says how many bytes it takes on the
// wire, its own length field included. The types are those that py-amqp reads
// as they are meant (wire: amqp.md section 2): whole numbers are 'I', or 'l'
// where 32 bits do not do. Its error names the key.
func fromHeaders(h driver.Headers) (amqp091.Table, int, error) {
	return encoder{}.table(h)
}

// toHeaders is the reverse. A field table has no order: keys come sorted.
// Whole numbers become int64, times UTC.
func toHeaders(t amqp091.Table) driver.Headers {
	if len(t) == 0 {
		return nil
	}
	h := make(driver.Headers, 0, len(t))
	for k, v := range t {
		h = append(h, driver.Header{Key: k, Value: fromField(v)})
	}
	slices.SortFunc(h, func(a, b driver.Header) int {
		if a.Key < b.Key {
			return -1
		}
		return 1
	})
	return h
}

type encoder struct{ depth int }

func (e encoder) table(h driver.Headers) (amqp091.Table, int, error) {
	size := 4
	if len(h) == 0 {
		return nil, size, nil
	}
	if len(h) > maxEntries {
		return nil, 0, fmt.Errorf("%d entries, want at most %d", len(h), maxEntries)
	}
	t := make(amqp091.Table, len(h))
	for _, entry := range h {
		if len(entry.Key) > maxShortstr {
			return nil, 0, fmt.Errorf("key %.20q… is longer than %d bytes", entry.Key, maxShortstr)
		}
		v, n, err := e.field(entry.Value)
		if err != nil {
			return nil, 0, fmt.Errorf("%q: %w", entry.Key, err)
		}
		if old, twice := t[entry.Key]; twice { // the last one wins
			_, m, _ := e.field(old)
			size -= 1 + len(entry.Key) + m
		}
		t[entry.Key] = v
		size += 1 + len(entry.Key) + n
	}
	return t, size, nil
}

// field returns v as amqp091 writes it, and its size with the type octet.
func (e encoder) field(v any) (any, int, error) {
	switch v := v.(type) {
	case nil:
		return nil, 1, nil
	case bool:
		return v, 2, nil
	case string:
		return v, 5 + len(v), nil
	case []byte:
		return v, 5 + len(v), nil
	case float32:
		return v, 5, nil
	case float64:
		return v, 9, nil
	case time.Time:
		return v, 9, nil
	case amqp091.Decimal:
		return v, 6, nil
	case []any:
		return e.array(v)
	case driver.Headers:
		return e.nested(v)
	case map[string]any:
		return e.mapping(v)
	case amqp091.Table:
		return e.mapping(v)
	case uint64:
		if v > math.MaxInt64 {
			return nil, 0, fmt.Errorf("%d does not fit 64 bits with a sign", v)
		}
	case uint:
		if uint64(v) > math.MaxInt64 {
			return nil, 0, fmt.Errorf("%d does not fit 64 bits with a sign", v)
		}
	}
	n, ok := wholeNumber(v)
	switch {
	case !ok:
		return nil, 0, fmt.Errorf("AMQP has no type for a %T", v)
	case n == int64(int32(n)):
		return int32(n), 5, nil
	default:
		return n, 9, nil
	}
}

func (e encoder) deeper() (encoder, error) {
	e.depth++
	if e.depth > maxDepth {
		return e, fmt.Errorf("nested more than %d deep", maxDepth)
	}
	return e, nil
}

func (e encoder) nested(h driver.Headers) (any, int, error) {
	e, err := e.deeper()
	if err != nil {
		return nil, 0, err
	}
	t, n, err := e.table(h)
	if t == nil {
		t = amqp091.Table{}
	}
	return t, n + 1, err
}

func (e encoder) mapping(m map[string]any) (any, int, error) {
	h := make(driver.Headers, 0, len(m))
	for k, v := range m {
		h = append(h, driver.Header{Key: k, Value: v})
	}
	return e.nested(h)
}

func (e encoder) array(list []any) (any, int, error) {
	e, err := e.deeper()
	if err != nil {
		return nil, 0, err
	}
	if len(list) > maxEntries {
		return nil, 0, fmt.Errorf("%d elements, want at most %d", len(list), maxEntries)
	}
	out, size := make([]any, len(list)), 5
	for i, v := range list {
		v, n, err := e.field(v)
		if err != nil {
			return nil, 0, fmt.Errorf("element %d: %w", i, err)
		}
		out[i] = v
		size += n
	}
	return out, size, nil
}

func wholeNumber(v any) (int64, bool) {
	switch v := v.(type) {
	case int:
		return int64(v), true
	case int8:
		return int64(v), true
	case int16:
		return int64(v), true
	case int32:
		return int64(v), true
	case int64:
		return v, true
	case uint:
		return int64(v), true
	case uint8:
		return int64(v), true
	case uint16:
		return int64(v), true
	case uint32:
		return int64(v), true
	case uint64:
		return int64(v), true
	}
	return 0, false
}

func fromField(v any) any {
	if n, ok := wholeNumber(v); ok {
		return n
	}
	switch v := v.(type) {
	case float32:
		return float64(v)
	case time.Time:
		return v.UTC()
	case amqp091.Table:
		if len(v) == 0 {
			return driver.Headers{}
		}
		return toHeaders(v)
	case []any:
		for i := range v {
			v[i] = fromField(v[i])
		}
	}
	return v
}

// hashTable adds up t whatever the order of its entries: a returned message
// comes back with them in another one.
func hashTable(seed maphash.Seed, t amqp091.Table) uint64 {
	var sum uint64
	for k, v := range t {
		var h maphash.Hash
		h.SetSeed(seed)
		h.WriteString(k)
		h.WriteByte(0)
		hashField(&h, v)
		sum += h.Sum64()
	}
	return sum
}

func hashField(h *maphash.Hash, v any) {
	switch v := v.(type) {
	case amqp091.Table:
		maphash.WriteComparable(h, hashTable(h.Seed(), v))
	case []any:
		for _, e := range v {
			hashField(h, e)
		}
	case []byte:
		h.Write(v)
	case time.Time:
		maphash.WriteComparable(h, v.Unix())
	case nil:
		h.WriteByte('V')
	default: // numbers, strings, bool, Decimal
		maphash.WriteComparable(h, v)
	}
}

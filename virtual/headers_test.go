package virtual

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu/driver"
)

// slowHeaders is the definition of a headers match.
func slowHeaders(args, have driver.Headers) bool {
	how, _ := args.Get("x-match").(string)
	all := !strings.HasPrefix(how, "any")
	for _, a := range args {
		if a.Key == "x-match" || !strings.HasSuffix(how, "-with-x") && strings.HasPrefix(a.Key, "x-") {
			continue
		}
		v, there := have.Lookup(a.Key)
		if hit := there && (a.Value == nil || equalValues(a.Value, v)); hit != all {
			return !all
		}
	}
	return all
}

// The index agrees with the definition over random tables, while bindings come
// and go.
func TestHeadersIndex(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	values := []any{nil, true, int32(1), int64(1), 2.5, "a", []byte("a"), time.Unix(5, 0), []any{"a"}, driver.Headers{{Key: "k", Value: 1}}}
	keys := []string{"a", "b", "c", "x-d"}
	random := func(match bool) driver.Headers {
		var h driver.Headers
		if match {
			if how := []string{"", "all", "any", "all-with-x", "any-with-x"}[r.IntN(5)]; how != "" {
				h = append(h, driver.Header{Key: "x-match", Value: how})
			}
		}
		for _, k := range keys {
			if r.IntN(2) == 0 {
				h = append(h, driver.Header{Key: k, Value: values[r.IntN(len(values))]})
			}
		}
		return h
	}
	var (
		x        headersIndex
		s        search
		bindings []*binding
	)
	for i := range 3000 {
		if i%3 == 2 {
			at := r.IntN(len(bindings))
			x.remove(bindings[at])
			bindings = slices.Delete(bindings, at, at+1)
		} else {
			b := bind("", fmt.Sprint("q", i))
			b.args = random(true)
			bindings = append(bindings, b)
			x.add(b)
		}
		have := random(false)
		want := []string{}
		for _, b := range bindings {
			if slowHeaders(b.args, have) {
				want = append(want, b.to.queue.name)
			}
		}
		slices.Sort(want)
		if got := find(&x, &s, "", have); !slices.Equal(got, want) {
			t.Fatalf("%v: %q, want %q", have, got, want)
		}
	}
	for _, b := range bindings {
		x.remove(b)
	}
	if len(x.byHeader) != 0 || len(x.always) != 0 {
		t.Errorf("an emptied index keeps %v %v", x.byHeader, x.always)
	}
}

func TestEqualValues(t *testing.T) {
	for _, c := range []struct {
		a, b any
		want bool
	}{
		{int8(1), uint64(1), true}, {int64(1), 1.0, false}, {"1", 1, false}, {nil, nil, true}, {nil, "", false},
		{uint64(1 << 63), float64(1 << 63), true}, {float32(0.5), 0.5, true},
		{driver.Headers{{Key: "a", Value: 1}, {Key: "b", Value: 2}}, driver.Headers{{Key: "b", Value: int16(2)}, {Key: "a", Value: 1}}, true},
		{[]any{1, "x"}, []any{int64(1), "x"}, true}, {[]any{1}, []any{1, 2}, false},
		{time.Unix(1, 0), time.Unix(1, 0).UTC(), true},
	} {
		if got := equalValues(c.a, c.b); got != c.want {
			t.Errorf("%#v = %#v: %v", c.a, c.b, got)
		}
	}
}

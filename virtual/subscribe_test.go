package virtual_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/gombu/gombu/driver"
)

// What a subscription has and the receiver had no room for yet outlives a
// change of the queue's bindings, and comes before what is published after it.
func TestResubscribingKeepsWhatIsBuffered(t *testing.T) {
	f := newFake(true)
	p := newPeer(t, f)
	p.declare(driver.Exchange{Name: "x", Type: driver.TypeFanout}, driver.Exchange{Name: "y", Type: driver.TypeFanout},
		driver.Binding{Exchange: "x", Queue: "q"}, driver.Binding{Exchange: "y", Queue: "q"})
	r := p.consume("q", 1)
	publish := func(exchange, body string) {
		t.Helper()
		if err := p.publish(exchange, "", body); err != nil {
			t.Fatal(err)
		}
	}
	want := make([]string, 30)
	for i := range want {
		if i == 20 {
			p.declare(driver.Binding{Exchange: "x", Queue: "q", Key: "k"})
		}
		want[i] = fmt.Sprintf("%02d", i)
		publish("x", want[i])
	}
	publish("y", "y1")
	publish("y", "y2")
	if err := p.apply(driver.Delete, driver.Binding{Exchange: "y", Queue: "q"}); err != nil {
		t.Fatal(err)
	}
	var x, y []string
	for range len(want) + 2 {
		in := p.receive(r, 1)
		if body := string(in[0].Body); body[0] == 'y' {
			y = append(y, body)
		} else {
			x = append(x, body)
		}
		if err := r.Settle(p.ctx, []driver.Settlement{{Tag: in[0].Tag}}); err != nil {
			t.Fatal(err)
		}
	}
	if !slices.Equal(x, want) || !slices.Equal(y, []string{"y1", "y2"}) {
		t.Errorf("%q and %q", x, y)
	}
	p.silent(r)
}

package virtual_test

import (
	"fmt"
	"sync"
	"testing"

	"github.com/gombu/gombu/driver"
)

// A receiver whose session died, and which nobody has closed yet, is not in the
// way of the next session: neither of its bindings, nor of its queue.
func TestReceiverOfADeadSessionIsNotInTheWay(t *testing.T) {
	f := newFake(true)
	c := f.connector()
	first, second := connectPeer(t, f, c), connectPeer(t, f, c)
	x, q := driver.Exchange{Name: "x", Type: driver.TypeFanout}, driver.Queue{Name: "q", AutoDelete: true}
	first.declare(x, q, driver.Binding{Exchange: "x", Queue: "q"})
	old := first.consume("q", 1)
	first.fake.finish(errKilled)
	<-first.conn.Done()
	second.declare(x, q, driver.Binding{Exchange: "x", Queue: "q"}, driver.Binding{Exchange: "x", Queue: "q", Key: "k"})
	if err := old.Close(first.ctx); err != nil {
		t.Fatal(err)
	}
	r := second.consume("q", 1)
	if err := second.publish("x", "k", "m"); err != nil {
		t.Fatal(err)
	}
	second.receive(r, 1)
}

// An exchange that was only assumed may be declared while others publish to it.
func TestDeclareWhilePublishing(t *testing.T) {
	f := newFake(true)
	f.delay = 0
	other, p := newPeer(t, f), newPeer(t, f)
	const many = 30
	for i := range many {
		x := fmt.Sprint("x", i)
		other.declare(driver.Exchange{Name: x}, driver.Binding{Exchange: x, Queue: "q", Key: "k"})
		p.declare(driver.Binding{Exchange: x, Queue: "q", Key: "k"})
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range many {
		x := fmt.Sprint("x", i)
		wg.Go(func() {
			if err := p.publish(x, "k", "m"); err != nil {
				t.Error(err)
			}
		})
		p.declare(driver.Exchange{Name: x})
	}
}

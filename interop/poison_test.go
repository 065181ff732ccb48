package interop

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gombu/gombu"
)

// poisonBrokers are the kinds of queue that must outlive poison.
func poisonBrokers() map[string]poisonBroker {
	rabbit := brokers()[0]
	return map[string]poisonBroker{
		"classic": {rabbit, gombu.Queue{}},
		"redis":   {brokers()[1], gombu.Queue{}},
		"quorum":  {rabbit, gombu.Queue{Args: gombu.Headers{{Key: "x-queue-type", Value: "quorum"}}}},
	}
}

type poisonBroker struct {
	broker
	queue gombu.Queue
}

// goodOnes is how many messages surround the poison.
const goodOnes = 1000

// One poison among 1 000 good ones, prefetch 100, which ends its process at
// every start, or only fails: five starts, one dead letter, and nobody dies
// with it.
func TestPoisonEnds(t *testing.T) {
	for name, b := range poisonBrokers() {
		for _, how := range []string{"exit", "fail"} {
			t.Run(name+"/"+how, func(t *testing.T) {
				need(t, b.broker)
				t.Parallel() // most of it is waiting, for back-offs and take-overs
				poison(t, b, how)
			})
		}
	}
}

func poison(t *testing.T, b poisonBroker, how string) {
	conn := open(t, b.broker, "")
	q := name(t, "poison")
	b.queue.Name = q
	must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{b.queue}}))
	drop(t, b.broker, gombu.Topology{Queues: []gombu.Queue{{Name: q}, {Name: "gombu.retry." + q}, {Name: "gombu.dead." + q}}})
	ms := make([]*gombu.Message, goodOnes+1)
	for i := range ms {
		ms[i] = &gombu.Message{Queue: q, Body: fmt.Append(nil, i), Properties: gombu.Properties{MessageID: fmt.Sprint(i)}}
	}
	const at = goodOnes / 3
	ms[at].Body, ms[at].MessageID = []byte("poison"), "poison"
	ms[at].Headers = gombu.Headers{{Key: "own", Value: "header"}}
	must(t, conn.Producer(nil).PublishBatch(t.Context(), ms, nil))

	l := &poisonLedger{good: map[string]int{}}
	lives := 0
	for over := false; !over; lives++ {
		if lives > 8 {
			t.Fatalf("no end: attempts %v, %d handled", l.attempts, len(l.good))
		}
		over = l.live(t, b, q, how, func() bool { return left(conn, "gombu.dead."+q) > 0 })
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !slices.Equal(l.attempts, []int{1, 2, 3, 4, 5}) {
		t.Errorf("the poison was started as attempts %v", l.attempts)
	}
	if len(l.good) != goodOnes {
		t.Errorf("%d of %d good ones handled", len(l.good), goodOnes)
	}
	if dead, more := left(conn, "gombu.dead."+q), left(conn, q)+left(conn, "gombu.retry."+q); dead != 1 || more != 0 {
		t.Errorf("%d dead letters, %d messages left", dead, more)
	}
	again := 0
	for _, n := range l.good {
		again += n - 1
	}
	t.Logf("%d processes, %d good ones handled again", lives, again)
	d := take(t, conn, "gombu.dead."+q, 1, nil)[0]
	wantDeath(t, d, q)
}

func wantDeath(t *testing.T, d *gombu.Delivery, q string) {
	t.Helper()
	if string(d.Body) != "poison" || d.MessageID != "poison" || d.Headers.Get("own") != "header" {
		t.Errorf("dead letter %v, headers %v", d, d.Headers)
	}
	list, _ := d.Headers.Get("x-death").([]any)
	if len(list) != 1 {
		t.Fatalf("x-death %v", d.Headers.Get("x-death"))
	}
	e := list[0].(gombu.Headers)
	when, _ := e.Get("time").(time.Time)
	if e.Get("queue") != q || e.Get("reason") != "delivery_limit" || e.Get("count") != int64(1) || e.Get("exchange") != "" ||
		fmt.Sprint(e.Get("routing-keys")) != "["+q+"]" || e.Get("attempts") != int64(5) || e.Get("error") == "" ||
		time.Since(when).Abs() > 5*time.Minute || d.Headers.Get("x-first-death-reason") != "delivery_limit" {
		t.Errorf("x-death %v", e)
	}
}

func left(conn *gombu.Conn, q string) int {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	info, err := conn.Inspect(ctx, q)
	if err != nil {
		return 0
	}
	return info.Ready + max(info.Unsettled, 0)
}

// A poisonLedger has what the consumers said, whatever became of them.
type poisonLedger struct {
	mu       sync.Mutex
	attempts []int
	good     map[string]int
}

// live runs one consumer process until it dies (false) or all is done (true).
func (l *poisonLedger) live(t *testing.T, b poisonBroker, q, how string, dead func() bool) bool {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	c := exec.Command(self)
	c.Env = append(os.Environ(), eaterHow+"="+how, eaterURL+"="+b.url, eaterQueue+"="+q)
	c.Stderr = os.Stderr
	stop, err := c.StdinPipe()
	must(t, err)
	out, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	died := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(died)
		for s := bufio.NewScanner(out); s.Scan(); {
			l.note(s.Text())
		}
	})
	defer wg.Wait()
	deadline := time.NewTimer(3 * time.Minute)
	defer deadline.Stop()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-died:
			_ = c.Wait()
			return false
		case <-deadline.C:
			_ = c.Process.Kill()
			<-died
			_ = c.Wait()
			t.Fatalf("no end: attempts %v, %d handled", l.attempts, len(l.good))
		case <-tick.C:
			l.mu.Lock()
			all := len(l.good) == goodOnes
			l.mu.Unlock()
			if all && dead() {
				must(t, stop.Close()) // the consumer ends in order
				<-died
				must(t, c.Wait())
				return true
			}
		}
	}
}

func (l *poisonLedger) note(line string) {
	what, value, _ := strings.Cut(line, " ")
	l.mu.Lock()
	defer l.mu.Unlock()
	switch what {
	case "poison":
		n, _ := strconv.Atoi(value)
		l.attempts = append(l.attempts, n)
	case "good":
		l.good[value]++
	}
}

// An eater is this test binary run once more, as a consumer.
const (
	eaterHow   = "GOMBU_INTEROP_EATER"
	eaterURL   = "GOMBU_INTEROP_EATER_URL"
	eaterQueue = "GOMBU_INTEROP_EATER_QUEUE"
)

func beEater(how, url, queue string) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	go func() { // the process ends with it
		_, _ = io.Copy(io.Discard, os.Stdin)
		stop()
	}()
	conn, err := gombu.Open(url, nil)
	if err == nil {
		err = conn.Run(ctx, gombu.ConsumerConfig{Queues: []string{queue}, Prefetch: 100, Workers: 2}, func(_ context.Context, d *gombu.Delivery) error {
			if string(d.Body) != "poison" {
				fmt.Println("good", d.MessageID)
				return nil
			}
			fmt.Println("poison", d.Attempt)
			if how == "exit" {
				os.Exit(3)
			}
			return errors.New("poison")
		})
		err = errors.Join(err, conn.Close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// What RabbitMQ acts upon does not act upon copies: a message with further
// routing keys, a user id, an expiration and no content type is handled three
// times as it was published, and is nowhere else.
func TestCopiesOnRabbitMQ(t *testing.T) {
	for kind, b := range poisonBrokers() {
		if b.name != "rabbitmq" {
			continue
		}
		t.Run(kind, func(t *testing.T) {
			need(t, b.broker)
			conn := open(t, b.broker, "")
			q, cc, x := name(t, "copy"), name(t, "cc"), name(t, "x")
			b.queue.Name = q
			must(t, conn.Declare(t.Context(), gombu.Topology{
				Exchanges: []gombu.Exchange{{Name: x}}, Queues: []gombu.Queue{b.queue, {Name: cc}},
				Bindings: []gombu.Binding{{Exchange: x, Queue: q, Key: "key"}, {Exchange: x, Queue: cc, Key: cc}},
			}))
			drop(t, b.broker, gombu.Topology{Exchanges: []gombu.Exchange{{Name: x}},
				Queues: []gombu.Queue{{Name: q}, {Name: cc}, {Name: "gombu.retry." + q}, {Name: "gombu.dead." + q}}})
			must(t, conn.Producer(nil).Publish(t.Context(), &gombu.Message{Exchange: x, Key: "key", Body: []byte("b"), Properties: gombu.Properties{
				UserID: "guest", Expiration: time.Hour, MessageID: "m",
				Headers: gombu.Headers{{Key: "CC", Value: []any{cc}}, {Key: "own", Value: "h"}},
			}}))
			n := 0
			take(t, conn, q, 3, func(ctx context.Context, d *gombu.Delivery) error {
				n++
				if d.Queue != q || d.Exchange != x || d.Key != "key" || string(d.Body) != "b" || d.Attempt != n || d.Redelivered != (n > 1) ||
					d.UserID != "guest" || d.Expiration != time.Hour || d.MessageID != "m" || fmt.Sprint(d.Headers.Get("CC")) != "["+cc+"]" || len(d.Headers) != 2 {
					t.Errorf("start %d: %v, attempt %d, redelivered %v, %+v", n, d, d.Attempt, d.Redelivered, d.Properties)
				}
				if n < 3 {
					return d.Requeue(ctx)
				}
				return gombu.Retry(0, nil)
			})
			take(t, conn, q, 1, func(context.Context, *gombu.Delivery) error { return nil })
			if other := left(conn, cc); other != 1 {
				t.Errorf("%d messages reached the other queue, want 1", other)
			}
		})
	}
}

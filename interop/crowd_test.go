package interop

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/gombutest/proxy"
	"github.com/gombu/gombu/gombutest/server"
)

// callers is how many calls wait at once.
const callers = 10000

// hurtable are brokers of this test run alone.
func hurtable(t *testing.T) map[string]*server.Server {
	t.Helper()
	r, err := server.Redis(t.TempDir())
	installed(t, err)
	t.Cleanup(r.Close)
	must(t, r.Start(t.Context()))
	return map[string]*server.Server{"rabbitmq": node(t), "redis": r}
}

// Ten thousand callers at once, of every kind of call, whatever holds the broker
// up: each returns by its deadline, with an error that says what is known.
func TestTenThousandDeadlines(t *testing.T) {
	for name, s := range hurtable(t) {
		for what, hold := range map[string]func(t *testing.T, p *proxy.Proxy) (release func()){
			"stopped": func(t *testing.T, _ *proxy.Proxy) func() {
				must(t, s.Pause())
				return func() { must(t, s.Resume()) }
			},
			"black hole": func(_ *testing.T, p *proxy.Proxy) func() {
				p.Hold(proxy.Both)
				return func() { p.Flow(proxy.Both) }
			},
			"blocked writes": func(_ *testing.T, p *proxy.Proxy) func() {
				p.Hold(proxy.Up)
				return func() { p.Flow(proxy.Up) }
			},
			"alarm": func(t *testing.T, _ *proxy.Proxy) func() { return alarm(t) },
		} {
			if what == "alarm" && name == "redis" {
				continue // it has none: it refuses
			}
			t.Run(name+"/"+what, func(t *testing.T) {
				size := 100
				if what == "blocked writes" {
					size = 4 << 10 // 40 MB together: more than all buffers on the way
				}
				tenThousand(t, s, what, size, hold)
			})
		}
	}
}

// alarm makes the private RabbitMQ believe that its memory is full.
func alarm(t *testing.T) (clear func()) {
	t.Helper()
	ctl(t, "set_vm_memory_high_watermark", "0")
	return func() { ctl(t, "set_vm_memory_high_watermark", "absolute", "2GB") }
}

func tenThousand(t *testing.T, s *server.Server, what string, size int, hold func(*testing.T, *proxy.Proxy) func()) {
	b, p := through(t, broker{url: s.URL()})
	conn, err := gombu.Open(b.url, &gombu.Config{Grace: time.Second})
	must(t, err)
	q := name(t, "q")
	must(t, conn.Declare(t.Context(), gombu.Topology{Queues: []gombu.Queue{{Name: q}}}))
	claims := claimed(t, conn, q, callers/20)
	before := allocated()
	release := sync.OnceFunc(hold(t, p))
	defer release()
	var late atomic.Int64
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() {
			call, mustFail := oneOf(conn, i, q, size, what, claims)
			ctx, cancel := context.WithTimeout(t.Context(), deadline)
			defer cancel()
			end := time.Now().Add(deadline)
			err := call(ctx)
			over := int64(time.Since(end))
			for old := late.Load(); over > old && !late.CompareAndSwap(old, over); old = late.Load() {
			}
			if err == nil && !mustFail {
				return
			}
			known := errors.Is(err, gombu.ErrUncertain) || errors.Is(err, gombu.ErrNotSent) || errors.Is(err, gombu.ErrUnavailable)
			if !errors.Is(err, context.DeadlineExceeded) || !known || what == "alarm" && !errors.Is(err, gombu.ErrBlocked) {
				t.Errorf("caller %d: %v", i, err)
			}
		})
	}
	var most uint64
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	for waiting := true; waiting; {
		select {
		case <-done:
			waiting = false
		case <-time.After(50 * time.Millisecond):
			most = max(most, allocated())
		}
	}
	t.Logf("the latest came %v after its deadline; %d KiB a caller", time.Duration(late.Load()), (max(most, before)-before)/callers>>10)
	if late.Load() > int64(room) {
		t.Errorf("a call came %v after its deadline", time.Duration(late.Load()))
	}
	if each := (max(most, before) - before) / callers; each > uint64(64<<10+4*size) {
		t.Errorf("%d bytes a caller", each)
	}
	release()
	must(t, s.Answers(t.Context()))
	_ = conn.Close() // it says what is not known
}

func allocated() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc + m.StackInuse
}

// claimed takes n messages and holds them.
func claimed(t *testing.T, conn *gombu.Conn, q string, n int) []*gombu.Delivery {
	t.Helper()
	ms := make([]*gombu.Message, n)
	for i := range ms {
		ms[i] = &gombu.Message{Queue: q, Body: []byte("x")}
	}
	must(t, conn.Producer(nil).PublishBatch(t.Context(), ms, nil))
	got := make(chan *gombu.Delivery, n)
	running(t, conn, gombu.ConsumerConfig{Queues: []string{q}, Prefetch: n}, func(_ context.Context, d *gombu.Delivery) error {
		got <- d
		return d.Detach()
	})
	claims := make([]*gombu.Delivery, n)
	for i := range claims {
		claims[i] = <-got
	}
	return claims
}

// oneOf is what caller i does: most publish. Whether it must fail is known of
// what needs an answer.
func oneOf(conn *gombu.Conn, i int, q string, size int, what string, claims []*gombu.Delivery) (call func(context.Context) error, mustFail bool) {
	answered := what == "alarm"
	kind := i % 20
	if answered && i%200 >= 20 && kind < 3 {
		kind = 0 // questions are answered one after another: a hundred of them have the time
	}
	switch kind {
	case 1: // Redis is not asked about a queue
		return func(ctx context.Context) error {
			return conn.Declare(ctx, gombu.Topology{Queues: []gombu.Queue{{Name: q}}})
		}, !answered && conn.String()[:4] == "amqp"
	case 2:
		return func(ctx context.Context) error { _, err := conn.Inspect(ctx, q); return err }, !answered
	case 3: // an ack is written without an answer
		return func(ctx context.Context) error { return claims[i/20].Ack(ctx) }, false
	}
	return func(ctx context.Context) error {
		return conn.Producer(nil).Publish(ctx, &gombu.Message{Queue: q, Body: make([]byte, size)})
	}, true
}

package torture

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu"
	"github.com/gombu/gombu/driver"
	transport "github.com/gombu/gombu/transport/memory"
)

// inside is a broker in this process, whose sessions can be lost and whose
// store can fail.
type inside struct {
	driver.Connector
	log     *slog.Logger
	failing atomic.Bool // publishes fail, some before and some after the store has them

	mu       sync.Mutex
	sessions map[*fragile]struct{}
}

func newInside(log *slog.Logger) *inside {
	return &inside{log: log, Connector: transport.New(transport.Config{Name: "torture"}), sessions: map[*fragile]struct{}{}}
}

// conn is a new Conn to it, as another program's would be.
func (b *inside) conn(grace time.Duration) *gombu.Conn {
	return gombu.New(b, &gombu.Config{Grace: grace, Log: b.log})
}

// Connect implements driver.Connector.
func (b *inside) Connect(ctx context.Context, env driver.Env) (driver.Conn, error) {
	c, err := b.Connector.Connect(ctx, env)
	if err != nil {
		return nil, err
	}
	f := &fragile{Conn: c, box: b, done: make(chan struct{})}
	b.mu.Lock()
	b.sessions[f] = struct{}{}
	b.mu.Unlock()
	return f, nil
}

// lose ends all sessions as a crash of the broker's side would.
func (b *inside) lose(ctx context.Context) {
	b.mu.Lock()
	all := b.sessions
	b.sessions = map[*fragile]struct{}{}
	b.mu.Unlock()
	for f := range all {
		f.end(errors.New("lost by the torture"))
		_ = f.Conn.Close(ctx) // it gives claims back, as a broker does that finds a dead link
	}
}

// fragile is a session that can be lost.
type fragile struct {
	driver.Conn
	box  *inside
	done chan struct{}

	mu  sync.Mutex
	err error
}

func (f *fragile) end(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil {
		f.err = &driver.Error{Op: "session", Transport: memory, Kind: driver.ErrUnavailable, Err: why}
		close(f.done)
	}
}

// Done implements driver.Conn.
func (f *fragile) Done() <-chan struct{} { return f.done }

// Err implements driver.Conn.
func (f *fragile) Err() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.err
}

// Close implements driver.Conn.
func (f *fragile) Close(ctx context.Context) error {
	f.box.mu.Lock()
	delete(f.box.sessions, f)
	f.box.mu.Unlock()
	f.end(driver.ErrClosed)
	return f.Conn.Close(ctx)
}

// OpenSender implements driver.Conn.
func (f *fragile) OpenSender(ctx context.Context, c driver.SenderConfig) (driver.Sender, error) {
	s, err := f.Conn.OpenSender(ctx, c)
	return failingSender{s, f.box}, err
}

type failingSender struct {
	driver.Sender
	box *inside
}

// Submit implements driver.Sender.
func (s failingSender) Submit(ctx context.Context, batch []driver.Outgoing) (int, error) {
	if !s.box.failing.Load() || rand.IntN(4) > 0 {
		return s.Sender.Submit(ctx, batch)
	}
	kind := driver.ErrNotSent
	if rand.IntN(2) == 0 { // stored, and the answer is lost
		kind = driver.ErrUncertain
		if n, err := s.Sender.Submit(ctx, batch); err != nil {
			return n, err
		}
	}
	for i := range batch {
		batch[i].Done = true
		batch[i].Err = &driver.Error{Op: "publish", Transport: memory, Kind: kind, Err: errors.New("the store failed")}
	}
	return len(batch), nil
}

// embody starts a job in this process, on a connection of its own.
func (r *run) embody(ctx context.Context, j job, name string, conn *gombu.Conn) *actor {
	a := newActor(j, name, r.led)
	ctx, stop := context.WithCancel(ctx)
	pass := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(pass) })
	a.order = func(what string) {
		switch what {
		case orderGo:
			goOn()
		case orderStop:
			stop()
		}
	}
	a.conn = conn
	d := doing{
		job: j, rec: a.source, note: a.hear, pass: pass, trouble: a.bother,
		open: func() (*gombu.Conn, error) { return conn, nil },
	}
	r.wg.Go(func() {
		defer stop()
		err := d.run(ctx)
		a.mu.Lock()
		a.err = err
		a.mu.Unlock()
		close(a.over)
	})
	return a
}

// bother lets the trouble that was ordered happen, in a handler.
func (a *actor) bother(ctx context.Context) error {
	a.mu.Lock()
	t := a.trouble
	a.mu.Unlock()
	if t == nil {
		return nil
	}
	return t(ctx)
}

func (a *actor) setTrouble(t func(context.Context) error) {
	a.mu.Lock()
	a.trouble = t
	a.mu.Unlock()
}

var memoryFaults = []fault{
	{name: "panic", consuming: true, does: "a hundred handlers panic", on: onlyMemory, instead: hasProcess, inject: panics},
	{name: "cancel", consuming: true, does: "the context of a Run ends; another Run follows", on: onlyMemory, instead: hasProcess, inject: cancelRun},
	{name: "abandon", consuming: true, does: "handlers ignore the end of their context; their Run is abandoned and another follows", on: onlyMemory, instead: hasProcess, inject: abandon},
	{name: "close", consuming: true, does: "a consumer's Conn is closed under it; another one follows", on: onlyMemory, instead: hasProcess, inject: closeConn},
	{name: "lose-session", does: "every session ends at once, with calls under way", on: onlyMemory, instead: hasProcess, inject: loseSessions},
	{name: "fail-store", does: "a quarter of the publishes fails for --for, some after they were stored", on: onlyMemory, instead: hasProcess, inject: failStore},
}

func panics(ctx context.Context, r *run) error {
	f := r.led.Mark("panics")
	var left atomic.Int64
	left.Store(100)
	for _, a := range r.consumers {
		a.setTrouble(func(context.Context) error {
			if left.Add(-1) >= 0 {
				panic("ordered by the torture")
			}
			return nil
		})
	}
	err := r.until(ctx, "the panics", func() bool { return left.Load() <= 0 })
	for _, a := range r.consumers {
		a.setTrouble(nil)
	}
	f.Over()
	return err
}

// follow replaces a consumer that has ended.
func (r *run) follow(ctx context.Context, a *actor) error {
	a.source.Gone()
	return r.replace(ctx, []*actor{a})
}

func cancelRun(ctx context.Context, r *run) error {
	a := r.victims(1)[0]
	f := r.led.Mark("cancel of " + a.name)
	a.source.Gone()
	a.order(orderStop)
	<-a.over
	f.Over()
	return errors.Join(a.why(), r.follow(ctx, a))
}

func abandon(ctx context.Context, r *run) error {
	a := r.victims(1)[0]
	f := r.led.Mark("abandoned Run of " + a.name)
	caught, release := make(chan struct{}, 1000), make(chan struct{})
	a.setTrouble(func(context.Context) error {
		caught <- struct{}{}
		<-release
		return nil
	})
	if err := r.until(ctx, "a handler to abandon", func() bool { return len(caught) > 0 }); err != nil {
		a.setTrouble(nil)
		close(release)
		return err
	}
	a.source.Gone()
	a.order(orderStop)
	<-a.over
	if err := a.why(); !errors.Is(err, gombu.ErrAbandoned) {
		return fmt.Errorf("the Run was not abandoned: %w", err)
	}
	err := r.follow(ctx, a)
	f.Over()
	a.setTrouble(nil)
	close(release)
	return err
}

func closeConn(ctx context.Context, r *run) error {
	a := r.victims(1)[0]
	f := r.led.Mark("Close of " + a.name)
	a.source.Gone()
	err := a.conn.Close()
	<-a.over
	f.Over()
	return errors.Join(err, a.why(), r.follow(ctx, a))
}

func loseSessions(ctx context.Context, r *run) error {
	f := r.led.Mark("all sessions lost")
	r.box.lose(ctx)
	f.Over()
	return nil
}

func failStore(ctx context.Context, r *run) error {
	f := r.led.Mark(fmt.Sprintf("failing store for %v", r.cfg.For))
	r.box.failing.Store(true)
	pause(ctx, r.cfg.For)
	r.box.failing.Store(false)
	f.Over()
	return nil
}

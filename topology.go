package gombu

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/gombu/gombu/driver"
)

// A topology is the set of entities that a Conn has declared, kept to put them
// back after a reconnect.
type topology struct {
	mu      sync.Mutex
	entries []*entry // in order of declaration
	failing int      // entries whose last replay failed
	nudge   chan struct{}

	// exchanges is what is known of exchanges by name, replaced as a whole:
	// every publish reads it.
	exchanges atomic.Pointer[map[string]Exchange]
	handles   atomic.Int32 // PerSession queues
}

// An entry is one entity. Its key is what it is called, not how it is described.
type entry struct {
	key  string
	step driver.Step
	err  error // of its last replay
}

func (t *topology) init() {
	t.nudge = make(chan struct{}, 1)
	t.exchanges.Store(&map[string]Exchange{
		"amq.direct": {Type: Direct}, "amq.topic": {Type: Topic}, "amq.fanout": {Type: Fanout},
		"amq.headers": {Type: MatchHeaders}, "amq.match": {Type: MatchHeaders},
	})
}

// Declare declares the exchanges, queues and bindings of t, in that order, and
// puts them back after every reconnect. The error joins one Error per entity
// that failed (ErrConflict says which setting: have, want); the others stand.
// Exchanges named amq.* and entities with NoDeclare are not sent. A binding to
// the default exchange is none: every queue has it by its name.
func (c *Conn) Declare(ctx context.Context, t Topology) error {
	if err := c.checkTopology(&t); err != nil {
		return err
	}
	s, err := c.consume.get(ctx, "declare")
	if err != nil {
		return err
	}
	return c.declare(ctx, s, t)
}

func (c *Conn) declare(ctx context.Context, s *session, t Topology) error {
	steps := plan(t, false)
	for i := range t.Exchanges {
		if e := &t.Exchanges[i]; !declared(e) {
			c.topo.know(*e)
		}
	}
	if len(steps) == 0 {
		return nil
	}
	real := s.translate(steps)
	if err := s.Apply(ctx, real); err != nil {
		return c.sessionError(ctx, "declare", err)
	}
	var errs []error
	for i := range real {
		if real[i].Err != nil {
			errs = append(errs, c.named("declare", &steps[i], real[i].Err))
			continue
		}
		if e := steps[i].Exchange; e != nil {
			c.topo.know(*e)
		}
		if steps[i].Op == driver.Declare {
			c.topo.add(steps[i])
		}
	}
	return errors.Join(errs...)
}

// declareOnce declares what this session has not declared yet; what the broker
// may delete by itself is declared every time, as in Kombu. A session that is
// lost meanwhile is no failure: the next one is asked.
func (c *Conn) declareOnce(ctx context.Context, t *Topology) error {
	if t == nil {
		return nil
	}
	for {
		s, err := c.consume.get(ctx, "declare")
		if err != nil {
			return err
		}
		err = c.declareIn(ctx, s, t)
		if !errors.Is(err, ErrUnavailable) || !s.ending(ctx) {
			return err
		}
	}
}

// declareIn is declareOnce in one session.
func (c *Conn) declareIn(ctx context.Context, s *session, t *Topology) error {
	key, err := json.Marshal(t)
	if err != nil {
		return &Error{Op: "declare", Kind: ErrInvalid, Err: err}
	}
	if _, done := s.cached.Load(string(key)); done {
		return nil
	}
	if err := c.checkTopology(t); err != nil {
		return err
	}
	if err := c.declare(ctx, s, *t); err != nil {
		return err
	}
	if cacheable(t) {
		s.cached.Store(string(key), true)
	}
	return nil
}

func cacheable(t *Topology) bool {
	for i := range t.Exchanges {
		if t.Exchanges[i].AutoDelete {
			return false
		}
	}
	for i := range t.Queues {
		q := &t.Queues[i]
		_, expires := q.Args.Lookup("x-expires")
		if q.AutoDelete || q.Exclusive || q.Expires > 0 || expires {
			return false
		}
	}
	return true
}

// DeleteConfig configures Conn.Delete.
type DeleteConfig struct {
	IfUnused bool // only what has no consumers or bindings, else ErrConflict
	IfEmpty  bool // only queues without messages, else ErrConflict
}

// Delete undoes bindings, deletes queues and then exchanges, and forgets them
// for reconnects. Only names count. What does not exist is not an error. A nil
// cfg deletes whatever is in them.
func (c *Conn) Delete(ctx context.Context, t Topology, cfg *DeleteConfig) error {
	if cfg == nil {
		cfg = &DeleteConfig{}
	}
	s, err := c.consume.get(ctx, "delete")
	if err != nil {
		return err
	}
	steps := plan(t, true)
	slices.Reverse(steps)
	for i := range steps {
		steps[i].Op, steps[i].IfUnused, steps[i].IfEmpty = driver.Delete, cfg.IfUnused, cfg.IfEmpty
	}
	real := s.translate(steps)
	if err := s.Apply(ctx, real); err != nil {
		return c.sessionError(ctx, "delete", err)
	}
	s.deleted.Add(1)
	s.cached.Clear()
	var errs []error
	for i := range real {
		if real[i].Err != nil {
			errs = append(errs, c.named("delete", &steps[i], real[i].Err))
			continue
		}
		c.topo.remove(&steps[i])
	}
	return errors.Join(errs...)
}

// Inspect counts what is in a queue. Counts that the broker does not tell are
// -1. ErrNotFound: there is no such queue.
func (c *Conn) Inspect(ctx context.Context, queue string) (QueueInfo, error) {
	s, err := c.consume.get(ctx, "inspect")
	if err != nil {
		return QueueInfo{}, err
	}
	info, err := s.Inspect(ctx, s.name(queue))
	info.Name = queue
	if err != nil {
		return info, c.sessionError(ctx, "inspect", err)
	}
	return info, nil
}

// Purge drops the ready messages of a queue and returns their number.
func (c *Conn) Purge(ctx context.Context, queue string) (int, error) {
	s, err := c.consume.get(ctx, "purge")
	if err != nil {
		return 0, err
	}
	n, err := s.Purge(ctx, s.name(queue))
	if err != nil {
		return n, c.sessionError(ctx, "purge", err)
	}
	return n, nil
}

// Queues counts every queue that the broker can name; ErrUnsupported where it
// cannot.
func (c *Conn) Queues(ctx context.Context) ([]QueueInfo, error) {
	s, err := c.consume.get(ctx, "queues")
	if err != nil {
		return nil, err
	}
	l, ok := s.Conn.(driver.Lister)
	if !ok {
		return nil, &Error{Op: "queues", Transport: c.scheme(), Kind: ErrUnsupported, Err: errors.New("this broker does not list its queues")}
	}
	info, err := l.Queues(ctx)
	if err != nil {
		return nil, c.sessionError(ctx, "queues", err)
	}
	return info, nil
}

// BrokerName is what the broker calls a queue in the session that stands: the
// name itself, but for a PerSession queue. Use it for reply-to addresses that
// leave gombu; a Message's ReplyTo is translated by Publish.
func (c *Conn) BrokerName(queue string) string {
	if s := c.consume.peek(); s != nil {
		return s.name(queue)
	}
	return queue
}

// sessionError makes sure that an error of the session speaks of the context
// when that is what ended the call.
func (c *Conn) sessionError(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		err = errors.Join(err, context.Cause(ctx), ctx.Err())
	}
	var e *Error
	if errors.As(err, &e) && (ctx.Err() == nil || errors.Is(err, ErrUnavailable)) {
		return err
	}
	if ctx.Err() != nil {
		return &Error{Op: op, Transport: c.scheme(), Kind: cmp.Or[error](kindOf(err), ErrUnavailable), Err: err}
	}
	return &Error{Op: op, Transport: c.scheme(), Kind: ErrUnavailable, Err: err}
}

func kindOf(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Kind
	}
	return nil
}

func (c *Conn) named(op string, s *driver.Step, err error) error {
	var e *Error
	if errors.As(err, &e) && e.Entity != "" {
		return err
	}
	return &Error{Op: op, Transport: c.scheme(), Entity: entityOf(s), Kind: kindOf(err), Err: err}
}

// declared says whether e is sent to the broker when it is declared.
func declared(e *Exchange) bool {
	return e.Name != "" && !strings.HasPrefix(e.Name, "amq.") && !e.NoDeclare
}

// plan turns a topology into steps; with all, those that are never declared too.
func plan(t Topology, all bool) []driver.Step {
	steps := make([]driver.Step, 0, len(t.Exchanges)+len(t.Queues)+len(t.Bindings))
	op := func(passive bool) driver.Op {
		if passive {
			return driver.Check
		}
		return driver.Declare
	}
	for i := range t.Exchanges {
		if e := t.Exchanges[i]; all || declared(&e) {
			steps = append(steps, driver.Step{Op: op(e.Passive), Exchange: &e})
		}
	}
	for i := range t.Queues {
		if q := t.Queues[i]; all || !q.NoDeclare {
			q.AutoDelete = q.AutoDelete || q.Exclusive
			steps = append(steps, driver.Step{Op: op(q.Passive), Queue: &q})
		}
	}
	for i := range t.Bindings {
		if b := t.Bindings[i]; b.Exchange != "" {
			steps = append(steps, driver.Step{Binding: &b})
		}
	}
	return steps
}

// translate copies steps, putting this session's names for handles.
func (s *session) translate(steps []driver.Step) []driver.Step {
	out := slices.Clone(steps)
	for i := range out {
		switch st := &out[i]; {
		case st.Queue != nil:
			q := *st.Queue
			if q.PerSession && st.Op == driver.Declare {
				s.link.c.topo.handles.Store(1)
				s.names.LoadOrStore(q.Name, q.Name+"."+strings.ToLower(rand.Text()))
			}
			q.Name = s.name(q.Name)
			st.Queue = &q
		case st.Binding != nil:
			b := *st.Binding
			b.Queue = s.name(b.Queue)
			st.Binding = &b
		}
	}
	return out
}

// name is the broker's name of a queue in this session.
func (s *session) name(handle string) string {
	if s.link.c.topo.handles.Load() == 0 {
		return handle
	}
	if n, ok := s.names.Load(handle); ok {
		return n.(string)
	}
	return handle
}

// know remembers the type and delivery mode of an exchange.
func (t *topology) know(e Exchange) {
	t.mu.Lock()
	defer t.mu.Unlock()
	next := maps.Clone(*t.exchanges.Load())
	next[e.Name] = e
	t.exchanges.Store(&next)
}

func (t *topology) add(st driver.Step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	key := keyOf(&st)
	for _, e := range t.entries {
		if e.key == key {
			e.step, e.err = st, nil
			t.count()
			return
		}
	}
	t.entries = append(t.entries, &entry{key: key, step: st})
}

func (t *topology) remove(st *driver.Step) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if st.Exchange != nil {
		next := maps.Clone(*t.exchanges.Load())
		delete(next, st.Exchange.Name)
		t.exchanges.Store(&next)
	}
	key := keyOf(st)
	t.entries = slices.DeleteFunc(t.entries, func(e *entry) bool {
		b := e.step.Binding
		return e.key == key ||
			b != nil && st.Queue != nil && b.Queue == st.Queue.Name ||
			b != nil && st.Exchange != nil && (b.Exchange == st.Exchange.Name || b.ToExchange == st.Exchange.Name)
	})
	t.count()
}

// count recounts what fails; the caller holds mu.
func (t *topology) count() {
	t.failing = 0
	for _, e := range t.entries {
		if e.err != nil {
			t.failing++
		}
	}
}

func (t *topology) broken() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failing > 0
}

// passing says whether queue was declared here as one that ends with its
// users, or as a log that keeps what was acked.
func (t *topology) passing(queue string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, e := range t.entries {
		if q := e.step.Queue; q != nil && q.Name == queue {
			return q.Exclusive || q.AutoDelete || q.PerSession || q.Args.Get("x-queue-type") == "stream"
		}
	}
	return false
}

// replay puts everything back into a new session. What fails is remembered
// with its error and tried again later; it fails only those who use it.
func (t *topology) replay(ctx context.Context, s *session) { t.apply(ctx, s, false) }

// repair tries again what failed.
func (t *topology) repair(ctx context.Context, s *session) { t.apply(ctx, s, true) }

func (t *topology) apply(ctx context.Context, s *session, failedOnly bool) {
	t.mu.Lock()
	var entries []*entry
	var steps []driver.Step
	for _, e := range t.entries {
		if !failedOnly || e.err != nil {
			entries, steps = append(entries, e), append(steps, e.step)
		}
	}
	t.mu.Unlock()
	if len(steps) == 0 {
		return
	}
	real := s.translate(steps)
	var err error
	if failedOnly {
		s.applyEach(ctx, real)
	} else {
		err = s.Apply(ctx, real)
	}
	t.mu.Lock()
	for i, e := range entries {
		if e.err = real[i].Err; e.err == nil {
			e.err = err
		}
	}
	t.count()
	t.mu.Unlock()
	for i := range entries {
		if entries[i].err != nil && !failedOnly {
			s.link.c.log.Warn("gombu: could not put back after reconnecting; will try again",
				"entity", entityOf(&steps[i]), "err", cmp.Or(real[i].Err, err))
		}
	}
	if failedOnly {
		return
	}
	select {
	case t.nudge <- struct{}{}:
	default:
	}
}

// applyEach applies steps one at a time: one that the broker does not answer
// takes no other's time.
func (s *session) applyEach(ctx context.Context, steps []driver.Step) {
	for i := range steps {
		one, cancel := context.WithTimeout(ctx, replayTimeout)
		err := s.Apply(one, steps[i:i+1])
		cancel()
		steps[i].Err = cmp.Or(steps[i].Err, err)
	}
}

func keyOf(s *driver.Step) string {
	switch {
	case s.Exchange != nil:
		return "e\x00" + s.Exchange.Name
	case s.Queue != nil:
		return "q\x00" + s.Queue.Name
	}
	args, _ := json.Marshal(s.Binding.Args) // arguments that do not marshal were refused by checkTopology
	return strings.Join([]string{"b", s.Binding.Exchange, s.Binding.Queue, s.Binding.ToExchange, s.Binding.Key, string(args)}, "\x00")
}

func entityOf(s *driver.Step) string {
	switch {
	case s.Exchange != nil:
		return fmt.Sprintf("exchange %q", s.Exchange.Name)
	case s.Queue != nil:
		return fmt.Sprintf("queue %q", s.Queue.Name)
	}
	return fmt.Sprintf("binding of %q to %q with key %q", s.Binding.Queue+s.Binding.ToExchange, s.Binding.Exchange, s.Binding.Key)
}

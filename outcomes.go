package gombu

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"time"

	"github.com/gombu/gombu/driver"
)

// answer ends a call.
func (l *lane) answer(k *call, err error) {
	k.err = err
	l.answerAll([]*call{k})
}

// answerAll ends calls, each with its err.
func (l *lane) answerAll(calls []*call) {
	if len(calls) == 0 {
		return
	}
	l.mu.Lock()
	for _, k := range calls {
		delete(l.flight, k.out.Seq)
		k.late = k.state == left
		k.state = over
		k.err = k.outcome(k.err)
		k.out.Body = nil // a Pending that nobody waits for may keep it long
		k.trim()
	}
	l.mu.Unlock()
	for _, k := range calls {
		k.p.end()
		<-l.room
		if k.late {
			l.c.log.Debug("gombu: outcome of a publish whose caller had gone", "err", k.err)
			continue
		}
		k.done <- about(&k.out, k.err)
	}
}

// about says in err where the message was to go, when the transport did not.
func about(out *driver.Outgoing, err error) error {
	e, ok := err.(*Error)
	if !ok || e.Entity != "" {
		return err
	}
	said := *e
	said.Entity = target(out)
	return &said
}

// A collector brings the outcomes of one sender home, one call at a time. What a
// lost session or channel left open is decided in order: when nothing before it is
// unanswered.
type collector struct {
	l    *lane
	s    *session
	gone chan struct{} // closed with the last outcome
	open []*call
	some []*call // of one take
}

// run asks for the outcomes; where the sender tells them, nobody need ask.
func (o *collector) run(tx driver.Sender) {
	dst := make([]driver.Receipt, maxBatch)
	for {
		n, err := tx.Outcomes(context.WithoutCancel(o.s.ctx), dst)
		if o.take(dst[:n], err); err != nil {
			return
		}
	}
}

// take is told of outcomes, and why there are no more.
func (o *collector) take(receipts []driver.Receipt, err error) {
	l := o.l
	l.mu.Lock()
	for _, r := range receipts {
		k := l.flight[r.Seq]
		switch {
		case k == nil:
			continue
		case !isTooFew(r.Err) && (errors.Is(r.Err, ErrUncertain) || errors.Is(r.Err, ErrNotSent)):
			o.open = append(o.open, k)
		default:
			o.some = append(o.some, k)
		}
		k.err = r.Err
	}
	l.mu.Unlock()
	l.answerAll(o.some)
	clear(o.some)
	o.some = o.some[:0]
	if err != nil {
		l.mu.Lock()
		if l.at == o.s {
			l.at = nil
		}
		l.mu.Unlock()
	}
	if len(o.open) > 0 && (err != nil || l.decidable(o.open)) {
		l.settleOpen(o.open)
		o.open = nil
	}
	if err != nil {
		close(o.gone)
	}
}

// isTooFew: the message is in its queues, so that no lost session left it open,
// and sending it again would duplicate it.
func isTooFew(err error) bool {
	_, few := errors.AsType[*driver.ReplicaError](err)
	return few
}

// settleOpen decides, in order, what a lost session left open. After a message
// whose fate is unknown nothing later of the lane is repeated silently: the
// caller's own repeat would come behind it.
func (l *lane) settleOpen(open []*call) {
	slices.SortFunc(open, func(a, b *call) int { return cmp.Compare(a.out.Seq, b.out.Seq) })
	var again []*call
	unknown := false
	for _, k := range open {
		uncertain := errors.Is(k.err, ErrUncertain)
		if unknown || uncertain && !k.p.cfg.Resend {
			unknown = true
			l.answer(k, k.err)
			continue
		}
		k.maybe = k.maybe || uncertain
		again = append(again, k)
	}
	l.putBack(again, nil)
}

// putBack returns calls to the head of the line, in order; those whose policy
// is spent, or whose caller has gone, end.
func (l *lane) putBack(batch []*call, err error) {
	type failure struct {
		tell func(error, time.Duration)
		err  error
	}
	var spent []*call
	var told []failure
	l.mu.Lock()
	for _, k := range slices.Backward(batch) {
		if err != nil {
			k.err = err
		}
		if k.tries++; k.p.cfg.Retry != nil {
			told = append(told, failure{k.p.cfg.Retry.OnError, k.err})
		}
		if k.state == left || k.p.cfg.Retry != nil && k.p.cfg.Retry.spent(k.tries) || l.closed {
			if k.state == sent {
				k.state = over // its answer is known
			}
			spent = append(spent, k)
			continue
		}
		delete(l.flight, k.out.Seq)
		k.state = waiting
		l.line.restore(k)
	}
	l.start()
	l.mu.Unlock()
	for _, f := range slices.Backward(told) {
		tell(f.tell, f.err, 0)
	}
	for _, k := range slices.Backward(spent) {
		l.answer(k, l.notSent(k.err))
	}
}

func (l *lane) notSent(err error) error {
	if errors.Is(err, ErrNotSent) || errors.Is(err, ErrUncertain) {
		return err
	}
	return &Error{Op: "publish", Transport: l.c.scheme(), Kind: ErrNotSent, Err: err}
}

// failAll ends every call in the line: the Conn is closed, or connecting was
// given up.
func (l *lane) failAll(err error) {
	l.mu.Lock()
	var all []*call
	for k := l.line.first; k != nil; k = l.line.first {
		l.line.remove(k)
		k.state = over // it was never sent: who leaves now gets that answer
		all = append(all, k)
	}
	l.mu.Unlock()
	for _, k := range all {
		l.answer(k, l.notSent(err))
	}
}

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
	l.mu.Lock()
	delete(l.flight, k.out.Seq)
	late := k.state == left
	k.state = over
	err = k.outcome(err)
	k.out.Body = nil // a Pending that nobody waits for may keep it long
	k.trim()
	l.mu.Unlock()
	k.p.end()
	<-l.room
	if late {
		l.c.log.Debug("gombu: outcome of a publish whose caller had gone", "err", err)
		return
	}
	k.done <- about(&k.out, err)
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

// collect brings the outcomes of one sender home. What a lost session or
// channel left open is decided in order: when nothing before it is unanswered.
func (l *lane) collect(s *session, tx driver.Sender) {
	dst := make([]driver.Receipt, maxBatch)
	var open []*call
	for {
		n, err := tx.Outcomes(context.WithoutCancel(s.ctx), dst)
		for _, r := range dst[:n] {
			l.mu.Lock()
			k := l.flight[r.Seq]
			l.mu.Unlock()
			switch {
			case k == nil:
			case isTooFew(r.Err):
				l.answer(k, r.Err)
			case errors.Is(r.Err, ErrUncertain) || errors.Is(r.Err, ErrNotSent):
				k.err = r.Err
				open = append(open, k)
			default:
				l.answer(k, r.Err)
			}
		}
		if err != nil {
			l.mu.Lock()
			if l.at == s {
				l.at = nil
			}
			l.mu.Unlock()
			l.settleOpen(open)
			return
		}
		if len(open) > 0 && l.decidable(open) {
			l.settleOpen(open)
			open = nil
		}
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

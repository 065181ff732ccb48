package redis

import (
	"context"
	"strconv"
	"time"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/loop"
)

// Kombu's keys for what is delivered and not acknowledged.
const (
	unacked      = "unacked"
	unackedIndex = "unacked_index"
)

// limit is Kombu's layout with as few bytes and calls as it allows: 100 messages
// a command and 8 commands under way to publish; to consume, prefetch messages
// taken at once, registered, handled, acknowledged in one write with taking the
// next.
type limit struct{ job contender.Job }

func dialLimit(_ context.Context, job contender.Job) (loop.Peer, error) { return limit{job}, nil }

func (l limit) Close() {}

// Publish implements loop.Peer.
func (l limit) Publish(ctx context.Context, src *loop.Source) error {
	w, err := dialWire(ctx, l.job.URL)
	if err != nil {
		return err
	}
	defer w.close()
	const batch, flight = 100, 8
	f := newForm(l.job.Queues[0], l.job.Raw)
	var sent []int
	for {
		n := src.Next(ctx, batch)
		if n > 0 {
			w.command(2+n, "LPUSH")
			w.word(l.job.Queues[0])
			for range n {
				body, err := src.Body()
				if err != nil {
					return err
				}
				w.length(f.size(body))
				w.out = append(f.append(w.out, body), "\r\n"...)
			}
			if err := w.flush(); err != nil {
				return err
			}
			sent = append(sent, n)
		}
		for len(sent) > 0 && (n == 0 || len(sent) == flight || l.job.Work != contender.Publish) {
			if err := w.number(); err != nil {
				return err
			}
			src.Done(sent[0])
			sent = append(sent[:0], sent[1:]...)
		}
		if n == 0 {
			return nil
		}
	}
}

// A taken message: its envelope and tag are in the batch's text.
type taken struct{ from, to, tagFrom, tagTo int }

// limitBatch is what is taken at once.
type limitBatch struct {
	text   []byte // of all envelopes
	body   []byte // of one
	bodies []int  // the ends of all bodies in body
	all    []taken
}

// Consume implements loop.Peer.
func (l limit) Consume(ctx context.Context, dst *loop.Sink) error {
	w, err := dialWire(ctx, l.job.URL)
	if err != nil {
		return err
	}
	defer w.close()
	var b limitBatch
	for !dst.Over() {
		done := len(b.all)
		if done > 0 {
			b.settle(w)
		}
		l.take(w)
		if err := w.flush(); err != nil {
			return err
		}
		if done > 0 {
			for range 2 {
				if err := w.number(); err != nil {
					return err
				}
			}
			dst.Done(done)
		}
		if err := b.read(w); err != nil {
			return err
		}
		if len(b.all) == 0 {
			if err := l.await(w, &b); err != nil {
				return err
			}
		}
		if err := l.register(w, &b); err != nil {
			return err
		}
		from := 0
		for _, to := range b.bodies {
			if err := dst.Handle(b.body[from:to]); err != nil {
				return err
			}
			from = to
		}
	}
	return nil
}

func (l limit) take(w *wire) {
	w.command(3, "RPOP")
	w.word(l.job.Queues[0])
	w.word(strconv.Itoa(max(1, l.job.Prefetch)))
}

// await waits for a message.
func (l limit) await(w *wire, b *limitBatch) error {
	w.command(3, "BRPOP")
	w.word(l.job.Queues[0])
	w.word("0")
	if err := w.flush(); err != nil {
		return err
	}
	if _, err := w.array(); err != nil {
		return err
	}
	var err error
	if b.body, err = w.text(b.body[:0]); err != nil { // the name of the list
		return err
	}
	return b.one(w)
}

func (b *limitBatch) one(w *wire) error {
	from := len(b.text)
	var err error
	if b.text, err = w.text(b.text); err != nil {
		return err
	}
	b.all = append(b.all, taken{from: from, to: len(b.text)})
	return nil
}

// read reads what take brings.
func (b *limitBatch) read(w *wire) error {
	b.all, b.text = b.all[:0], b.text[:0]
	n, err := w.array()
	for range n {
		if err := b.one(w); err != nil {
			return err
		}
	}
	return err
}

// register opens all envelopes and keeps them in unacked.
func (l limit) register(w *wire, b *limitBatch) error {
	b.body, b.bodies = b.body[:0], b.bodies[:0]
	now := strconv.AppendFloat(nil, float64(time.Now().UnixMicro())/1e6, 'f', 6, 64)
	w.command(2+2*len(b.all), "ZADD")
	w.word(unackedIndex)
	for i := range b.all {
		t := &b.all[i]
		raw := b.text[t.from:t.to]
		body, from, to, err := open(b.body, raw)
		if err != nil {
			return err
		}
		b.body, b.bodies = body, append(b.bodies, len(body))
		t.tagFrom, t.tagTo = t.from+from, t.from+to
		w.bytes(now)
		w.bytes(raw[from:to])
	}
	w.command(2+2*len(b.all), "HSET")
	w.word(unacked)
	queue := strconv.Quote(l.job.Queues[0])
	for _, t := range b.all {
		w.bytes(b.text[t.tagFrom:t.tagTo])
		w.length(len(`[, "", ]`) + t.to - t.from + len(queue))
		w.out = append(entry(w.out, b.text[t.from:t.to], l.job.Queues[0]), "\r\n"...)
	}
	if err := w.flush(); err != nil {
		return err
	}
	for range 2 {
		if err := w.number(); err != nil {
			return err
		}
	}
	return nil
}

// settle forgets what was taken.
func (b *limitBatch) settle(w *wire) {
	for _, c := range [...]struct{ name, key string }{{"ZREM", unackedIndex}, {"HDEL", unacked}} {
		w.command(2+len(b.all), c.name)
		w.word(c.key)
		for _, t := range b.all {
			w.bytes(b.text[t.tagFrom:t.tagTo])
		}
	}
}

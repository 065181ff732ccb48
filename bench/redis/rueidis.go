package redis

import (
	"context"
	"strconv"
	"sync"
	"time"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/loop"
)

// pipelining is a program on rueidis, which puts the commands of all goroutines
// into one pipeline by itself.
type pipelining struct {
	job      contender.Job
	client   rueidis.Client
	envelope func(queue string, raw bool) func(body []byte) (string, error)
}

func pipeliningDialer(envelope func(string, bool) func([]byte) (string, error)) loop.Dialer {
	return func(_ context.Context, job contender.Job) (loop.Peer, error) {
		o, err := rueidis.ParseURL(job.URL)
		if err != nil {
			return nil, err
		}
		o.DisableCache = true
		c, err := rueidis.NewClient(o)
		if err != nil {
			return nil, err
		}
		return &pipelining{job, c, envelope}, nil
	}
}

// byHand writes envelopes with a form, byJSON with encoding/json.
func byHand(queue string, raw bool) func([]byte) (string, error) {
	f := newForm(queue, raw)
	return func(body []byte) (string, error) {
		return rueidis.BinaryString(f.append(make([]byte, 0, f.size(body)), body)), nil
	}
}

func byJSON(queue string, raw bool) func([]byte) (string, error) {
	return func(body []byte) (string, error) {
		b, err := plainEnvelope(queue, raw, body)
		return rueidis.BinaryString(b), err
	}
}

func (p *pipelining) Close() { p.client.Close() }

// Publish implements loop.Peer.
func (p *pipelining) Publish(ctx context.Context, src *loop.Source) error {
	envelope := p.envelope(p.job.Queues[0], p.job.Raw)
	for n := src.Next(ctx, src.Batch()); n > 0; n = src.Next(ctx, src.Batch()) {
		cmds := make(rueidis.Commands, 0, n)
		for range n {
			body, err := src.Body()
			if err != nil {
				return err
			}
			text, err := envelope(body)
			if err != nil {
				return err
			}
			cmds = append(cmds, p.client.B().Lpush().Key(p.job.Queues[0]).Element(text).Build())
		}
		if n == 1 {
			if err := p.client.Do(ctx, cmds[0]).Error(); err != nil {
				return err
			}
		} else {
			for _, r := range p.client.DoMulti(ctx, cmds...) {
				if err := r.Error(); err != nil {
					return err
				}
			}
		}
		src.Done(n)
	}
	return nil
}

// Consume implements loop.Peer: 64 goroutines, each with Kombu's sequence.
func (p *pipelining) Consume(ctx context.Context, dst *loop.Sink) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for !dst.Over() {
				if err := p.one(ctx, dst); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (p *pipelining) one(ctx context.Context, dst *loop.Sink) error {
	queue := p.job.Queues[0]
	raw, err := p.client.Do(ctx, p.client.B().Rpop().Key(queue).Build()).ToString()
	if rueidis.IsRedisNil(err) {
		var got []string
		got, err = p.client.Do(ctx, p.client.B().Brpop().Key(queue).Timeout(loop.Linger.Seconds()).Build()).AsStrSlice()
		if rueidis.IsRedisNil(err) {
			return nil
		}
		if len(got) == 2 {
			raw = got[1]
		}
	}
	if err != nil {
		return err
	}
	body, from, to, err := open(nil, []byte(raw))
	if err != nil {
		return err
	}
	tag := raw[from:to]
	for _, r := range p.client.DoMulti(ctx,
		p.client.B().Zadd().Key(unackedIndex).ScoreMember().ScoreMember(float64(time.Now().UnixMicro())/1e6, tag).Build(),
		p.client.B().Hset().Key(unacked).FieldValue().FieldValue(tag, "["+raw+`, "", `+strconv.Quote(queue)+"]").Build()) {
		if err := r.Error(); err != nil {
			return err
		}
	}
	if err := dst.Handle(body); err != nil {
		return err
	}
	for _, r := range p.client.DoMulti(ctx, p.client.B().Zrem().Key(unackedIndex).Member(tag).Build(), p.client.B().Hdel().Key(unacked).Field(tag).Build()) {
		if err := r.Error(); err != nil {
			return err
		}
	}
	dst.Done(1)
	return nil
}

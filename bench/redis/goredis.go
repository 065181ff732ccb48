package redis

import (
	"context"
	"errors"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/loop"
)

// goRedis is a program on go-redis. How it publishes and consumes differs.
type goRedis struct {
	job     contender.Job
	client  *redis.Client
	consume func(g *goRedis, ctx context.Context, dst *loop.Sink) error
}

func goRedisDialer(consume func(*goRedis, context.Context, *loop.Sink) error) loop.Dialer {
	return func(ctx context.Context, job contender.Job) (loop.Peer, error) {
		c, err := dialGoRedis(ctx, job.URL)
		if err != nil {
			return nil, err
		}
		return &goRedis{job, c, consume}, nil
	}
}

func dialGoRedis(ctx context.Context, url string) (*redis.Client, error) {
	o, err := redis.ParseURL(url)
	if err != nil {
		return nil, err
	}
	o.ContextTimeoutEnabled = true
	c := redis.NewClient(o)
	return c, c.Ping(ctx).Err()
}

func (g *goRedis) Close() { _ = g.client.Close() } // all calls have returned

// Publish implements loop.Peer: an LPUSH a message, Batch of them in a pipeline.
func (g *goRedis) Publish(ctx context.Context, src *loop.Source) error {
	queue, f := g.job.Queues[0], newForm(g.job.Queues[0], g.job.Raw)
	for n := src.Next(ctx, src.Batch()); n > 0; n = src.Next(ctx, src.Batch()) {
		_, err := g.client.Pipelined(ctx, func(p redis.Pipeliner) error {
			for range n {
				body, err := src.Body()
				if err != nil {
					return err
				}
				p.LPush(ctx, queue, f.append(make([]byte, 0, f.size(body)), body))
			}
			return nil
		})
		if err != nil {
			return err
		}
		src.Done(n)
	}
	return nil
}

// Consume implements loop.Peer.
func (g *goRedis) Consume(ctx context.Context, dst *loop.Sink) error {
	for !dst.Over() {
		if err := g.consume(g, ctx, dst); err != nil {
			return err
		}
	}
	return nil
}

func (g *goRedis) wait(ctx context.Context) (string, bool, error) {
	got, err := g.client.BRPop(ctx, loop.Linger, g.job.Queues[0]).Result()
	if errors.Is(err, redis.Nil) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	return got[1], true, nil
}

func seconds() float64 { return float64(time.Now().UnixMicro()) / 1e6 }

// sequence is what Kombu sends for each message.
func sequence(g *goRedis, ctx context.Context, dst *loop.Sink) error {
	raw, ok, err := g.wait(ctx)
	if !ok {
		return err
	}
	body, tag, err := plainOpen([]byte(raw))
	if err != nil {
		return err
	}
	_, err = g.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.ZAdd(ctx, unackedIndex, redis.Z{Score: seconds(), Member: tag})
		p.HSet(ctx, unacked, tag, entry(nil, []byte(raw), g.job.Queues[0]))
		return nil
	})
	if err == nil {
		err = dst.Handle(body)
	}
	if err != nil {
		return err
	}
	_, err = g.client.TxPipelined(ctx, func(p redis.Pipeliner) error {
		p.ZRem(ctx, unackedIndex, tag)
		p.HDel(ctx, unacked, tag)
		return nil
	})
	if err == nil {
		dst.Done(1)
	}
	return err
}

// piped takes 100 at once, and registers and acknowledges them together.
func piped(g *goRedis, ctx context.Context, dst *loop.Sink) error {
	all, err := g.client.RPopCount(ctx, g.job.Queues[0], 100).Result()
	if errors.Is(err, redis.Nil) {
		raw, ok, err := g.wait(ctx)
		if !ok {
			return err
		}
		all = []string{raw}
	} else if err != nil {
		return err
	}
	members := make([]redis.Z, 0, len(all))
	fields := make([]any, 0, 2*len(all))
	bodies := make([][]byte, 0, len(all))
	for _, raw := range all {
		body, from, to, err := open(nil, []byte(raw))
		if err != nil {
			return err
		}
		bodies = append(bodies, body)
		members = append(members, redis.Z{Score: seconds(), Member: raw[from:to]})
		fields = append(fields, raw[from:to], entry(nil, []byte(raw), g.job.Queues[0]))
	}
	_, err = g.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZAdd(ctx, unackedIndex, members...)
		p.HSet(ctx, unacked, fields...)
		return nil
	})
	if err != nil {
		return err
	}
	return g.settle(ctx, dst, bodies, func(i int) string { return fields[2*i].(string) })
}

// settle handles the bodies and acknowledges all at once.
func (g *goRedis) settle(ctx context.Context, dst *loop.Sink, bodies [][]byte, tag func(int) string) error {
	members, tags := make([]any, len(bodies)), make([]string, len(bodies))
	for i, body := range bodies {
		if err := dst.Handle(body); err != nil {
			return err
		}
		tags[i] = tag(i)
		members[i] = tags[i]
	}
	_, err := g.client.Pipelined(ctx, func(p redis.Pipeliner) error {
		p.ZRem(ctx, unackedIndex, members...)
		p.HDel(ctx, unacked, tags...)
		return nil
	})
	if err == nil {
		dst.Done(len(bodies))
	}
	return err
}

// claim pops and registers in one step, under tags of its own, so that a crash
// loses nothing.
var claim = redis.NewScript(`
local all = redis.call('RPOP', KEYS[1], ARGV[1])
if not all then return {} end
for i, text in ipairs(all) do
  local tag = ARGV[2] .. i
  redis.call('ZADD', KEYS[3], ARGV[3], tag)
  redis.call('HSET', KEYS[2], tag, '[' .. text .. ', "", ' .. ARGV[4] .. ']')
end
return all`)

// scripted is piped with claim.
func scripted(g *goRedis, ctx context.Context, dst *loop.Sink) error {
	queue, tag := g.job.Queues[0], newTag()
	all, err := claim.Run(ctx, g.client, []string{queue, unacked, unackedIndex}, 100, tag[:], seconds(), strconv.Quote(queue)).StringSlice()
	if err != nil {
		return err
	}
	if len(all) == 0 {
		return sequence(g, ctx, dst)
	}
	bodies := make([][]byte, 0, len(all))
	for _, raw := range all {
		body, _, _, err := open(nil, []byte(raw))
		if err != nil {
			return err
		}
		bodies = append(bodies, body)
	}
	return g.settle(ctx, dst, bodies, func(i int) string { return string(tag[:]) + strconv.Itoa(i+1) })
}

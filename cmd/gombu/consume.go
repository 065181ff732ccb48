package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/gombu/gombu"
)

// consuming is the flags of consume, and what it has done so far.
type consuming struct {
	entity
	count, prefetch, workers int
	timeout                  time.Duration
	ack, format              string
	accept                   []string

	a    *app
	idle *time.Timer
	stop context.CancelFunc // called by a handler, no other begins after it

	mu   sync.Mutex
	seen int
	held []*gombu.Delivery // to be requeued at the end
	over bool              // that has begun: nothing is held any more
	err  error
}

func (a *app) consume() *cobra.Command {
	c := &consuming{a: a}
	cmd := &cobra.Command{
		Use:   "consume",
		Short: "Consume messages and write them, one a line",
		Long: `Consume queues and write each message to standard output, one a line. A message is
acknowledged only after its line was written. Queues that do not exist are declared;
with --exchange they are bound to it.

--ack says what happens to a message after its line: ack it, requeue it (when the
command ends), reject it, or none: the broker forgets each message as it sends it.
--format json writes an object; body the decoded body alone; raw the bytes as they came.`,
		Example: `  gombu consume -q video -n 10 --timeout 5s
  gombu consume -q errors --ack requeue -n 1 --format body
  gombu consume -q all -e media --type topic -k '#'`,
		Args: exactly(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	f := cmd.Flags()
	c.flags(f, "`QUEUE`[,QUEUE] to consume")
	f.IntVarP(&c.count, "count", "n", 0, "stop after `COUNT` messages (default: never)")
	f.DurationVar(&c.timeout, "timeout", 0, "stop after `DUR` without a message (default: never)")
	f.IntVar(&c.prefetch, "prefetch", 32, "unacknowledged messages of a queue at once")
	f.IntVar(&c.workers, "workers", 1, "messages handled at once; 1 keeps their order")
	f.StringVar(&c.ack, "ack", "ack", "ack, requeue (up to 65535, held to the end), reject or none")
	f.StringSliceVar(&c.accept, "accept", nil, "`json,text,…`: what to decode (default: all known)")
	f.StringVar(&c.format, "format", "json", "json, body or raw")
	return cmd
}

func (c *consuming) validate() error {
	if err := c.check(); err != nil {
		return err
	}
	switch c.ack {
	case "ack", "requeue", "reject", "none":
	default:
		return usage("--ack %s: want ack, requeue, reject or none", c.ack)
	}
	switch c.format {
	case "json", "body", "raw":
	default:
		return usage("--format %s: want json, body or raw", c.format)
	}
	switch {
	case len(c.queues) == 0:
		return usage("no queue: give --queue")
	case c.count < 0 || c.timeout < 0:
		return usage("--count and --timeout cannot be negative")
	case c.prefetch < 1 || c.prefetch > 65535 || c.workers < 1:
		return usage("--prefetch wants 1 to 65535, --workers at least 1")
	}
	if c.ack == "requeue" { // what is held until the end must fit, and no more is wanted
		c.prefetch = 65535
		if c.count > 0 {
			c.prefetch = min(c.count, c.prefetch)
		}
	}
	return nil
}

func (c *consuming) run(ctx context.Context) error {
	if err := c.validate(); err != nil {
		return err
	}
	return c.a.with(func(conn *gombu.Conn) error {
		if err := c.ensure(ctx, conn); err != nil {
			return err
		}
		err := c.until(ctx, conn)
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case err != nil:
			return err
		case c.err != nil:
			return c.err
		case c.seen < c.count:
			return errFewer
		}
		return nil
	})
}

// until consumes until ctx ends, nothing came for too long, or it is enough.
func (c *consuming) until(ctx context.Context, conn *gombu.Conn) error {
	run, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	c.stop = stop
	c.idle = time.NewTimer(max(c.timeout, time.Second))
	defer c.idle.Stop()
	idle := c.idle.C
	if c.timeout == 0 {
		idle = nil
	}
	over := make(chan error, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		over <- conn.Run(run, gombu.ConsumerConfig{
			Queues: c.queues, Prefetch: c.prefetch, Workers: c.workers, NoAck: c.ack == "none",
			Accept: c.accept, OnUndecodable: c.handle,
			MaxAttempts: -1, // who looks must not move what he looks at
		}, func(ctx context.Context, d *gombu.Delivery) error { return c.handle(ctx, d, nil) })
	})
	select {
	case err := <-over:
		return err
	case <-ctx.Done():
	case <-idle:
	case <-run.Done():
	}
	stop() // first, or what goes back comes again
	c.giveBack()
	return <-over
}

// handle writes one message, then settles it.
func (c *consuming) handle(ctx context.Context, d *gombu.Delivery, bad error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil || c.over || c.count > 0 && c.seen >= c.count {
		return d.Release(ctx)
	}
	if c.timeout > 0 {
		c.idle.Reset(c.timeout)
	}
	line, err := c.line(d, bad)
	if err == nil {
		_, err = c.a.stdout.Write(line)
	}
	if err != nil {
		c.err = fmt.Errorf("writing a message: %w", err)
		c.stop()
		return d.Release(ctx)
	}
	if c.seen++; c.seen == c.count {
		c.stop()
	}
	switch c.ack {
	case "requeue":
		c.held = append(c.held, d)
		return d.Detach()
	case "reject":
		return d.Reject(ctx)
	}
	return d.Ack(ctx)
}

// giveBack requeues what was held, newest first, so that the oldest is next.
func (c *consuming) giveBack() {
	c.mu.Lock()
	held := c.held
	c.held, c.over = nil, true
	c.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, d := range slices.Backward(held) {
		if err := d.Requeue(ctx); err != nil {
			fmt.Fprintln(c.a.stderr, "gombu: requeue:", err)
		}
	}
}

// messageLine is one message in --format json.
type messageLine struct {
	Body            json.RawMessage `json:"body,omitempty"`
	BodyBase64      []byte          `json:"body_base64,omitempty"`
	DecodeError     string          `json:"decode_error,omitempty"`
	ContentType     string          `json:"content_type"`
	ContentEncoding string          `json:"content_encoding"`
	Headers         gombu.Headers   `json:"headers"`
	Properties      map[string]any  `json:"properties"`
	Exchange        string          `json:"exchange"`
	RoutingKey      string          `json:"routing_key"`
	Queue           string          `json:"queue"`
	Redelivered     bool            `json:"redelivered"`
}

func (c *consuming) line(d *gombu.Delivery, bad error) ([]byte, error) {
	if c.format == "raw" {
		return append(bytes.Clone(d.Body), '\n'), nil
	}
	text, plain, err := decoded(d)
	if bad != nil {
		err = bad
	}
	if c.format == "body" {
		if err != nil {
			fmt.Fprintln(c.a.stderr, "gombu:", err)
			plain = d.Body
		}
		return append(bytes.Clone(plain), '\n'), nil
	}
	l := messageLine{
		Body: text, ContentType: d.ContentType, ContentEncoding: d.ContentEncoding, Headers: d.Headers,
		Properties: properties(d), Exchange: d.Exchange, RoutingKey: d.Key, Queue: d.Queue, Redelivered: d.Redelivered,
	}
	if l.Headers == nil {
		l.Headers = gombu.Headers{}
	}
	if err != nil {
		l.Body, l.BodyBase64, l.DecodeError = nil, d.Body, err.Error()
	} else if text == nil {
		l.BodyBase64 = plain
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	err = enc.Encode(l)
	return b.Bytes(), err
}

// decoded is the body as JSON, nil when it is bytes, and as plain bytes.
func decoded(d *gombu.Delivery) (json.RawMessage, []byte, error) {
	plain, err := d.Bytes()
	if err != nil {
		return nil, nil, err
	}
	var v any
	if err := d.Decode(&v); err != nil {
		return nil, nil, err
	}
	switch v := v.(type) {
	case []byte:
		return nil, v, nil
	case string:
		if !utf8.ValidString(v) {
			return nil, plain, nil
		}
	}
	text := json.RawMessage(plain)
	if d.ContentType != "application/json" || bytes.Contains(plain, []byte(`"__type__"`)) || !json.Valid(plain) {
		if text, err = json.Marshal(v); err != nil {
			return nil, nil, fmt.Errorf("cannot be shown as JSON: %w", err)
		}
	}
	return text, plain, nil
}

// properties are the message's, by AMQP's names; those that are unset are left out.
func properties(d *gombu.Delivery) map[string]any {
	m := map[string]any{}
	for k, v := range map[string]string{
		"message_id": d.MessageID, "correlation_id": d.CorrelationID, "reply_to": d.ReplyTo,
		"type": d.Type, "app_id": d.AppID, "user_id": d.UserID,
	} {
		if v != "" {
			m[k] = v
		}
	}
	m["priority"] = d.Priority
	if d.DeliveryMode != 0 {
		m["delivery_mode"] = d.DeliveryMode
	}
	if d.Expiration != 0 {
		m["expiration"] = fmt.Sprint(max(d.Expiration.Milliseconds(), 0))
	}
	if !d.Timestamp.IsZero() {
		m["timestamp"] = d.Timestamp.UTC().Format(time.RFC3339)
	}
	for _, h := range d.Extra {
		m[h.Key] = h.Value
	}
	return m
}

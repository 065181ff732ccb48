package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/gombu/gombu"
)

// publishing is the flags of publish.
type publishing struct {
	entity
	serializer, compression string
	headers                 []string
	priority                int
	expiration              time.Duration
	correlation, replyTo    string
	messageID               string
	mandatory               bool
	count                   int
	file                    string
}

func (a *app) publish() *cobra.Command {
	var p publishing
	cmd := &cobra.Command{
		Use:   "publish [BODY...]",
		Short: "Publish messages; returns when the broker has them",
		Long: `Publish each BODY, or each line of a file, and return when the broker has them all.
With --queue the queue is declared (unless it exists) and bound to --exchange first;
without --exchange the message goes straight to the queue.`,
		Example: `  gombu publish -q video '{"name": "/tmp/lolcat1.avi", "size": 1301013}'
  gombu publish -e media --type topic -k media.video -H kind='"clip"' -H tries=3 '{}'
  seq 1000 | gombu publish -q numbers -f -`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if !cmd.Flags().Changed("mandatory") {
				return a.runPublish(cmd.Context(), &p, gombu.MandatoryAuto, args)
			}
			m := gombu.MandatoryOff
			if p.mandatory {
				m = gombu.MandatoryOn
			}
			return a.runPublish(cmd.Context(), &p, m, args)
		},
	}
	f := cmd.Flags()
	p.flags(f, "`QUEUE` to declare and bind, or to send straight to")
	f.StringVarP(&p.serializer, "serializer", "s", "json", "`NAME`: json, text or raw")
	f.StringVar(&p.compression, "compression", "", "`NAME`: gzip or zlib (both a zlib stream, as in Kombu)")
	f.StringArrayVarP(&p.headers, "header", "H", nil, "header `KEY=VALUE`; a VALUE that is JSON is typed")
	f.IntVar(&p.priority, "priority", 0, "`N`, 0 to 255; which end is sooner is the broker's")
	f.DurationVar(&p.expiration, "expiration", 0, "drop the message when not delivered within `DUR`")
	f.StringVar(&p.correlation, "correlation-id", "", "`ID`")
	f.StringVar(&p.replyTo, "reply-to", "", "`QUEUE` for replies")
	f.StringVar(&p.messageID, "message-id", "", "`ID`")
	f.BoolVar(&p.mandatory, "mandatory", false, "fail when no queue takes the message (default: yes, but for fanout)")
	f.IntVarP(&p.count, "count", "n", 1, "publish each body `COUNT` times")
	f.StringVarP(&p.file, "file", "f", "", "one body a line from `FILE`, - for standard input")
	return cmd
}

func (a *app) runPublish(ctx context.Context, p *publishing, mandatory gombu.Mandatory, bodies []string) error {
	m, err := p.message(mandatory)
	if err != nil {
		return err
	}
	if len(bodies) == 0 && p.file == "" {
		return usage("nothing to publish: give a BODY or --file")
	}
	for _, b := range bodies {
		if err := p.checkBody(b, "body"); err != nil {
			return err
		}
	}
	in, done, err := a.input(p.file)
	if err != nil {
		return err
	}
	defer done()
	return a.with(func(conn *gombu.Conn) error {
		if len(p.queues) > 0 || p.kind != "" {
			if err := p.ensure(ctx, conn); err != nil {
				return err
			}
		}
		out := newSending(conn.Producer(nil))
		for _, b := range bodies {
			for range p.count {
				if err := out.send(ctx, p.with(m, b)); err != nil {
					return err
				}
			}
		}
		if err := p.lines(ctx, in, m, out); err != nil {
			return errors.Join(err, out.finish(ctx))
		}
		return out.finish(ctx)
	})
}

// message is what all bodies have in common.
func (p *publishing) message(mandatory gombu.Mandatory) (gombu.Message, error) {
	m := gombu.Message{Exchange: p.exchange, Key: p.key, Compression: p.compression, Mandatory: mandatory}
	if err := p.check(); err != nil {
		return m, err
	}
	switch {
	case p.exchange == "" && len(p.queues) == 0 && p.key == "":
		return m, usage("nowhere to publish to: give --queue, --exchange or --routing-key")
	case p.exchange == "" && len(p.queues) > 1:
		return m, usage("several queues need an --exchange that they are bound to")
	case p.exchange == "" && len(p.queues) == 1:
		m.Queue = p.queues[0]
	case p.key == "" && len(p.queues) == 1:
		m.Key = p.bindingKey(p.queues[0])
	}
	if p.priority < 0 || p.priority > math.MaxUint8 {
		return m, usage("--priority %d: want 0 to 255", p.priority)
	}
	if p.count < 1 {
		return m, usage("--count %d: want at least 1", p.count)
	}
	switch p.serializer {
	case "json", "text", "raw":
	default:
		return m, usage("--serializer %s: want json, text or raw", p.serializer)
	}
	switch p.compression {
	case "", "gzip", "zlib":
	default:
		return m, usage("--compression %s: want gzip or zlib", p.compression)
	}
	m.Priority = uint8(p.priority)
	m.Expiration, m.CorrelationID, m.ReplyTo, m.MessageID = p.expiration, p.correlation, p.replyTo, p.messageID
	if p.transient {
		m.DeliveryMode = gombu.Transient
	}
	for _, h := range p.headers {
		k, v, ok := strings.Cut(h, "=")
		if !ok || k == "" {
			return m, usage("--header %q: want KEY=VALUE", h)
		}
		m.Headers = m.Headers.With(k, headerValue(v))
	}
	return m, nil
}

// headerValue is text typed when it is JSON.
func headerValue(text string) any {
	var h gombu.Headers
	if err := json.Unmarshal([]byte(`{"v":`+text+`}`), &h); err != nil || len(h) != 1 {
		return text
	}
	return h[0].Value
}

func (p *publishing) checkBody(b, where string) error {
	if p.serializer == "json" && !json.Valid([]byte(b)) {
		return usage("%s %.60q is not JSON (use -s text to send text)", where, b)
	}
	return nil
}

// with is m with a body.
func (p *publishing) with(m gombu.Message, b string) *gombu.Message {
	m.Body = []byte(b)
	switch p.serializer {
	case "json":
		m.ContentType, m.ContentEncoding = "application/json", "utf-8"
	case "text":
		m.ContentType, m.ContentEncoding = "text/plain", "utf-8"
	}
	return &m
}

func (a *app) input(file string) (io.Reader, func(), error) {
	switch file {
	case "":
		return strings.NewReader(""), func() {}, nil
	case "-":
		return a.stdin, func() {}, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return nil, nil, usageError{err}
	}
	return f, func() { _ = f.Close() }, nil // it was only read
}

// lines publishes one body a line.
func (p *publishing) lines(ctx context.Context, in io.Reader, m gombu.Message, out *sending) error {
	s := bufio.NewScanner(in)
	s.Buffer(make([]byte, 0, 64<<10), 128<<20)
	for n := 1; s.Scan(); n++ {
		if err := p.checkBody(s.Text(), fmt.Sprintf("line %d:", n)); err != nil {
			return err
		}
		for range p.count {
			if err := out.send(ctx, p.with(m, s.Text())); err != nil {
				return err
			}
		}
	}
	if err := s.Err(); err != nil {
		return usageError{fmt.Errorf("reading bodies: %w", err)}
	}
	return nil
}

// sending keeps a window of publishes under way.
type sending struct {
	p       *gombu.Producer
	pending []*gombu.Pending
	outcome func(error) // told of each, in the order of sending
}

const sendWindow = 1024

func newSending(p *gombu.Producer) *sending { return &sending{p: p, outcome: func(error) {}} }

func (s *sending) send(ctx context.Context, m *gombu.Message) error {
	if len(s.pending) >= sendWindow {
		err := s.wait(ctx, s.pending[0])
		s.pending = s.pending[1:]
		if err != nil {
			return err
		}
	}
	w, err := s.p.PublishAsync(ctx, m)
	if err != nil {
		return err
	}
	s.pending = append(s.pending, w)
	return nil
}

// finish waits for what is under way; the first failure is returned.
func (s *sending) finish(ctx context.Context) error {
	var first error
	for _, w := range s.pending {
		if err := s.wait(ctx, w); err != nil && first == nil {
			first = err
		}
	}
	s.pending = nil
	return first
}

func (s *sending) wait(ctx context.Context, w *gombu.Pending) error {
	err := w.Wait(ctx)
	s.outcome(err)
	return err
}

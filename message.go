package gombu

import (
	"errors"
	"fmt"

	"github.com/gombu/gombu/codec"
	"github.com/gombu/gombu/driver"
)

// Mandatory says whether a message that no queue takes is an error.
type Mandatory uint8

// Mandatory modes. The zero value is on, except for a fanout exchange that
// this Conn declared: nobody listening is normal there.
const (
	MandatoryAuto Mandatory = iota
	MandatoryOn
	MandatoryOff
)

// A Message is what Publish sends. It belongs to the caller; Publish and
// PublishAsync read it until they return, never after, whatever they return.
type Message struct {
	// Exchange and Key route the message; empty: the Producer's.
	Exchange, Key string
	// Queue, when set, sends straight to that queue, past any exchange.
	Queue string
	// Value is serialized; a string goes as text, []byte as data, the rest as
	// json, unless Serializer says otherwise.
	Value any
	// Body is sent as it is, in place of Value. ContentType defaults to
	// application/data and ContentEncoding to binary.
	Body []byte
	// Serializer and Compression are Kombu's names; empty: the Producer's.
	Serializer, Compression string
	// Mandatory; zero: the Producer's.
	Mandatory Mandatory
	// Declare is declared first, once a session. nil: nothing.
	Declare *Topology
	// Properties are AMQP's; ContentType and ContentEncoding are set by the
	// serializer when Value is used. A DeliveryMode of zero is the exchange's.
	Properties

	asIs bool // Body has no defaults: it was a message before
}

// prepare builds what the driver sends. A serializer may write into the memory
// that out.Body has before; mine is false when out.Body aliases m's.
func (p *Producer) prepare(m *Message, out *driver.Outgoing) (mine bool, err error) {
	c := p.c
	out.Exchange, out.Key = m.Exchange, m.Key
	if m.Queue != "" {
		out.Exchange, out.Key = "", m.Queue
	} else {
		if out.Exchange == "" {
			out.Exchange = p.cfg.Exchange
		}
		if out.Key == "" {
			out.Key = p.cfg.Key
		}
	}
	out.Props = m.Properties
	if mine, err = p.encode(m, out); err != nil {
		return mine, err
	}
	if name := firstOf(m.Compression, p.cfg.Compression); name != "" {
		if err := compress(c.codecs, name, out); err != nil {
			return mine, err
		}
		mine = false // its author may keep it
	}
	if len(out.Body) > c.cfg.MaxBody {
		return mine, &Error{Op: "publish", Transport: c.scheme(), Entity: target(out), Kind: ErrTooLarge,
			Err: fmt.Errorf("the body has %d bytes, MaxBody is %d", len(out.Body), c.cfg.MaxBody)}
	}
	if len(out.Exchange) > 255 || len(out.Key) > 255 {
		return mine, &Error{Op: "publish", Transport: c.scheme(), Kind: ErrInvalid, Err: errors.New("an exchange name and a routing key have at most 255 bytes")}
	}
	p.route(m, out)
	if out.Props.Expiration != 0 && !c.keeps("expiration") {
		if err := c.unsupported("publish", target(out), "expiration"); err != nil {
			return mine, err
		}
	}
	if m.Mandatory == MandatoryOn && !c.keeps("mandatory_fanout") && (*c.topo.exchanges.Load())[out.Exchange].Type == Fanout {
		return mine, c.unsupported("publish", target(out), "mandatory on a fanout exchange")
	}
	return mine, nil
}

// route fills in what the exchange decides.
func (p *Producer) route(m *Message, out *driver.Outgoing) {
	c := p.c
	mandatory := m.Mandatory
	if mandatory == MandatoryAuto {
		mandatory = p.cfg.Mandatory
	}
	out.NoMandatory = mandatory == MandatoryOff
	if out.Exchange != "" {
		if e, ok := (*c.topo.exchanges.Load())[out.Exchange]; ok {
			if mandatory == MandatoryAuto && e.Type == Fanout {
				out.NoMandatory = true
			}
			if out.Props.DeliveryMode == 0 {
				out.Props.DeliveryMode = e.DeliveryMode
			}
		}
	}
	if out.Props.DeliveryMode == 0 {
		out.Props.DeliveryMode = Persistent
	}
}

// address puts the names of this session for the handles of PerSession queues.
// That is done at each submit: a message may wait, and be repeated, through
// sessions in which they have other names.
func (s *session) address(out *driver.Outgoing) {
	if s.link.c.topo.handles.Load() == 0 {
		return
	}
	if out.Exchange == "" {
		out.Key = s.name(out.Key)
	}
	if out.Props.ReplyTo != "" {
		out.Props.ReplyTo = s.name(out.Props.ReplyTo)
	}
}

// encode fills in the body and what it is; mine is as in prepare.
func (p *Producer) encode(m *Message, out *driver.Outgoing) (mine bool, err error) {
	name := firstOf(m.Serializer, p.cfg.Serializer)
	if m.Body != nil || m.Value == nil && name == "" {
		out.Body = m.Body
		if out.Props.ContentType == "" && !m.asIs {
			out.Props.ContentType = codec.TypeData
		}
		if out.Props.ContentEncoding == "" && !m.asIs {
			out.Props.ContentEncoding = "binary"
		}
		return false, nil
	}
	if m.ContentType != "" {
		if ok, err := custom(m, out); ok || err != nil {
			return false, err
		}
	}
	if b, ok := m.Value.([]byte); ok && name == "" {
		out.Body, out.Props.ContentType, out.Props.ContentEncoding = b, codec.TypeData, "binary"
		return false, nil
	}
	out.Body, out.Props.ContentType, out.Props.ContentEncoding, err = p.c.codecs.Append(out.Body[:0], name, m.Value)
	return true, err
}

// custom is Kombu's rule for a content type given by hand: text and bytes are
// not serialized.
func custom(m *Message, out *driver.Outgoing) (bool, error) {
	encoding := "utf-8"
	switch v := m.Value.(type) {
	case string:
		out.Body = []byte(v)
	case []byte:
		out.Body, encoding = v, "binary"
	default:
		if m.Serializer == "" {
			return false, &Error{Op: "publish", Kind: ErrInvalid, Entity: m.ContentType,
				Err: fmt.Errorf("a content type given by hand needs a Body, a string or []byte, not %T", m.Value)}
		}
		return false, nil
	}
	if out.Props.ContentEncoding == "" {
		out.Props.ContentEncoding = encoding
	}
	return true, nil
}

func compress(r *codec.Registry, name string, out *driver.Outgoing) error {
	z, err := r.Compression(name)
	if err != nil {
		return err
	}
	if out.Body, err = z.Compress(out.Body); err != nil {
		return &Error{Op: "compress", Entity: name, Kind: ErrInvalid, Err: err}
	}
	out.Props.Headers = out.Props.Headers.With("compression", z.ContentType)
	return nil
}

func target(out *driver.Outgoing) string {
	if out.Exchange == "" {
		return fmt.Sprintf("queue %q", out.Key)
	}
	return fmt.Sprintf("exchange %q, key %q", out.Exchange, out.Key)
}

func firstOf(a, b string) string {
	if a != "" {
		return a
	}
	return b
}

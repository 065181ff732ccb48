// Package codec holds the serializers and compressions, by Kombu's names and
// content types (wire: envelope.md sections 1.4, 2 and 4).
package codec

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"mime"
	"slices"
	"strings"
	"sync"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/near"
)

// Content types that every consumer accepts: they carry no program.
const (
	TypeData = "application/data"
	typeText = "application/text"
)

// A Codec turns values into bodies and back. Its functions are called from any
// goroutine; they keep neither argument.
type Codec struct {
	Name            string // Kombu's name: "json"
	ContentType     string
	ContentEncoding string
	// Encode returns a body that the caller owns.
	Encode func(v any) ([]byte, error)
	// Decode fills *v; what it puts there never aliases data.
	Decode func(data []byte, v any) error
}

// A Compression squeezes bodies. Decompress fails with ErrTooLarge above max bytes.
type Compression struct {
	Names       []string // Kombu's names, the main one first: "gzip", "zlib"
	ContentType string   // what the "compression" header holds
	Compress    func(data []byte) ([]byte, error)
	Decompress  func(data []byte, max int) ([]byte, error)
}

// A Registry maps names and content types to codecs and compressions. The zero
// value is empty; New has the built-in ones. Safe for use by several goroutines.
type Registry struct {
	mu           sync.RWMutex
	codecs       map[string]*entry       // by name and by content type
	compressions map[string]*Compression // by name and by content type
}

// An entry is a codec, and how it writes into memory that is there.
type entry struct {
	Codec
	append func(dst []byte, v any) ([]byte, error) // nil: as Encode
}

// New returns a registry with json, text, raw and gzip/zlib.
func New() *Registry {
	r := &Registry{}
	r.register(&entry{JSON(), (&jsonEncoder{}).append})
	for _, c := range []Codec{text(), raw()} {
		r.register(&entry{c, appendData})
	}
	r.RegisterCompression(zlibCompression())
	return r
}

// Register adds c, replacing a codec of the same name or content type.
func (r *Registry) Register(c Codec) { r.register(&entry{Codec: c}) }

func (r *Registry) register(e *entry) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.codecs == nil {
		r.codecs = map[string]*entry{}
	}
	r.codecs[e.Name], r.codecs[e.ContentType] = e, e
}

// RegisterCompression adds c, replacing one of the same names.
func (r *Registry) RegisterCompression(c Compression) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.compressions == nil {
		r.compressions = map[string]*Compression{}
	}
	r.compressions[c.ContentType] = &c
	for _, n := range c.Names {
		r.compressions[n] = &c
	}
}

// Codec returns the codec of a name or content type; an unknown one is
// ErrInvalid and names the near ones.
func (r *Registry) Codec(name string) (*Codec, error) {
	e, err := r.entry(name)
	if err != nil {
		return nil, err
	}
	return &e.Codec, nil
}

func (r *Registry) entry(name string) (*entry, error) {
	r.mu.RLock()
	e := r.codecs[name]
	r.mu.RUnlock()
	if e == nil {
		return nil, r.unknown("serializer", name, r.codecNames())
	}
	return e, nil
}

// Compression returns the compression of a name or content type; an unknown
// one is ErrInvalid and names the near ones.
func (r *Registry) Compression(name string) (*Compression, error) {
	r.mu.RLock()
	c := r.compressions[name]
	r.mu.RUnlock()
	if c == nil {
		r.mu.RLock()
		names := slices.Sorted(maps.Keys(r.compressions))
		r.mu.RUnlock()
		return nil, r.unknown("compression", name, names)
	}
	return c, nil
}

func (r *Registry) codecNames() []string {
	r.mu.RLock()
	defer r.mu.RUnlock()
	var names []string
	for k, c := range r.codecs {
		if k == c.Name {
			names = append(names, k)
		}
	}
	slices.Sort(names)
	return names
}

func (r *Registry) unknown(what, name string, known []string) error {
	return &driver.Error{Op: what, Entity: name, Kind: driver.ErrInvalid,
		Err: fmt.Errorf("no such %s%s (known: %s)", what, near.Hint(name, known), strings.Join(known, ", "))}
}

// Encode encodes v. With name empty Kombu's rule holds: text/plain for a
// string, application/data for []byte, json for the rest. The body is the
// caller's, except that []byte without a name is returned as it is.
func (r *Registry) Encode(name string, v any) (body []byte, contentType, contentEncoding string, err error) {
	if b, ok := v.([]byte); ok && name == "" {
		return b, TypeData, "binary", nil
	}
	return r.Append(nil, name, v)
}

// Append is Encode to the end of dst, whose memory it uses where there is enough
// of it. The body is the caller's: also []byte, and what a codec returned, are
// copied. After an error, which is ErrInvalid, dst is returned as it was.
func (r *Registry) Append(dst []byte, name string, v any) (body []byte, contentType, contentEncoding string, err error) {
	if name == "" {
		switch v.(type) {
		case []byte:
			name = "raw"
		case string:
			name = "text"
		default:
			name = "json"
		}
	}
	c, err := r.entry(name)
	if err != nil {
		return dst, "", "", err
	}
	if c.append != nil {
		body, err = c.append(dst, v)
	} else if body, err = c.Encode(v); err == nil {
		body = append(dst, body...) // a copy: who gets it may write into it
	}
	if err != nil {
		return dst, "", "", &driver.Error{Op: "encode", Entity: c.Name, Kind: driver.ErrInvalid, Err: err}
	}
	encoding := c.ContentEncoding
	if _, ok := v.(string); ok && c.Name == "raw" {
		encoding = "utf-8"
	}
	return body, c.ContentType, encoding, nil
}

// Decode decodes a body by its content type into *v. A body whose type is
// absent or unknown is data: it fits *[]byte, *string and *any (a string when
// contentEncoding names a text encoding, else []byte). Errors are ErrUndecodable.
func (r *Registry) Decode(contentType, contentEncoding string, body []byte, v any) error {
	contentType, charset := mediaType(contentType)
	contentEncoding = cmp.Or(contentEncoding, charset)
	r.mu.RLock()
	c := r.codecs[contentType]
	r.mu.RUnlock()
	var err error
	if c != nil && len(body) > 0 {
		if err = c.Decode(body, v); err == nil {
			return nil
		}
	} else if err = decodeData(contentEncoding, body, v); err == nil {
		return nil
	}
	if contentType == "" {
		contentType = TypeData
	}
	return &driver.Error{Op: "decode", Entity: contentType, Kind: driver.ErrUndecodable, Err: err}
}

// mediaType takes parameters off a content type: "application/json;
// charset=utf-8" is application/json, in utf-8.
func mediaType(contentType string) (typ, charset string) {
	if !strings.Contains(contentType, ";") {
		return contentType, ""
	}
	typ, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		typ, _, _ = strings.Cut(contentType, ";")
		return strings.TrimSpace(typ), ""
	}
	return typ, params["charset"]
}

// An AcceptSet is a set of content types. The zero one accepts every type;
// types that carry no program are always accepted.
type AcceptSet struct {
	types map[string]bool
}

// Accept makes a set from names or content types; nil accepts everything: a
// body whose type no codec knows is data. A name that is not registered is ErrInvalid; something with
// a slash is taken as a content type.
func (r *Registry) Accept(names []string) (AcceptSet, error) {
	if names == nil {
		return AcceptSet{}, nil
	}
	set := AcceptSet{types: map[string]bool{}}
	for _, n := range names {
		c, err := r.Codec(n)
		switch {
		case err == nil:
			set.types[c.ContentType] = true
		case strings.Contains(n, "/"):
			set.types[n] = true
		default:
			return AcceptSet{}, err
		}
	}
	return set, nil
}

// Has says whether contentType is accepted.
func (s AcceptSet) Has(contentType string) bool {
	contentType, _ = mediaType(contentType)
	return s.types == nil || contentType == "" || contentType == TypeData || contentType == typeText || s.types[contentType]
}

var errKind = errors.New("does not fit the value to decode into")

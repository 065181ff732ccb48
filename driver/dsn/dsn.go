// Package dsn parses Kombu's connection URLs and finds the transport that
// registered their scheme.
package dsn

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/near"
)

// A URL is one parsed connection URL. Parts are percent-decoded; a part that
// was not given is empty (Port 0), so that each transport sets its own default.
type URL struct {
	Scheme   string // in lower case, without a "+rest" part
	Rest     string // what follows "scheme+", verbatim: redis+socket:///x has "socket:///x"
	User     string
	Password string
	HasUser  bool // the URL has a user part, empty or not
	Host     string
	Port     int
	Path     string // one leading slash stripped, then decoded
	HasPath  bool   // there is something behind the host's slash
	Query    url.Values
}

// An Opener makes a Connector from a URL. It must reject what it does not
// know, by Options.Finish.
type Opener func(u *URL, d driver.DialConfig) (driver.Connector, error)

// A GroupOpener makes one Connector from several URLs of one scheme.
type GroupOpener func(us []*URL, d driver.DialConfig) (driver.Connector, error)

var registry struct {
	sync.Mutex
	openers map[string]entry
	twice   map[string]bool
}

type entry struct {
	open  GroupOpener
	group bool // takes all alternates of its scheme
}

// Known schemes and the import that brings each, for the error that says so.
var imports = map[string]string{
	"amqp": "github.com/gombu/gombu/transport/amqp", "amqps": "github.com/gombu/gombu/transport/amqp", "pyamqp": "github.com/gombu/gombu/transport/amqp",
	"redis": "github.com/gombu/gombu/transport/redis", "rediss": "github.com/gombu/gombu/transport/redis",
	"sentinel": "github.com/gombu/gombu/transport/redis",
	"memory":   "github.com/gombu/gombu/transport/memory",
}

// Register makes a scheme known to Open. Transports call it from init. A
// scheme registered twice is an error at Open, not a panic here. It may be
// called from any goroutine. A scheme "x+y" goes before "x".
func Register(scheme string, open Opener) {
	register(scheme, entry{open: func(us []*URL, d driver.DialConfig) (driver.Connector, error) { return open(us[0], d) }})
}

// RegisterGroup is Register for a scheme whose alternates name one broker
// together, such as the sentinels of a Redis: all of them in one text become
// one Connector, in the place of the first. open is never called without a URL.
func RegisterGroup(scheme string, open GroupOpener) { register(scheme, entry{open, true}) }

func register(scheme string, o entry) {
	registry.Lock()
	defer registry.Unlock()
	if registry.openers == nil {
		registry.openers, registry.twice = map[string]entry{}, map[string]bool{}
	}
	if registry.openers[scheme].open != nil {
		registry.twice[scheme] = true
	}
	registry.openers[scheme] = o
}

// Open makes a Connector for every alternate in s (see Split and
// RegisterGroup), dialing nothing.
func Open(s string, d driver.DialConfig) ([]driver.Connector, error) {
	var groups [][]*URL
	for _, part := range Split(s) {
		u, err := Parse(part)
		if err != nil {
			return nil, err
		}
		n := slices.IndexFunc(groups, func(g []*URL) bool { return g[0].scheme() == u.scheme() && u.find().group })
		if n < 0 {
			groups = append(groups, []*URL{u})
		} else {
			groups[n] = append(groups[n], u)
		}
	}
	var out []driver.Connector
	for _, g := range groups {
		c, err := open(g, d)
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, invalid("", errors.New("empty URL"))
	}
	return out, nil
}

// scheme is the whole of it, "x+y" where there is a rest.
func (u *URL) scheme() string {
	if sub, _, ok := strings.Cut(u.Rest, "://"); ok {
		return u.Scheme + "+" + sub
	}
	return u.Scheme
}

// find is the opener of the whole scheme, else of what stands before the "+".
func (u *URL) find() entry {
	registry.Lock()
	defer registry.Unlock()
	if o := registry.openers[u.scheme()]; o.open != nil {
		return o
	}
	return registry.openers[u.Scheme]
}

// Open finds the transport of u's scheme. An unknown scheme is ErrInvalid and
// names the near one, or the import that brings it.
func (u *URL) Open(d driver.DialConfig) (driver.Connector, error) { return open([]*URL{u}, d) }

func open(us []*URL, d driver.DialConfig) (driver.Connector, error) {
	u := us[0]
	o := u.find()
	registry.Lock()
	twice := registry.twice[u.scheme()] || registry.twice[u.Scheme]
	known := slices.Sorted(maps.Keys(registry.openers))
	registry.Unlock()
	switch {
	case twice:
		return nil, invalid(u.Scheme+"://", errors.New("two transports registered this scheme"))
	case o.open != nil:
		return o.open(us, d)
	case imports[u.Scheme] != "":
		return nil, invalid(u.Scheme+"://", fmt.Errorf("the transport is not linked in: import _ %q", imports[u.Scheme]))
	}
	all := slices.Sorted(maps.Keys(imports))
	for _, k := range known {
		if !slices.Contains(all, k) {
			all = append(all, k)
		}
	}
	return nil, invalid(u.Scheme+"://", fmt.Errorf("unknown transport scheme%s (known: %s)", near.Hint(u.Scheme, all), strings.Join(known, ", ")))
}

// Split cuts alternates at ";" and at a "," that is followed by a scheme.
// Empty alternates are dropped.
func Split(s string) []string {
	var out []string
	for part := range strings.SplitSeq(s, ";") {
		start := 0
		for i := range len(part) {
			if part[i] == ',' && startsWithScheme(part[i+1:]) {
				out = append(out, part[start:i])
				start = i + 1
			}
		}
		out = append(out, part[start:])
	}
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return slices.DeleteFunc(out, func(s string) bool { return s == "" })
}

func startsWithScheme(s string) bool {
	scheme, _, ok := strings.Cut(strings.TrimSpace(s), "://")
	return ok && isScheme(scheme)
}

func isScheme(s string) bool {
	if s == "" || !isAlpha(s[0]) {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !isAlpha(c) && (c < '0' || c > '9') && c != '+' && c != '-' && c != '.' {
			return false
		}
	}
	return true
}

func isAlpha(c byte) bool { return c|0x20 >= 'a' && c|0x20 <= 'z' }

// Parse reads one URL. A text without "://" is an AMQP host name, as in Kombu;
// "user:password@host:port/vhost" works there too. Errors are ErrInvalid and
// never show the password.
func Parse(s string) (*URL, error) {
	s = strings.TrimSpace(s)
	scheme, rest, ok := strings.Cut(s, "://")
	if !ok {
		scheme, rest = "amqp", s
	}
	if !isScheme(scheme) {
		return nil, invalid(Mask(s), errors.New("bad scheme"))
	}
	u := &URL{Scheme: strings.ToLower(scheme)}
	if base, sub, ok := strings.Cut(u.Scheme, "+"); ok {
		u.Scheme, u.Rest = base, sub+"://"+rest
		_, query, _ := strings.Cut(rest, "?")
		var err error
		if u.Query, err = url.ParseQuery(query); err != nil {
			return nil, invalid(Mask(s), errors.New("bad query"))
		}
		return u, nil
	}
	rest, _, _ = strings.Cut(rest, "#")
	rest, query, _ := strings.Cut(rest, "?")
	var err error
	if u.Query, err = url.ParseQuery(query); err != nil {
		return nil, invalid(Mask(s), errors.New("bad query"))
	}
	authority, path, hasSlash := strings.Cut(rest, "/")
	u.HasPath = hasSlash && path != ""
	if u.Path, err = url.PathUnescape(path); err != nil {
		return nil, invalid(Mask(s), errors.New("bad percent-encoding in the path"))
	}
	host := authority
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		host = authority[i+1:]
		user, pass, _ := strings.Cut(authority[:i], ":")
		u.HasUser = true
		if u.User, err = url.PathUnescape(user); err != nil {
			return nil, invalid(Mask(s), errors.New("bad percent-encoding in the user"))
		}
		if u.Password, err = url.PathUnescape(pass); err != nil {
			return nil, invalid(Mask(s), errors.New("bad percent-encoding in the password"))
		}
	}
	return u, u.setHost(host, s)
}

func (u *URL) setHost(host, whole string) error {
	port := ""
	switch i := strings.LastIndexByte(host, ':'); {
	case strings.HasPrefix(host, "["):
		end := strings.IndexByte(host, ']')
		if end < 0 || (end+1 < len(host) && host[end+1] != ':') {
			return invalid(Mask(whole), fmt.Errorf("bad IPv6 address %q", host))
		}
		port = strings.TrimPrefix(host[end+1:], ":")
		host = host[1:end]
	case i >= 0:
		host, port = host[:i], host[i+1:]
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return invalid(Mask(whole), fmt.Errorf("bad port %q: want 1 to 65535", port))
		}
		u.Port = int(n)
	}
	var err error
	if u.Host, err = url.PathUnescape(host); err != nil {
		return invalid(Mask(whole), errors.New("bad percent-encoding in the host"))
	}
	return nil
}

// String is the URL with the password, and every query value whose key speaks
// of a secret, shown as "**".
func (u *URL) String() string { return u.text(true) }

// Secret is the URL in full, as Kombu's as_uri(include_password=True).
func (u *URL) Secret() string { return u.text(false) }

func (u *URL) text(mask bool) string {
	if u.Rest != "" {
		s := u.Scheme + "+" + u.Rest
		if mask {
			return Mask(s)
		}
		return s
	}
	var b strings.Builder
	b.WriteString(u.Scheme + "://")
	if u.HasUser {
		b.WriteString(escape(u.User))
		switch {
		case u.Password == "":
		case mask:
			b.WriteString(":**")
		default:
			b.WriteString(":" + escape(u.Password))
		}
		b.WriteByte('@')
	}
	host := u.Host
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	b.WriteString(host)
	if u.Port != 0 {
		b.WriteString(":" + strconv.Itoa(u.Port))
	}
	if u.HasPath {
		b.WriteString("/" + escape(u.Path))
	}
	if len(u.Query) > 0 {
		q := maps.Clone(u.Query)
		for k := range q {
			if mask && secretKey(k) {
				q[k] = []string{"**"}
			}
		}
		text := q.Encode()
		if mask {
			text = strings.ReplaceAll(text, url.QueryEscape("**"), "**")
		}
		b.WriteString("?" + text)
	}
	return b.String()
}

// escape percent-encodes all but letters, digits and -_.~, as Kombu does.
func escape(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }

func secretKey(k string) bool {
	k = strings.ToLower(k)
	for _, w := range []string{"password", "passwd", "secret", "token", "credential", "sentinel_kwargs"} {
		if strings.Contains(k, w) {
			return true
		}
	}
	return false
}

// Mask hides the password of every URL in s; a text without "@" is returned as it is.
func Mask(s string) string {
	out := make([]string, 0, 2)
	for part := range strings.SplitSeq(s, ";") {
		out = append(out, maskOne(part))
	}
	return strings.Join(out, ";")
}

func maskOne(s string) string {
	head, rest, ok := strings.Cut(s, "://")
	if !ok {
		head, rest = "", s
	} else {
		head += "://"
	}
	authority, tail := rest, ""
	at := strings.LastIndexByte(rest, '@')
	if i := strings.IndexAny(rest, "/?"); i >= 0 && i > at {
		authority, tail = rest[:i], rest[i:]
	}
	if at >= 0 {
		user, _, has := strings.Cut(authority[:at], ":")
		if has {
			authority = user + ":**" + authority[at:]
		}
	}
	if path, query, ok := strings.Cut(tail, "?"); ok {
		parts := strings.Split(query, "&")
		for i, p := range parts {
			if k, _, ok := strings.Cut(p, "="); ok && secretKey(k) {
				parts[i] = k + "=**"
			}
		}
		tail = path + "?" + strings.Join(parts, "&")
	}
	return head + authority + tail
}

// Addr is host and port with the given defaults, for a dialer.
func (u *URL) Addr(host string, port int) string {
	if u.Host != "" {
		host = u.Host
	}
	if u.Port != 0 {
		port = u.Port
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}

func invalid(entity string, err error) error {
	return &driver.Error{Op: "open", Entity: entity, Kind: driver.ErrInvalid, Err: err}
}

package gombu

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/gombu/gombu/driver"
	"github.com/gombu/gombu/internal/near"
)

// checkTopology refuses what can be known to be wrong without the broker, and
// says what this transport will not keep.
func (c *Conn) checkTopology(t *Topology) error {
	bad := func(entity, format string, args ...any) error {
		return &Error{Op: "declare", Transport: c.scheme(), Entity: entity, Kind: ErrInvalid, Err: fmt.Errorf(format, args...)}
	}
	var errs []error
	for i := range t.Exchanges {
		e := &t.Exchanges[i]
		entity := fmt.Sprintf("exchange %q", e.Name)
		typ := e.Type
		if typ == "" {
			typ = Direct
		}
		switch {
		case len(e.Name) > 255:
			errs = append(errs, bad(entity[:40], "a name has at most 255 bytes, this has %d", len(e.Name)))
		case !known(typ) && !strings.HasPrefix(typ, "x-"):
			errs = append(errs, bad(entity, "unknown type %q%s", typ, near.Hint(typ, []string{Direct, Topic, Fanout, MatchHeaders})))
		case !slices.Contains(c.feature.Types, typ) && !c.keeps("x-type"):
			errs = append(errs, &Error{Op: "declare", Transport: c.scheme(), Entity: entity, Kind: ErrUnsupported,
				Err: fmt.Errorf("no exchanges of type %q here; there are %s", typ, strings.Join(c.feature.Types, ", "))})
		}
		errs = append(errs, c.checkKept(entity, map[string]bool{"internal": e.Internal, "alternate": e.Alternate != ""}, e.Args))
	}
	for i := range t.Queues {
		q := &t.Queues[i]
		entity := fmt.Sprintf("queue %q", q.Name)
		switch {
		case q.Name == "":
			errs = append(errs, bad(entity, "a queue needs a name; for one that the broker would name, set PerSession: Name is then its handle"))
		case len(q.Name) > 255:
			errs = append(errs, bad(entity[:40], "a name has at most 255 bytes, this has %d", len(q.Name)))
		case q.Expires < 0 || q.MessageTTL < 0 || q.MaxLength < 0 || q.MaxLengthBytes < 0:
			errs = append(errs, bad(entity, "a limit is negative"))
		}
		errs = append(errs, c.checkKept(entity, map[string]bool{"exclusive": q.Exclusive, "auto_delete": q.AutoDelete && !q.Exclusive}, q.Arguments()))
	}
	for i := range t.Bindings {
		b := &t.Bindings[i]
		entity := entityOf(&driver.Step{Binding: b})
		switch {
		case (b.Queue == "") == (b.ToExchange == ""):
			errs = append(errs, bad(entity, "exactly one of Queue and ToExchange must be set"))
		case b.Exchange == "" && (b.ToExchange != "" || b.Key != "" && b.Key != b.Queue):
			errs = append(errs, bad(entity, "the default exchange cannot be bound: it reaches every queue by its name"))
		}
		errs = append(errs, c.checkKept(entity, map[string]bool{"to_exchange": b.ToExchange != "", "binding_args": len(b.Args) > 0}, nil))
		if _, err := json.Marshal(b.Args); err != nil {
			errs = append(errs, bad(entity, "arguments: %w", err))
		}
	}
	return errors.Join(errs...)
}

func known(typ string) bool {
	return typ == Direct || typ == Topic || typ == Fanout || typ == MatchHeaders
}

// checkKept says, or refuses, what the transport does not keep.
func (c *Conn) checkKept(entity string, wants map[string]bool, args Headers) error {
	var errs []error
	for what, asked := range wants {
		if asked && !c.keeps(what) {
			errs = append(errs, c.unsupported("declare", entity, what))
		}
	}
	for _, a := range args {
		if !c.keeps(a.Key) {
			errs = append(errs, c.unsupported("declare", entity, "argument "+a.Key))
		}
	}
	return errors.Join(errs...)
}

func (c *Conn) keeps(what string) bool {
	return slices.Contains(c.feature.Keeps, driver.KeepsAll) || slices.Contains(c.feature.Keeps, what)
}

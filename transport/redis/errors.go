package redis

import (
	"context"
	"errors"
	"strings"

	"github.com/redis/rueidis"

	"github.com/gombu/gombu/driver"
)

// errorCode is the first word of a Redis error, which is what its kinds are
// told apart by. rueidis leaves out the word ERR, a script may put a dash before.
func errorCode(e *rueidis.RedisError) string {
	code, _, _ := strings.Cut(strings.TrimPrefix(e.Error(), "-"), " ")
	if code != strings.ToUpper(code) || len(code) < 3 {
		return "ERR"
	}
	return code
}

func isAbout(e *rueidis.RedisError, words string) bool {
	return strings.Contains(strings.ToLower(e.Error()), words)
}

// redisKind sorts an answer of the server's. All but ErrUnavailable leave no
// doubt that the command did nothing.
func redisKind(e *rueidis.RedisError) error {
	switch errorCode(e) {
	case "WRONGPASS", "NOAUTH", "NOPERM":
		return driver.ErrDenied
	case "WRONGTYPE":
		return driver.ErrConflict
	case "LOADING", "MASTERDOWN", "CLUSTERDOWN", "READONLY", "BUSY", "UNBLOCKED":
		return driver.ErrUnavailable
	case "ERR":
		switch {
		case isAbout(e, "invalid password"), isAbout(e, "without any password configured"), isAbout(e, "invalid username-password"):
			return driver.ErrDenied
		case isAbout(e, "unknown command"), isAbout(e, "unknown subcommand"):
			return driver.ErrUnsupported
		case isAbout(e, "max number of clients"):
			return driver.ErrUnavailable
		}
	}
	return driver.ErrRefused // OOM, MISCONF, NOREPLICAS, EXECABORT and the like
}

// failed makes the error of an operation. unknown is the kind when no answer
// came: ErrUncertain for what changes something, ErrUnavailable for the rest.
func (s *store) failed(op, entity string, unknown, err error) error {
	if err == nil {
		return nil
	}
	if _, known := errors.AsType[*driver.Error](err); known {
		return err
	}
	kind := unknown
	if re, ok := rueidis.IsRedisErr(err); ok {
		if kind = redisKind(re); errorCode(re) == "READONLY" || errorCode(re) == "MOVED" && s.keys.home != "" { // no master any more; it did nothing
			s.lost(err)
			if err = errors.Join(errLinkLost, err); unknown == driver.ErrUncertain {
				kind = driver.ErrNotSent
			}
		}
	} else if over := s.Err(); over != nil {
		err = over
	}
	return &driver.Error{Op: op, Transport: Scheme, Entity: entity, Kind: kind, Err: err}
}

// ended is the error of a call whose context ended before its answer came.
func ended(ctx context.Context, op string, kind error) error {
	return &driver.Error{Op: op, Transport: Scheme, Kind: kind, Err: context.Cause(ctx)}
}

// notOurs is the error of a claim that this session has no more, or never had.
func (s *store) notOurs(op, why string) error {
	err := s.Err()
	if err == nil {
		err = errors.New(why)
	}
	return &driver.Error{Op: op, Transport: Scheme, Kind: driver.ErrLeaseLost, Err: err}
}

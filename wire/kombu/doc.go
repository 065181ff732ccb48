// Package kombu speaks the texts that Python's Kombu stores in a broker which
// knows no messages of its own: the JSON envelope and the binding members.
//
// What is written is byte for byte what Kombu writes (Python's json.dumps with
// its default separators, ASCII only), so that golden files of Kombu compare.
// What is read may be any JSON of the same meaning. Source: wire pages
// envelope.md sections 1 and 3, virtual.md section 2, redis.md section 1.
package kombu

import (
	"errors"

	"github.com/gombu/gombu/driver"
)

// TryKey is the first member of an envelope that was started before:
// {"gombu-try": n, "body": …. Its fixed place lets a store count without
// parsing; Kombu's peers carry it along unread.
const TryKey = "gombu-try"

// maxDepth bounds the nesting of header values, both ways.
const maxDepth = 128

func undecodable(why string) error {
	return &driver.Error{Op: "decode envelope", Kind: driver.ErrUndecodable, Err: errors.New(why)}
}

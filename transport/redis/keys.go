package redis

import (
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/gombu/gombu/driver"
)

// Keys of this transport beside Kombu's (redis.md section 1). <list> is a list
// of Kombu's without the prefix: a queue, or a queue and a priority step.
//
//	gombu:alive:<owner>       string  where the owner's connection is: run id and client id.
//	                                  The fence: made once for an owner id and never again,
//	                                  deleted by whoever takes over; expires long after the lease.
//	gombu:owners              zset    owner -> server time of its last heartbeat.
//	gombu:ledger:<owner>      hash    b:<list> -> positions trimmed from the own list's old
//	                                  end; m:<list> -> positions mirrored so far;
//	                                  p:<position>:<list> -> text of an open claim that was
//	                                  trimmed, because very many behind it are settled;
//	                                  x:<position>:<list>: ended, and it was not ours then,
//	                                  until the owner knows.
//	gombu:own:<owner>:<list>  list    texts claimed and not yet trimmed, newest at the left.
//
// The last three carry no TTL: they hold messages or lead to them, so that only
// taking over may remove them. They vanish with their last entry.
const (
	aliveKey  = "gombu:alive:"
	ownersKey = "gombu:owners"
	ledgerKey = "gombu:ledger:"
	ownKey    = "gombu:own:"
	bindings  = "_kombu.binding."
)

// keys names things in Redis. Immutable.
type keys struct {
	prefix, sep          string
	steps                []int
	highFirst            bool
	unacked, index, lock string // with the prefix
}

func newKeys(c *Config) keys {
	return keys{
		prefix: c.Prefix, sep: c.Sep, steps: c.Steps, highFirst: c.PriorityHighFirst,
		unacked: c.Prefix + c.UnackedKey, index: c.Prefix + c.UnackedIndex, lock: c.Prefix + c.UnackedMutex,
	}
}

func (k *keys) alive(owner string) string     { return k.prefix + aliveKey + owner }
func (k *keys) owners() string                { return k.prefix + ownersKey }
func (k *keys) ledger(owner string) string    { return k.prefix + ledgerKey + owner }
func (k *keys) own(owner, list string) string { return k.prefix + ownKey + owner + ":" + list }
func (k *keys) bindings(ex string) string     { return k.prefix + bindings + ex }

// list is the one that a message of this priority lies in: the largest step
// that is not above it, the last when all are (redis.md section 2).
func (k *keys) list(queue string, priority uint8) string {
	p := min(int(priority), maxPriority)
	i, found := slices.BinarySearch(k.steps, p)
	if !found {
		i = (i - 1 + len(k.steps)) % len(k.steps)
	}
	return k.stepList(queue, k.steps[i])
}

func (k *keys) stepList(queue string, step int) string {
	if step == 0 {
		return queue
	}
	return queue + k.sep + strconv.Itoa(step)
}

// lists are all lists of a queue in the order in which they are taken from.
func (k *keys) lists(queue string) []string {
	out := make([]string, len(k.steps))
	for i, step := range k.steps {
		out[i] = k.stepList(queue, step)
	}
	if k.highFirst {
		slices.Reverse(out)
	}
	return out
}

// prefixed adds the prefix to each name.
func (k *keys) prefixed(names []string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = k.prefix + n
	}
	return out
}

// queueOf is the queue that a list belongs to.
func (k *keys) queueOf(list string) string {
	i := strings.LastIndex(list, k.sep)
	if i < 0 {
		return list
	}
	step, err := strconv.Atoi(list[i+len(k.sep):])
	if err != nil || !slices.Contains(k.steps, step) {
		return list
	}
	return list[:i]
}

// checkQueue refuses names that would hit other keys, or part wrongly.
func (k *keys) checkQueue(op, queue string) error {
	var why string
	full := k.prefix + queue
	switch {
	case queue == "":
		why = "a queue needs a name"
	case strings.Contains(queue, k.sep):
		why = "the name contains the separator"
	case isOurs(queue), strings.HasPrefix(queue, bindings),
		full == k.unacked, full == k.index, full == k.lock:
		why = "the name is that of a key of this transport"
	default:
		return nil
	}
	return &driver.Error{Op: op, Transport: Scheme, Entity: queue, Kind: driver.ErrInvalid, Err: errors.New(why)}
}

// isOurs tells the keys of this transport from queues.
func isOurs(name string) bool {
	return name == ownersKey || strings.HasPrefix(name, aliveKey) || strings.HasPrefix(name, ledgerKey) || strings.HasPrefix(name, ownKey)
}

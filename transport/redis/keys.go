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
//	gombu:unbound:<exchange>  set     members that Gombu took out of its binding set in the last hour.
//
// Ledgers and own lists carry no TTL: they hold messages, so that only taking
// over may remove them. They vanish with their last entry. The set of owners
// outlives its last heartbeat by a month; who is alone looks for what nobody
// names any more (see stray.go).
const (
	aliveKey   = "gombu:alive:"
	ownersKey  = "gombu:owners"
	ledgerKey  = "gombu:ledger:"
	ownKey     = "gombu:own:"
	unboundKey = "gombu:unbound:"
	bindings   = "_kombu.binding."
)

// keys names things in Redis. Immutable.
type keys struct {
	prefix, sep          string
	steps                []int
	highFirst            bool
	unacked, index, lock string // in full

	cluster bool   // the keys of a queue, or exchange, have a hash tag: its name
	home    string // in a cluster: the queue whose ledger this is
}

func newKeys(c *Config) keys {
	k := keys{
		prefix: c.Prefix, sep: c.Sep, steps: c.Steps, highFirst: c.PriorityHighFirst,
		cluster: len(c.Cluster) > 0, home: c.home,
	}
	k.unacked, k.index, k.lock = k.ours(c.UnackedKey), k.ours(c.UnackedIndex), k.ours(c.UnackedMutex)
	return k
}

func (k *keys) alive(owner string) string  { return k.ours(aliveKey + owner) }
func (k *keys) owners() string             { return k.ours(ownersKey) }
func (k *keys) ledger(owner string) string { return k.ours(ledgerKey + owner) }
func (k *keys) own(owner, list string) string {
	return k.prefix + k.tag(k.queueOf(list)) + ownKey + owner + ":" + list
}

func (k *keys) bindings(ex string) string {
	if k.cluster {
		ex = k.tag(ex)
	}
	return k.prefix + bindings + ex
}

// tag is what makes a cluster keep the keys of one name in one slot: the text
// between the first braces of a key is all that its slot depends on.
func (k *keys) tag(name string) string {
	if !k.cluster {
		return ""
	}
	return "{" + name + "}"
}

// ours is the key of something that all queues share, in a cluster of the home
// queue's own.
func (k *keys) ours(name string) string { return k.prefix + k.tag(k.home) + name }

// full is the key of a list of Kombu's; in a cluster the queue's name in it is
// the hash tag.
func (k *keys) full(list string) string {
	if !k.cluster {
		return k.prefix + list
	}
	queue := k.queueOf(list)
	return k.prefix + k.tag(queue) + list[len(queue):]
}

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

// prefixed are the keys of lists.
func (k *keys) prefixed(lists []string) []string {
	out := make([]string, len(lists))
	for i, l := range lists {
		out[i] = k.full(l)
	}
	return out
}

// queueAt is the queue that the key of a list belongs to.
func (k *keys) queueAt(key string) (queue string, ok bool) {
	name, ok := strings.CutPrefix(key, k.prefix)
	queue = k.queueOf(name)
	if ok && k.cluster {
		inner, opens := strings.CutPrefix(queue, "{")
		inner, closes := strings.CutSuffix(inner, "}")
		queue, ok = inner, opens && closes && !strings.Contains(name, "}"+ownKey)
	}
	return queue, ok
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
	case k.cluster && strings.HasPrefix(queue, "}"):
		why = "a name that begins with a brace has no slot of its own in a cluster"
	case k.cluster:
		return nil // with its tag it is like no other key
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
	return name == ownersKey || strings.HasPrefix(name, aliveKey) || strings.HasPrefix(name, unboundKey) || strings.HasPrefix(name, ledgerKey) || strings.HasPrefix(name, ownKey)
}

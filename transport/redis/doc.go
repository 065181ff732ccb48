// Package redis is Gombu's transport for Redis 6.2 and later, beside Python
// Kombu peers or alone. Import it for its schemes, or use New.
//
// # URL
//
//	redis://[user][:password]@host[:6379][/db]
//	rediss://…                                  TLS; certificate and host name are verified
//	redis+socket:///path/of/the.sock?virtual_host=db
//	sentinel://[user][:password]@host[:26379][/db]?master_name=name;sentinel://host…
//	redis+cluster://[user][:password]@host[:6379];redis+cluster://host…
//	rediss+cluster://…
//
// Options are Kombu's transport options as query keys, see Config. Those that
// have no meaning here are refused with what happens instead. Ours beside
// them: mirror, lease, priority_high_first, fanout_buffer. For rediss:
// ssl_cert_reqs, ssl_ca_certs, ssl_certfile, ssl_keyfile, ssl_check_hostname;
// unlike in Kombu, nothing given means that everything is verified.
//
// With sentinels the user and password are the master's. Options, in any of the
// URLs: master_name, min_other_sentinels, ssl=true (TLS to the master), and for
// the sentinels sentinel_kwargs, a table in JSON, or sentinel_username,
// sentinel_password, sentinel_ssl. A session asks all of them, takes the newest
// view whose server says that it is master, and connects again when that changes:
// docs/decisions/030-redis-sentinel.md.
//
// A Redis Cluster is Gombu's alone: Kombu has no such transport. The names of
// queues and exchanges stand in braces in all keys of theirs, so that each has
// its slot: docs/decisions/033-redis-cluster.md. Some of the nodes are enough.
//
// # Mapping
//
//	queue               a list for each priority step, its key the queue's name;
//	                    LPUSH publishes, the right end is next (redis.md 1 and 2)
//	binding             a member of the set _kombu.binding.<exchange>, with the
//	                    text that Kombu would store; topics are matched by AMQP's
//	                    rules, which differ from Kombu's in corner cases
//	exchange            nothing: its type is what the binder and the publisher declare
//	fan-out             PUBLISH and PSUBSCRIBE, Kombu's channel names; a binding
//	                    without a key hears every key, as in AMQP
//	delivery            RPOPLPUSH into a list of the owner's, gombu:own:<owner>:<list>
//	ack                 the position is marked, settled ends are trimmed (settle.lua)
//	requeue             back to the head of the same list, several in their old
//	                    order
//	handler starts      counted by Begin in the envelope's first member,
//	                    "gombu-try"; what comes back and may have been started
//	                    counts as started once
//	reject              dropped, as Kombu does
//	claim of Python's   an entry of unacked; restored after the visibility timeout
//	x-expires           PEXPIRE of the queue's lists at each publish and claim
//
// A connector opens one session to publish and one to consume, each with one
// connection, and one more for each publish channel, and once the second subscribes
// to a fan-out; and each session one to each sentinel. In a cluster each session has up to one to each master, three that
// ask for the map, and the one that consumes one for each queue. The keys that
// they add are described in keys.go.
//
// # Guarantees
//
// At least once. A publish that returned nil is in the server's memory, in all
// its queues or in none (MULTI); how much of that survives a crash of the
// server is its persistence's; ProducerConfig.Replicas and Fsync wait for more
// (docs/decisions/031-redis-replicas.md). In a cluster all its queues are
// several steps; ErrUncertain names those that it reached. At every moment a
// message is in a queue, in an owner's list, or settled. Keys that somebody
// deletes are put back, or end the session, which is followed by another:
// docs/decisions/032-redis-vanished-keys.md.
//
// Order: first in, first out within a queue and priority step. Priority: low
// first, as Kombu has it; PriorityHighFirst turns that round for fleets without
// Python. The number travels unchanged either way.
//
// Claims last until they are settled, however long a handler runs, and through
// lost connections and restarts of a server that kept its data: a session that
// consumes connects again by itself (event Warning), and only being taken over
// ends it. It is taken over, and its claims come back, within some five seconds
// when its connection is gone and it makes no new one, and after the lease
// (30 s) when it is silent. Then all its claims are ErrLeaseLost, and after a
// pause it starts no handler before it has asked. Time-outs count from the
// unbroken view of who takes over: a stopped server or a wrong clock makes
// nobody look dead. A server that comes back with older data, or none, ends the
// session; what it still has is delivered again.
//
// A session that publishes ends with its connection: what was under way is
// ErrUncertain.
//
// Beside Python: claims older than a second are mirrored into Kombu's unacked
// under an id of ours and renewed each second, so that Python's sweep leaves
// them alone while we live and restores them, to exactly the queue they came
// from, when every Go process has died. The window left: they all die within a
// second of the claim; then those messages wait for the next Go process.
// Overdue claims of Python peers are restored by our own ticker, to the queues
// that Kombu's own sweep would choose.
//
// A publish that starts after any peer's bind returned reaches the new queue
// (docs/decisions/010-redis-binding-freshness.md).
//
// # Limits
//
// A claim of more than 16 MiB of text is not mirrored into Kombu's unacked: only
// Go takes it over when its process dies.
//
// No headers exchanges and no bindings between exchanges in the shared table;
// no delays; no message TTL, no length limits. Queues exist only while they
// hold something: one that is empty and one that never was look alike to
// Inspect (zero ready). Unsettled and Consumers are unknown (-1):
// Redis does not know them. Fan-out has no memory: who is not connected hears
// nothing, and a receiver too slow for its buffer loses the oldest (event
// Dropped). At maxmemory the server refuses publishing, claiming and settling
// alike: leave room. Any maxmemory-policy but noeviction loses messages (event
// Warning). A failover loses what the new master has not seen; what Replicas
// has confirmed is only safe while a replica is chosen that has it. In a cluster
// claims of a dead process come back when another consumes the same queue, and
// a queue waits while its slot moves. An idle Python worker is always served
// before an idle Go one.
package redis

// Package memory is a transport that keeps its queues in this process: for
// tests, examples and pipelines inside one program. Import it to make
// memory:// known to gombu.Open.
//
// # URL
//
//	memory://          the default broker of this process
//	memory://NAME      the broker of that name; everybody who names it shares it
//
// There are no options. A named broker lives as long as the process, with what
// was left in it. [New] makes a private one, which nobody can name.
//
// # Mapping
//
//	exchange   routing state of the broker (package virtual), shared by all its sessions
//	queue      a ring of pointers; with x-max-priority one ring per priority in use
//	message    copied in at publish, copied out at delivery: nothing is shared with the program
//	claim      held by the session that received it, until it is settled or the session ends
//
// # Guarantees
//
//	publish      returns when every queue has the message (confirmed), or says why not
//	mandatory    a message that reaches no queue is ErrUnroutable
//	delivery     at least once: claims of a closed session return to their places, in order
//	order        first in, first out, per queue and priority; a requeued message takes its old place
//	priority     high first, as RabbitMQ; ignored without x-max-priority
//	attempts     handler starts are counted; a Release, or a claim that was never started
//	             after its first return, is none
//	limits       expiration, x-message-ttl, x-expires, x-max-length, x-max-length-bytes with
//	             x-overflow drop-head or reject-publish (ErrRefused)
//	durability   none: all ends with the process
//
// # Limits
//
// One lock per broker. Reject drops: there is no dead lettering in the broker.
// No delay. An expired message in the middle of a queue is never delivered, but
// is counted until it reaches the head; so does RabbitMQ.
package memory

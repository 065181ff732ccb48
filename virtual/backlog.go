package virtual

// arrived is a claim or a broadcast that was not received yet.
type arrived struct {
	Claim
	fan bool
}

// backlog is a queue of arrivals that reuses its array.
type backlog struct {
	items []arrived
	head  int
}

func (b *backlog) len() int { return len(b.items) - b.head }

func (b *backlog) push(a arrived) {
	if b.head > 0 && len(b.items) == cap(b.items) {
		n := copy(b.items, b.items[b.head:])
		clear(b.items[n:])
		b.items, b.head = b.items[:n], 0
	}
	b.items = append(b.items, a)
}

func (b *backlog) pop() arrived {
	a := b.items[b.head]
	b.items[b.head] = arrived{}
	if b.head++; b.head == len(b.items) {
		b.items, b.head = b.items[:0], 0
	}
	return a
}

// giveBack empties the backlog of claims. Broadcasts stay, and so does what
// was settled by being claimed: nobody would take them back.
func (b *backlog) giveBack(noAck bool) []Settlement {
	var back []Settlement
	for range b.len() {
		a := b.pop()
		if a.fan || noAck {
			b.push(a)
			continue
		}
		back = append(back, release(a.Claim.Tag))
	}
	return back
}

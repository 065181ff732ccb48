package memory

// ring is a queue of items that reuses its array.
type ring struct {
	buf     []*item // its length is a power of two
	head, n int
}

func (r *ring) at(i int) **item { return &r.buf[(r.head+i)&(len(r.buf)-1)] }

func (r *ring) grow() {
	if r.n < len(r.buf) {
		return
	}
	next := make([]*item, max(16, 2*len(r.buf)))
	for i := range r.n {
		next[i] = *r.at(i)
	}
	r.buf, r.head = next, 0
}

func (r *ring) push(it *item) {
	r.grow()
	*r.at(r.n) = it
	r.n++
}

// put brings an item back to its place, which is near the head: before it
// there are only others that came back.
func (r *ring) put(it *item) {
	r.grow()
	r.head = (r.head - 1) & (len(r.buf) - 1)
	r.n++
	i := 0
	for ; i+1 < r.n && (*r.at(i + 1)).seq < it.seq; i++ {
		*r.at(i) = *r.at(i + 1)
	}
	*r.at(i) = it
}

func (r *ring) pop() *item {
	it := *r.at(0)
	*r.at(0) = nil
	r.head = (r.head + 1) & (len(r.buf) - 1)
	if r.n--; r.n == 0 && len(r.buf) > keepRing {
		*r = ring{}
	}
	return it
}

// keepRing is how many places an empty queue may keep.
const keepRing = 1024

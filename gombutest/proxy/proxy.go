// Package proxy is a TCP proxy that treats its links badly: it cuts them, ends
// one direction, delays, and swallows in silence.
package proxy

import (
	"net"
	"sync"
	"time"
)

// Way is a direction of a link.
type Way uint8

// The directions; they can be combined.
const (
	Up   Way = 1 << iota // from the client to the server
	Down                 // from the server to the client
	Both = Up | Down
)

// A chunk is what is read at once, and what is on its way at most: little, so
// that a held link is soon felt by whoever writes.
const (
	chunkSize = 16 << 10
	onTheWay  = 8
)

// A Proxy carries what it accepts to one server. Its methods may be called from
// any goroutine.
type Proxy struct {
	l      net.Listener
	target string
	wg     sync.WaitGroup

	mu     sync.Mutex
	links  map[*link]struct{}
	gates  [2]chan struct{} // of Up and Down, closed while bytes flow
	delay  time.Duration
	closed bool
}

// link is one connection through the proxy.
type link struct {
	client, server net.Conn
	halved         bool // the client was told of the end, the server is not
	gone           chan struct{}
	end            func() // closes both, once
}

// Listen starts a proxy on a free port of the loopback to target, host:port.
// Close ends it.
func Listen(target string) (*Proxy, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &Proxy{l: l, target: target, links: map[*link]struct{}{}}
	for i := range p.gates {
		p.gates[i] = make(chan struct{})
		close(p.gates[i])
	}
	p.wg.Go(p.accept)
	return p, nil
}

// Addr is where it listens.
func (p *Proxy) Addr() string { return p.l.Addr().String() }

// Close cuts all links and ends the proxy.
func (p *Proxy) Close() {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	_ = p.l.Close() // nothing was written to it
	p.Cut()
	p.Flow(Both)
	p.wg.Wait()
}

// Hold lets nothing through in these directions: a link stands, what is written
// fills the buffers and then blocks, and a new link is accepted and goes nowhere.
// That is a black hole in which TCP's own repeats have not given up yet.
func (p *Proxy) Hold(w Way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.gates {
		if w&(1<<i) != 0 && open(p.gates[i]) {
			p.gates[i] = make(chan struct{})
		}
	}
}

// Flow ends Hold in these directions; what was held arrives.
func (p *Proxy) Flow(w Way) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range p.gates {
		if w&(1<<i) != 0 && !open(p.gates[i]) {
			close(p.gates[i])
		}
	}
}

func open(gate chan struct{}) bool {
	select {
	case <-gate:
		return true
	default:
		return false
	}
}

// Delay makes everything arrive this much later, in each direction; 0 ends it.
func (p *Proxy) Delay(d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.delay = d
}

// Links is how many links there are.
func (p *Proxy) Links() int { return len(p.all()) }

// Cut closes all links at once and says how many there were.
func (p *Proxy) Cut() int {
	all := p.all()
	for _, k := range all {
		k.end()
	}
	return len(all)
}

// HalfClose tells the clients that the servers have closed, and the servers
// nothing: to them the links stand, and carry nothing, until Cut or CutHalved. It
// says how many links there were.
func (p *Proxy) HalfClose() int {
	all := p.all()
	for _, k := range all {
		p.mu.Lock()
		k.halved = true
		p.mu.Unlock()
		_ = k.client.(*net.TCPConn).CloseWrite() // of a link that is gone already: as well
	}
	return len(all)
}

// CutHalved cuts what HalfClose left standing, and says how many links that were.
func (p *Proxy) CutHalved() (n int) {
	for _, k := range p.all() {
		p.mu.Lock()
		halved := k.halved
		p.mu.Unlock()
		if halved {
			k.end()
			n++
		}
	}
	return n
}

// Inject writes to the clients as if the servers had, and says how many got it.
// The servers must be silent meanwhile.
func (p *Proxy) Inject(b []byte) (n int) {
	for _, k := range p.all() {
		if _, err := k.client.Write(b); err == nil {
			n++
		}
	}
	return n
}

func (p *Proxy) all() []*link {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := make([]*link, 0, len(p.links))
	for k := range p.links {
		all = append(all, k)
	}
	return all
}

func (p *Proxy) accept() {
	for {
		client, err := p.l.Accept()
		if err != nil {
			return
		}
		p.wg.Go(func() { p.serve(client) })
	}
}

// serve carries one connection until its end.
func (p *Proxy) serve(client net.Conn) {
	// A buffer that the kernel grows by itself would hide a hold for long.
	_ = client.(*net.TCPConn).SetReadBuffer(32 << 10)
	k := &link{client: client, gone: make(chan struct{})}
	k.end = sync.OnceFunc(func() {
		close(k.gone)
		_ = client.Close() // cut: its answer does not matter
	})
	p.mu.Lock()
	p.links[k] = struct{}{}
	closed, gate := p.closed, p.gates[0]
	p.mu.Unlock()
	defer func() {
		p.mu.Lock()
		delete(p.links, k)
		p.mu.Unlock()
	}()
	defer k.end()
	if closed {
		return
	}
	select {
	case <-gate:
	case <-k.gone:
		return
	}
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		return
	}
	k.server = server
	var wg sync.WaitGroup
	wg.Go(func() {
		<-k.gone
		_ = server.Close() // likewise
	})
	wg.Go(func() { p.carry(k, server, client, Up) })
	wg.Go(func() { p.carry(k, client, server, Down) })
	wg.Wait()
}

type chunk struct {
	bytes []byte
	due   time.Time
}

// carry copies one direction until either end is closed; that ends the link,
// unless the client alone was told.
func (p *Proxy) carry(k *link, dst, src net.Conn, w Way) {
	chunks := make(chan chunk, onTheWay)
	var wg sync.WaitGroup
	wg.Go(func() {
		defer p.over(k)
		for c := range chunks {
			if !p.pass(k, w, c.due) {
				return
			}
			if _, err := dst.Write(c.bytes); err != nil {
				return
			}
		}
	})
	buf := make([]byte, chunkSize)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			p.mu.Lock()
			due := time.Now().Add(p.delay)
			p.mu.Unlock()
			select {
			case chunks <- chunk{append([]byte(nil), buf[:n]...), due}:
			case <-k.gone:
				err = net.ErrClosed
			}
		}
		if err != nil {
			break
		}
	}
	close(chunks) // what was read is still written, then the link ends
	wg.Wait()
}

// pass waits until a chunk may go on; false when the link is gone.
func (p *Proxy) pass(k *link, w Way, due time.Time) bool {
	p.mu.Lock()
	gate := p.gates[w>>1]
	p.mu.Unlock()
	select {
	case <-gate:
	case <-k.gone:
		return false
	}
	if d := time.Until(due); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-k.gone:
			return false
		}
	}
	return true
}

func (p *Proxy) over(k *link) {
	p.mu.Lock()
	halved := k.halved
	p.mu.Unlock()
	if !halved {
		k.end()
	}
}

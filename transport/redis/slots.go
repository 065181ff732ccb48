package redis

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/gombu/gombu/driver"
)

// slotOf is the slot of a name as a hash tag: CRC16 (XMODEM) modulo 16384.
// Source: the Redis Cluster specification, appendix A.
func slotOf(name string) uint16 {
	var crc uint16
	for _, c := range []byte(name) {
		crc ^= uint16(c) << 8
		for range 8 {
			if crc&0x8000 != 0 {
				crc = crc<<1 ^ 0x1021
			} else {
				crc <<= 1
			}
		}
	}
	return crc % 16384
}

// A slotRange is which master has some slots, and since which epoch: of two
// that claim one, the later has it.
type slotRange struct {
	from, to uint16
	addr     string
	epoch    int64
}

// A slotMap is what some nodes know, newest first. Immutable.
type slotMap []slotRange

func (m slotMap) find(slot uint16) (slotRange, bool) {
	for _, r := range m {
		if r.from <= slot && slot <= r.to {
			return r, true
		}
	}
	return slotRange{}, false
}

// masters are those that have any slot.
func (m slotMap) masters() []string {
	var out []string
	for _, r := range m {
		if now, _ := m.find(r.from); now.addr == r.addr && !slices.Contains(out, r.addr) {
			out = append(out, r.addr)
		}
	}
	return out
}

// parseNodes reads CLUSTER NODES as the node at addr writes it: the masters
// that are not taken for dead. Slots on their way (in brackets) are left out.
func parseNodes(text, addr string, secure bool) (slotMap, error) {
	var out slotMap
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 8 {
			return nil, fmt.Errorf("CLUSTER NODES: %q", line)
		}
		flags := strings.Split(f[2], ",")
		if !slices.Contains(flags, "master") || slices.Contains(flags, "fail") || slices.Contains(flags, "noaddr") {
			continue
		}
		epoch, err := strconv.ParseInt(f[6], 10, 64)
		if err != nil {
			return nil, fmt.Errorf("CLUSTER NODES: %q", line)
		}
		at := nodeAddr(f[1], addr, secure)
		for _, slots := range f[8:] {
			first, last, ok := strings.Cut(slots, "-")
			if !ok {
				last = first
			}
			from, err1 := strconv.ParseUint(first, 10, 14)
			to, err2 := strconv.ParseUint(last, 10, 14)
			if err1 == nil && err2 == nil {
				out = append(out, slotRange{uint16(from), uint16(to), at, epoch})
			}
		}
	}
	return out, nil
}

// nodeAddr reads ip:port@busport[,hostname]. A node that does not know its own
// address is where it was asked; a certificate bears the host's name.
func nodeAddr(text, asked string, secure bool) string {
	text, name, _ := strings.Cut(text, ",")
	text, _, _ = strings.Cut(text, "@")
	host, port := text, ""
	if i := strings.LastIndexByte(text, ':'); i >= 0 { // IPv6 without brackets
		host, port = text[:i], text[i+1:]
	}
	name, _, _ = strings.Cut(name, ",")
	switch {
	case secure && name != "":
		host = name
	case host == "":
		host, _, _ = net.SplitHostPort(asked)
	}
	return net.JoinHostPort(host, port)
}

// An atlas is a session's knowledge of the cluster. One goroutine, run, asks
// nodes for it; others read, wait and urge.
type atlas struct {
	c *Config

	mu      sync.Mutex
	slots   slotMap
	changed chan struct{} // closed and replaced when the nodes were asked
	why     error         // nobody answered

	urge chan struct{} // capacity 1
	kept map[string]*link
}

const (
	askNodes   = 3 // at once: one that is behind or stopped shall not be alone
	redirected = 20 * time.Millisecond
)

func newAtlas(c *Config) *atlas {
	return &atlas{c: c, changed: make(chan struct{}), urge: make(chan struct{}, 1), kept: map[string]*link{}}
}

// find is which node has a slot, waiting for one under ctx.
func (a *atlas) find(ctx context.Context, slot uint16) (slotRange, error) {
	for {
		a.mu.Lock()
		r, ok := a.slots.find(slot)
		changed, why := a.changed, a.why
		a.mu.Unlock()
		if ok {
			return r, nil
		}
		a.hurry()
		select {
		case <-changed:
		case <-ctx.Done():
			return r, &driver.Error{Op: "connect", Transport: Scheme, Entity: fmt.Sprintf("slot %d", slot), Kind: driver.ErrUnavailable,
				Err: errors.Join(context.Cause(ctx), errors.New("no node has it"), why)}
		}
	}
}

// hurry has the nodes asked at once.
func (a *atlas) hurry() {
	select {
	case a.urge <- struct{}{}:
	default:
	}
}

// again urges, and waits until the nodes were asked, or a moment.
func (a *atlas) again(ctx context.Context) {
	a.mu.Lock()
	changed := a.changed
	a.mu.Unlock()
	a.hurry()
	timer := time.NewTimer(redirected)
	defer timer.Stop()
	select {
	case <-timer.C:
		select {
		case <-changed:
		case <-time.After(redirected):
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
}

// run asks until ctx ends; look sees each new map.
func (a *atlas) run(ctx context.Context, look func(slotMap)) {
	defer func() {
		for _, l := range a.kept {
			l.shut()
		}
	}()
	ticker := time.NewTicker(askEvery)
	defer ticker.Stop()
	for {
		if m, err := a.ask(ctx); err == nil {
			look(m)
		}
		select {
		case <-ticker.C:
		case <-a.urge:
		case <-ctx.Done():
			return
		}
	}
}

// ask asks some nodes, masters before those of the configuration.
func (a *atlas) ask(ctx context.Context) (slotMap, error) {
	a.mu.Lock()
	known := a.slots.masters()
	a.mu.Unlock()
	rand.Shuffle(len(known), func(i, j int) { known[i], known[j] = known[j], known[i] })
	for _, seed := range a.c.Cluster {
		if !slices.Contains(known, seed) {
			known = append(known, seed)
		}
	}
	for addr, l := range a.kept { // this goroutine's alone now
		if !slices.Contains(known, addr) {
			l.shut()
			delete(a.kept, addr)
		}
	}
	var m slotMap
	var err error
	for some := range slices.Chunk(known, askNodes) {
		var maps []slotMap
		if maps, err = gather(ctx, some, func(ctx context.Context, addr string) (slotMap, error) { return a.askOne(ctx, addr) }); len(maps) > 0 {
			m, err = slices.Concat(maps...), nil
			break
		}
	}
	slices.SortStableFunc(m, func(a, b slotRange) int { return int(b.epoch - a.epoch) })
	if err == nil && len(m) == 0 {
		err = errors.New("no node has any slot")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.why = err; err == nil {
		a.slots = m
	}
	close(a.changed)
	a.changed = make(chan struct{})
	return m, err
}

// askOne asks over a connection that is kept.
func (a *atlas) askOne(ctx context.Context, addr string) (slotMap, error) {
	a.mu.Lock()
	l := a.kept[addr]
	a.mu.Unlock()
	if l == nil {
		var err error
		if l, err = dialOne(ctx, a.c.node(addr), nil); err != nil {
			return nil, err
		}
		a.mu.Lock()
		a.kept[addr] = l
		a.mu.Unlock()
	}
	text, err := l.client.Do(ctx, l.client.B().Arbitrary("CLUSTER", "NODES").Build()).ToString()
	if err != nil {
		a.mu.Lock()
		delete(a.kept, addr)
		a.mu.Unlock()
		l.shut()
		return nil, connectError(ctx, a.c.node(addr), err)
	}
	return parseNodes(text, addr, a.c.Secure)
}

// node is the configuration of one server of the cluster.
func (c *Config) node(addr string) *Config {
	at := *c
	at.Addr, at.Socket, at.cluster = addr, "", nil
	return &at
}

// gather asks all at once and returns what those answer that do so in time: who
// has heard one waits othersIn for the others, which may know better.
// The error is why nobody answered.
func gather[A, V any](ctx context.Context, all []A, ask func(context.Context, A) (V, error)) ([]V, error) {
	ctx, cancel := context.WithTimeout(ctx, askFor)
	defer cancel()
	var (
		wg   sync.WaitGroup
		mu   sync.Mutex
		out  []V
		errs []error
		rest *time.Timer
	)
	for _, one := range all {
		wg.Go(func() {
			v, err := ask(ctx, one)
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				errs = append(errs, err)
			} else if out = append(out, v); len(out) == 1 {
				rest = time.AfterFunc(othersIn, cancel)
			}
		})
	}
	wg.Wait()
	if rest != nil {
		rest.Stop()
	}
	if len(out) > 0 {
		return out, nil
	}
	return nil, errors.Join(errs...)
}

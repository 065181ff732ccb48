package simulation

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/gombu/gombu"
)

// book is what producers and consumers saw.
type book struct {
	mu        sync.Mutex
	confirmed map[string]bool // id@queue
	refused   map[string]bool // said to be not sent
	uncertain map[string]bool
	starts    map[string]int
	order     map[string][]string // producer@queue -> ids by their first start
	done      map[string]int
	settled   map[string]bool
	resend    bool // what a lost link left open was sent twice: a copy may come after the other was acked
	faults    []string
}

func (b *book) init() {
	b.confirmed, b.refused, b.uncertain = map[string]bool{}, map[string]bool{}, map[string]bool{}
	b.starts, b.order, b.done, b.settled = map[string]int{}, map[string][]string{}, map[string]int{}, map[string]bool{}
}

func (b *book) complain(format string, args ...any) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.faults = append(b.faults, fmt.Sprintf(format, args...))
}

func (b *book) published(id string, to []string, err error, dead bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, q := range to {
		switch key := id + "@" + q; {
		case err == nil && !dead:
			b.confirmed[key] = true
		case errors.Is(err, gombu.ErrUncertain):
			b.uncertain[key] = true
		case errors.Is(err, gombu.ErrNotSent):
			b.refused[key] = true
		default:
			b.faults = append(b.faults, fmt.Sprintf("publish of %s says not what is known: %v", key, err))
		}
	}
}

func (b *book) started(id, who string, attempt int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.settled[id] && !b.resend {
		b.faults = append(b.faults, fmt.Sprintf("%s was acked, and then started by %s", id, who))
	}
	if b.starts[id]++; b.starts[id] == 1 {
		producer, _, _ := strings.Cut(id, ".")
		_, queue, _ := strings.Cut(id, "@")
		b.order[producer+"@"+queue] = append(b.order[producer+"@"+queue], id)
		if attempt > 2 { // a claim that was only prefetched may count as one start
			b.faults = append(b.faults, fmt.Sprintf("%s: its first start is called attempt %d", id, attempt))
		}
	}
}

func (b *book) handled(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done[id]++
}

func (b *book) acked(id string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.settled[id] = true
}

// missing is what was confirmed and is not handled.
func (b *book) missing() (ids []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.confirmed {
		if b.done[id] == 0 {
			ids = append(ids, id)
		}
	}
	slices.Sort(ids)
	return ids
}

// judge says what is wrong: something confirmed was lost, something acked came
// back, something that was said to be not sent arrived, order was not kept by
// one worker, or on a day without faults anything at all was done twice.
func (w *world) judge() []string {
	b := &w.book
	if lost := b.missing(); len(lost) > 0 {
		b.complain("lost: %v", lost)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range b.refused {
		if b.starts[id] > 0 {
			b.faults = append(b.faults, id+" was said to be not sent, and arrived")
		}
	}
	calm := len(w.plan.faults) == 0
	for id, n := range b.starts {
		if calm && n != 1 {
			b.faults = append(b.faults, fmt.Sprintf("%s was started %d times on a day without faults", id, n))
		}
	}
	if calm && len(b.uncertain)+len(b.refused) > 0 {
		b.faults = append(b.faults, fmt.Sprintf("uncertain %v, not sent %v on a day without faults", b.uncertain, b.refused))
	}
	if w.plan.ordered() {
		for who, ids := range b.order {
			if !slices.IsSorted(ids) {
				b.faults = append(b.faults, fmt.Sprintf("order of %s: %v", who, ids))
			}
		}
	}
	return b.faults
}

// ordered says whether first starts come in the order of the publishes: one
// worker, and no session of it is lost, for what that had claimed comes back
// after its lease, behind what a new session takes meanwhile.
func (p *plan) ordered() bool {
	lost := slices.ContainsFunc(p.faults, func(f fault) bool {
		return f.kind == "restart" || f.whom < p.consumers && f.kind != "stop"
	})
	return p.consumers == 1 && p.workers == 1 && !lost
}

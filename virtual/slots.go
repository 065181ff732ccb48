package virtual

import (
	"cmp"
	"slices"

	"github.com/gombu/gombu/driver"
)

// slots are the deliveries of one receiver that are not settled. A delivery's
// own Tag is a slot's number and how often it was used, so that finding a claim
// costs no hashing, and a tag from before finds nothing.
type slots struct {
	all  []slot
	free []uint32
	n    int
	seq  uint64
}

type slot struct {
	store driver.Tag // the store's name of the claim
	seq   uint64     // order of delivery
	uses  uint32
	live  bool
	fan   bool   // broadcast: the store knows no claim
	raw   []byte // of a broadcast, which the store does not keep
}

// put keeps a claim by its tag in the store and returns that of the delivery; raw
// is that of a broadcast, of which the store knows no claim.
func (s *slots) put(store driver.Tag, fan bool, raw []byte) driver.Tag {
	var i uint32
	if n := len(s.free); n > 0 {
		i = s.free[n-1]
		s.free = s.free[:n-1]
	} else {
		i = uint32(len(s.all))
		s.all = append(s.all, slot{})
	}
	s.n++
	s.seq++
	o := &s.all[i]
	*o = slot{store: store, seq: s.seq, uses: o.uses + 1, live: true, fan: fan, raw: raw}
	return driver.Tag{ID: uint64(o.uses)<<32 | uint64(i)}
}

// get returns the slot of a tag; nil when it is settled.
func (s *slots) get(t driver.Tag) *slot {
	i := uint32(t.ID)
	if int(i) >= len(s.all) || !s.all[i].live || s.all[i].uses != uint32(t.ID>>32) {
		return nil
	}
	return &s.all[i]
}

func (s *slots) drop(t driver.Tag) {
	if o := s.get(t); o != nil {
		o.live, o.raw = false, nil
		s.free = append(s.free, uint32(t.ID))
		s.n--
	}
}

// drain empties the slots and returns their claims for giving back, oldest
// first.
func (s *slots) drain() []Settlement {
	var live []slot
	for i := range s.all {
		o := &s.all[i]
		if o.live && !o.fan {
			live = append(live, *o)
		}
		s.drop(driver.Tag{ID: uint64(o.uses)<<32 | uint64(i)})
	}
	slices.SortFunc(live, func(a, b slot) int { return cmp.Compare(a.seq, b.seq) })
	back := make([]Settlement, len(live))
	for i := range live {
		back[i] = Settlement{Settlement: driver.Settlement{Tag: live[i].store, Outcome: driver.Requeue}}
	}
	return back
}

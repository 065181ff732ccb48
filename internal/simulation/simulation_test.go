package simulation

import (
	"flag"
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/gombu/gombu/internal/leak"
)

var (
	seeds = flag.Int("seeds", 200, "how many seeds to try")
	trace = flag.Bool("trace", false, "say each seed as it begins")
	first = flag.Uint64("seed", 1, "the first seed; with -seeds 1 its log is printed")
)

func TestMain(m *testing.M) { leak.Main(m) }

// live runs one seed in a bubble of its own.
func live(t *testing.T, seed uint64, b bug, loud bool) (wrong []string) {
	synctest.Test(t, func(t *testing.T) { wrong = run(t.Context(), seed, b, loud) })
	return wrong
}

// each tries seeds side by side until one is wrong.
func each(t *testing.T, n int, b bug) (seed uint64, wrong []string) {
	var next, bad atomic.Uint64
	t.Run("", func(t *testing.T) {
		for range runtime.GOMAXPROCS(0) {
			t.Run("", func(t *testing.T) {
				t.Parallel()
				for bad.Load() == 0 {
					seed := *first + next.Add(1) - 1
					if seed >= *first+uint64(n) {
						return
					}
					if *trace {
						t.Log("seed", seed)
					}
					if w := live(t, seed, b, n == 1); len(w) > 0 && bad.CompareAndSwap(0, seed) {
						wrong = w
					}
				}
			})
		}
	})
	return bad.Load(), wrong
}

func TestNothingIsLost(t *testing.T) {
	if seed, wrong := each(t, *seeds, none); seed != 0 {
		t.Fatal(said(seed, wrong))
	}
}

// Bugs that were put in are found soon.
func TestBugsAreFound(t *testing.T) {
	for _, b := range []bug{ackFirst, popThenRegister, lostRenewal, noFence, earlyConfirm, tailRequeue, deafClaim, uncounted, notSentSaid} {
		t.Run(string(b), func(t *testing.T) {
			seed, wrong := each(t, 1000, b)
			if seed == 0 {
				t.Fatal("not found in 1000 seeds")
			}
			t.Log(fmt.Sprintf("found by seed %d:", seed), wrong[0])
		})
	}
}

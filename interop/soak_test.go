package interop

import (
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/gombu/gombu"
)

// A sample is what the process has at some time of a soak.
type sample struct {
	at   float64 // minutes
	heap float64 // KiB that live, without the ledgers' 16 bytes a message
	rss  float64 // KiB
	held held
}

func sampled(t *testing.T, began time.Time) sample {
	t.Helper()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	s := sample{at: time.Since(began).Minutes(), heap: (float64(m.HeapAlloc) - 16*float64(sentByCrowds.Load())) / 1024, held: steadily(t)}
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	for line := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			s.rss, err = strconv.ParseFloat(strings.Fields(rest)[0], 64)
			must(t, err)
		}
	}
	return s
}

// steadily is what is held all the time: the least of some looks, without the
// goroutines of calls that happen to be under way.
func steadily(t *testing.T) held {
	t.Helper()
	least := holding(t)
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for range 20 {
		<-tick.C
		now := holding(t)
		least.goroutines = min(least.goroutines, now.goroutines)
		least.sockets, least.files = min(least.sockets, now.sockets), min(least.files, now.files)
	}
	return least
}

// slope is the growth a minute, by least squares.
func slope(all []sample, of func(sample) float64) float64 {
	var x, y, xx, xy float64
	for _, s := range all {
		v := of(s)
		x, y, xx, xy = x+s.at, y+v, xx+s.at*s.at, xy+s.at*v
	}
	n := float64(len(all))
	return (n*xy - x*y) / (n*xx - x*x)
}

// Under load, with the connection cut again and again: nothing is lost, and
// memory, descriptors and goroutines stay as they are.
func TestSoak(t *testing.T) {
	length := time.Duration(byHand(t, "GOMBU_TEST_SOAK", 60)) * time.Second
	between := time.Duration(byHand(t, "GOMBU_TEST_CUT", 5)) * time.Second
	for name, s := range hurtable(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			soak(t, s.URL(), length, between)
		})
	}
}

func soak(t *testing.T, url string, length, between time.Duration) {
	b, p := through(t, broker{url: url})
	c := crowded(t, b.url, nil, gombu.Queue{Name: name(t, "1")}, gombu.Queue{Name: name(t, "2")})
	began := time.Now()
	var all []sample
	for n := 1; time.Since(began) < length; n++ {
		wait(t, between/2)
		f := c.led.Mark("cut " + strconv.Itoa(n))
		p.Cut()
		f.Over()
		wait(t, between/2) // halfway to the next all is well again
		all = append(all, sampled(t, began))
	}
	c.stop()
	c.wg.Wait()
	<-c.led.NothingDue()
	r := c.led.Report()
	worst := time.Duration(0)
	for _, f := range r.Faults {
		worst = max(worst, f.Resume)
	}
	first, last := all[len(all)/4], all[len(all)-1]
	t.Logf("%d cuts in %v: %d sent, %d confirmed, %d lost, %d duplicated, resumed within %v", len(r.Faults), time.Since(began).Round(time.Second), r.Sent, r.Confirmed, r.Lost, r.Duplicated, worst)
	t.Logf("after a quarter: heap %.0f KiB, RSS %.0f KiB, %v", first.heap, first.rss, first.held)
	t.Logf("at the end:      heap %.0f KiB, RSS %.0f KiB, %v", last.heap, last.rss, last.held)
	if r.Lost != 0 || r.Ghosts != 0 || r.Strangers != 0 || len(r.Silent) != 0 || worst > resumed {
		t.Errorf("lost %v, %d ghosts, %d strangers, silent %v, resumed within %v", r.LostIDs, r.Ghosts, r.Strangers, r.Silent, worst)
	}
	// The first quarter is for warming up. What a sample catches varies.
	steady := all[len(all)/4:]
	cuts := 60 / between.Seconds() // a minute
	for what, g := range map[string]struct {
		of   func(sample) float64
		most float64 // a minute
	}{
		"heap KiB":    {func(s sample) float64 { return s.heap }, 200 + 30*cuts},
		"goroutines":  {func(s sample) float64 { return float64(s.held.goroutines) }, 0.5 * cuts},
		"descriptors": {func(s sample) float64 { return float64(s.held.sockets + s.held.files) }, 0.25 * cuts},
	} {
		grows := slope(steady, g.of)
		t.Logf("%s a minute: %+.1f", what, grows)
		if grows > g.most && len(steady) > 3 {
			t.Errorf("%s grow by %.1f a minute, at most %.1f may be", what, grows, g.most)
		}
	}
}

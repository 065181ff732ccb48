package contender

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// Figures are what was measured between Start and Stop.
type Figures struct {
	Messages int           `json:"messages"`
	Elapsed  time.Duration `json:"elapsed"`
	Client   time.Duration `json:"client"`         // CPU, user and system, of this process
	Server   time.Duration `json:"server"`         // CPU of the broker
	Foreign  time.Duration `json:"foreign"`        // CPU of everything else on the machine
	Allocs   uint64        `json:"allocs"`         // of Go; 0: not known
	Peak     int64         `json:"peak"`           // bytes: the process's largest resident set so far
	Live     int64         `json:"live,omitempty"` // of Idle: bytes of heap and stacks after a collection
	P50      time.Duration `json:"p50,omitempty"`
	P99      time.Duration `json:"p99,omitempty"`
}

// A Meter counts and times one job. Its methods may be called by several
// goroutines; Start and Stop once each.
type Meter struct {
	job      Job
	count    atomic.Int64
	begin    reading
	figures  Figures
	mu       sync.Mutex
	latency  []time.Duration
	finished chan struct{} // closed when there is no more to do
	once     sync.Once
}

// NewMeter returns the meter of a job.
func NewMeter(job Job) *Meter {
	return &Meter{job: job, finished: make(chan struct{})}
}

// A reading is the state of all counters.
type reading struct {
	at                      time.Time
	client, server, machine time.Duration
	mallocs                 uint64
	count                   int64
}

// Start begins: everything is connected. What was added before is not measured.
func (m *Meter) Start() error {
	r, err := m.read()
	if err != nil {
		return err
	}
	m.begin = r
	if m.job.For > 0 {
		time.AfterFunc(m.job.For, m.End)
	}
	return nil
}

// Add counts n messages that are done: accepted or confirmed for Publish,
// acknowledged for the rest.
func (m *Meter) Add(n int) {
	if total := m.count.Add(int64(n)); m.job.Messages > 0 && total >= int64(m.job.Messages) {
		m.End()
	}
}

// Took records a message's latency.
func (m *Meter) Took(d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.latency = append(m.latency, d)
}

// End makes it over, whatever was to be done.
func (m *Meter) End() { m.once.Do(func() { close(m.finished) }) }

// Finished is closed when the time is over or all messages are done.
func (m *Meter) Finished() <-chan struct{} { return m.finished }

// Over says whether Finished is closed, for loops.
func (m *Meter) Over() bool {
	select {
	case <-m.finished:
		return true
	default:
		return false
	}
}

// Stop ends the measured time.
func (m *Meter) Stop() error {
	r, err := m.read()
	if err != nil {
		return err
	}
	b := m.begin
	f := Figures{
		Messages: int(r.count - b.count), Elapsed: r.at.Sub(b.at), Client: r.client - b.client, Server: r.server - b.server,
		Allocs: r.mallocs - b.mallocs,
	}
	f.Foreign = max(0, r.machine-b.machine-f.Client-f.Server)
	if f.Peak, err = peak(); err != nil {
		return err
	}
	if m.job.Work == Idle {
		f.Live = live()
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	slices.Sort(m.latency)
	if n := len(m.latency); n > 0 {
		f.P50, f.P99 = m.latency[n/2], m.latency[n*99/100]
	}
	m.figures = f
	return nil
}

// Figures returns what Stop found.
func (m *Meter) Figures() Figures { return m.figures }

// Set is for a contender that another program runs: the figures are its own.
func (m *Meter) Set(f Figures) { m.figures = f }

// tick is the unit of CPU times under /proc (USER_HZ, which is 100 for every
// program on Linux).
const tick = 10 * time.Millisecond

func (m *Meter) read() (reading, error) {
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	var use syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &use); err != nil {
		return reading{}, err
	}
	r := reading{at: time.Now(), mallocs: mem.Mallocs, count: m.count.Load(), client: time.Duration(use.Utime.Nano() + use.Stime.Nano())}
	var err error
	if r.machine, err = machine(); err != nil {
		return r, err
	}
	for _, pid := range m.job.ServerPIDs {
		used, err := process(pid)
		if err != nil {
			return r, err
		}
		r.server += used
	}
	return r, nil
}

// machine is the CPU time that all programs together have used.
func machine() (time.Duration, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, err
	}
	line, _, _ := strings.Cut(string(b), "\n")
	f := strings.Fields(line) // cpu user nice system idle iowait irq softirq steal
	var sum time.Duration
	for i, text := range f[1:min(8, len(f))] {
		if i == 3 || i == 4 {
			continue
		}
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/stat: %w", err)
		}
		sum += time.Duration(n) * tick
	}
	return sum, nil
}

// process is the CPU time of the threads of a process, to the nanosecond: what
// stat says of the whole is in ticks, and some windows are short.
func process(pid int) (time.Duration, error) {
	names, err := filepath.Glob("/proc/" + strconv.Itoa(pid) + "/task/*/schedstat")
	if err == nil && len(names) == 0 {
		err = fmt.Errorf("process %d has no schedstat", pid)
	}
	var sum time.Duration
	for _, name := range names {
		b, gone := os.ReadFile(name)
		if gone != nil {
			continue // a thread that has ended
		}
		ran, _, _ := strings.Cut(string(b), " ")
		n, err := strconv.ParseInt(ran, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		sum += time.Duration(n)
	}
	return sum, err
}

// live is the memory of what is in use.
func live() int64 {
	runtime.GC()
	runtime.GC() // what the first one left to finalizers and pools
	var mem runtime.MemStats
	runtime.ReadMemStats(&mem)
	return int64(mem.HeapAlloc + mem.StackInuse)
}

// peak is the process's largest resident set, in bytes.
func peak() (int64, error) {
	b, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(b), "VmHWM:")
	f := strings.Fields(rest)
	if len(f) == 0 {
		return 0, fmt.Errorf("/proc/self/status has no VmHWM")
	}
	n, err := strconv.ParseInt(f[0], 10, 64)
	return n << 10, err
}

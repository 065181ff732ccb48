package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"sync/atomic"
	"time"

	"github.com/gombu/gombu/bench/contender"
	"github.com/gombu/gombu/bench/ours"
)

// An order is what the runner tells a process of a contender.
type order struct {
	Suite      string        `json:"suite"`
	Contender  string        `json:"contender"`
	Fill       bool          `json:"fill,omitempty"` // do what Run needs, no more
	Job        contender.Job `json:"job"`
	CPUProfile string        `json:"cpu_profile,omitempty"`
	MemProfile string        `json:"mem_profile,omitempty"`
}

// child does one job in this process, and prints the figures.
func child(ctx context.Context, suites []contender.Suite, in io.Reader, out io.Writer) error {
	var o order
	if err := json.NewDecoder(in).Decode(&o); err != nil {
		return fmt.Errorf("order: %w", err)
	}
	c, err := find(suites, o.Suite, o.Contender)
	if err != nil {
		return err
	}
	if o.Fill || o.Job.URL == "" && o.Job.Work == contender.Consume && c.Fill != nil {
		fill := c.Fill
		if fill == nil {
			fill = ours.Fill
		}
		if err := fill(ctx, o.Job); err != nil || o.Fill {
			return err
		}
	}
	m := contender.NewMeter(o.Job)
	if err := profiled(&o, func() error { return c.Run(ctx, o.Job, m) }); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(m.Figures())
}

func find(suites []contender.Suite, suite, name string) (*contender.Contender, error) {
	for _, s := range suites {
		for i := range s.Contenders {
			if s.Name == suite && s.Contenders[i].Name == name {
				return &s.Contenders[i], nil
			}
		}
	}
	return nil, fmt.Errorf("no contender %s in a suite %s", name, suite)
}

// profiled runs f with the profiles that the order asks for.
func profiled(o *order, f func() error) error {
	if o.MemProfile != "" {
		runtime.MemProfileRate = 4096
	}
	if o.CPUProfile != "" {
		file, err := os.Create(o.CPUProfile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer func() { pprof.StopCPUProfile(); _ = file.Close() }()
	}
	err := f()
	if o.MemProfile == "" || err != nil {
		return err
	}
	file, err := os.Create(o.MemProfile)
	if err != nil {
		return err
	}
	return errors.Join(pprof.Lookup("allocs").WriteTo(file, 0), file.Close())
}

// A process measures a job in a process of its own.
type process struct {
	brokers                brokers
	cpuProfile, memProfile string // folders
	small                  bool
	count                  atomic.Int64
	rates                  map[string]float64 // of Consume, by suite and contender
}

// measure does one job on the broker of the suite, on queues that are new and
// gone afterwards.
func (p *process) measure(ctx context.Context, s *contender.Suite, c *contender.Contender, job contender.Job) (contender.Figures, error) {
	if job.Work == contender.Consume {
		n, err := p.backlog(ctx, s, c, job)
		if err != nil {
			return contender.Figures{}, err
		}
		job.Messages = n
	}
	f, err := p.measured(ctx, s, c, job, true)
	if err == nil && job.Work == contender.Consume && !p.small {
		p.rates[s.Name+"/"+c.Name] = figure(contender.Rate, f)
	}
	return f, err
}

// A backlog is worth about the job's time at the rate that the contender had
// before, in a run that is not measured if need be, within what a broker keeps
// in memory.
const (
	warmBytes    = 16 << 20
	warmMessages = 3000
	backlogBytes = 384 << 20
)

func (p *process) backlog(ctx context.Context, s *contender.Suite, c *contender.Contender, job contender.Job) (int, error) {
	job.Messages = max(min(warmMessages, warmBytes/max(job.Size, 1)), 1)
	if p.small {
		return job.Messages / 3, nil
	}
	key := s.Name + "/" + c.Name
	if _, known := p.rates[key]; !known {
		f, err := p.measured(ctx, s, c, job, false)
		if err != nil {
			return 0, fmt.Errorf("warm-up: %w", err)
		}
		p.rates[key] = figure(contender.Rate, f)
	}
	n := int(p.rates[key] * job.For.Seconds())
	return max(job.Messages/3, min(n, backlogBytes/max(job.Size, 1))), nil
}

func (p *process) measured(ctx context.Context, s *contender.Suite, c *contender.Contender, job contender.Job, profile bool) (contender.Figures, error) {
	var f contender.Figures
	broker, err := p.brokers.get(ctx, s.Broker)
	if err != nil {
		return f, err
	}
	count := p.count.Add(1)
	job.URL, job.ServerPIDs = broker.url, broker.pids
	for i := range max(s.QueueCount, 1) {
		job.Queues = append(job.Queues, fmt.Sprintf("bench-%d-%d", count, i))
	}
	o := order{Suite: s.Name, Contender: c.Name, Job: job}
	if profile && p.cpuProfile != "" {
		o.CPUProfile = filepath.Join(p.cpuProfile, s.Name+"."+c.Name+".cpu.pprof")
	}
	if profile && p.memProfile != "" {
		o.MemProfile = filepath.Join(p.memProfile, s.Name+"."+c.Name+".mem.pprof")
	}
	err = p.ordered(ctx, broker, o, &f)
	return f, errors.Join(err, broker.clean(ctx, job.Queues))
}

func (p *process) ordered(ctx context.Context, broker *broker, o order, f *contender.Figures) error {
	if o.Job.Work == contender.Consume && broker.url != "" {
		fill := o
		fill.Fill = true
		if err := spawn(ctx, fill, nil); err != nil {
			return fmt.Errorf("fill: %w", err)
		}
	}
	if err := spawn(ctx, o, f); err != nil {
		return err
	}
	if o.Job.Work == contender.Publish {
		return broker.holds(ctx, o.Job.Queues, f.Messages)
	}
	return nil
}

// spawn runs an order in a process of its own and reads the figures, if any.
func spawn(ctx context.Context, o order, f *contender.Figures) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	in, err := json.Marshal(o)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*o.Job.For+2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, self, "-child")
	var out, say bytes.Buffer
	c.Stdin, c.Stdout, c.Stderr = bytes.NewReader(in), &out, &say
	// Asked to end it ends what it started itself.
	c.Cancel = func() error { return c.Process.Signal(os.Interrupt) }
	c.WaitDelay = 5 * time.Second
	if err := c.Run(); err != nil {
		return fmt.Errorf("%w: %s", err, lastLines(say.String()))
	}
	if f == nil {
		return nil
	}
	if err := json.Unmarshal(out.Bytes(), f); err != nil {
		return fmt.Errorf("figures: %w: %s", err, lastLines(out.String()+say.String()))
	}
	return nil
}

// lastLines are the last of what a process said.
func lastLines(s string) string {
	lines := strings.Split(strings.TrimSpace(s), "\n")
	return strings.Join(lines[max(0, len(lines)-6):], " | ")
}

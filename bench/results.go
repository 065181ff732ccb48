package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// A result is one run, a line of the suite's file.
type result struct {
	Suite     string            `json:"suite"`
	Contender string            `json:"contender"`
	Round     int               `json:"round"`
	Job       contender.Job     `json:"job"`
	Revision  string            `json:"revision"` // of the tree; "-dirty" behind it: changed since
	At        time.Time         `json:"at"`
	Tries     int               `json:"tries"`
	Noisy     bool              `json:"noisy,omitempty"`
	Figures   contender.Figures `json:"figures"`
}

// same says whether two results are of the same run of the same work.
func (r *result) same(o *result) bool {
	return r.Suite == o.Suite && r.Contender == o.Contender && r.Round == o.Round && sameJob(r.Job, o.Job)
}

// sameJob compares what the suite says of a job; the rest is the runner's.
func sameJob(a, b contender.Job) bool {
	x, err := json.Marshal(a)
	y, err2 := json.Marshal(b)
	return err == nil && err2 == nil && bytes.Equal(x, y)
}

// A resultFile is what is known of a suite, with new lines at its end.
type resultFile struct {
	known []result
	f     *os.File
}

func resultsName(dir, suite string) string { return filepath.Join(dir, suite+".jsonl") }

// readResults returns the results of a suite, oldest first; none is no error,
// and neither is a line that an interrupted run left incomplete.
func readResults(dir, suite string) ([]result, error) {
	b, err := os.ReadFile(resultsName(dir, suite))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var all []result
	for line := range bytes.Lines(b) {
		var r result
		if err := json.Unmarshal(line, &r); err == nil {
			all = append(all, r)
		}
	}
	return all, nil
}

func openResults(dir, suite string) (*resultFile, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	known, err := readResults(dir, suite)
	if err != nil {
		return nil, err
	}
	f, err := os.OpenFile(resultsName(dir, suite), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	return &resultFile{known: known, f: f}, nil
}

func (r *resultFile) close() { _ = r.f.Close() } // each line was written by itself

// has says whether that run need not be run again. Of a changed tree nobody
// knows what was measured.
func (r *resultFile) has(want *result, keep bool) bool {
	for i := range r.known {
		if k := &r.known[i]; k.same(want) && (keep || k.Revision == want.Revision && !strings.HasSuffix(k.Revision, dirty)) {
			return true
		}
	}
	return false
}

func (r *resultFile) add(res *result) error {
	line, err := json.Marshal(res)
	if err != nil {
		return fmt.Errorf("result: %w", err)
	}
	_, err = r.f.Write(append(line, '\n'))
	return err
}

// current are the results that a report is made of: of the job as it is today
// but for its length, of each run the last; without keep, of one revision, the
// last that was run.
func current(all []result, s *contender.Suite, keep bool) []result {
	var out []result
	revision := ""
	for _, r := range slices.Backward(all) {
		want := s.Job
		want.For = r.Job.For
		if !sameJob(r.Job, want) {
			continue
		}
		if revision == "" {
			revision = r.Revision
		}
		if !keep && r.Revision != revision {
			continue
		}
		if !slices.ContainsFunc(out, func(later result) bool { return later.Contender == r.Contender && later.Round == r.Round }) {
			out = append(out, r)
		}
	}
	return out
}

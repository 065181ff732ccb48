package main

import (
	"cmp"
	"slices"
	"strconv"

	"github.com/gombu/gombu/bench/contender"
)

// figure is one figure of a run, in the units of contender.Target. Of a run
// without messages CPU time and allocations are those of all of it.
func figure(name string, f contender.Figures) float64 {
	per, hundred := float64(f.Messages), 1e5
	if f.Messages == 0 {
		per, hundred = 1, 1
	}
	switch name {
	case contender.Rate:
		if f.Elapsed <= 0 {
			return 0
		}
		return float64(f.Messages) / f.Elapsed.Seconds()
	case contender.Client:
		return f.Client.Seconds() / per * hundred
	case contender.Server:
		return f.Server.Seconds() / per * hundred
	case contender.Allocs:
		return float64(f.Allocs) / per
	case contender.P50:
		return float64(f.P50)
	case contender.P99:
		return float64(f.P99)
	case contender.Peak:
		return float64(f.Peak)
	case contender.Live:
		return float64(f.Live)
	default:
		return float64(f.Elapsed)
	}
}

// A spread is a median with the extremes. The zero value is of nothing.
type spread struct {
	n                int
	median, min, max float64
}

func spreadOf(v []float64) spread {
	if len(v) == 0 {
		return spread{}
	}
	v = slices.Sorted(slices.Values(v))
	s := spread{n: len(v), median: v[len(v)/2], min: v[0], max: v[len(v)-1]}
	if len(v)%2 == 0 {
		s.median = (v[len(v)/2-1] + v[len(v)/2]) / 2
	}
	return s
}

// A table is the figures of a suite, by contender and round.
type table map[string]map[int]contender.Figures

func tableOf(results []result) table {
	t := table{}
	for _, r := range results {
		if t[r.Contender] == nil {
			t[r.Contender] = map[int]contender.Figures{}
		}
		t[r.Contender][r.Round] = r.Figures
	}
	return t
}

// of is a figure of a contender over its rounds.
func (t table) of(who, name string) spread {
	var v []float64
	for _, f := range t[who] {
		v = append(v, figure(name, f))
	}
	return spreadOf(v)
}

// against is a figure of a contender set against another one's of the same
// round, over the rounds that both have.
func (t table) against(who, other, name string, f func(a, b float64) float64) spread {
	var v []float64
	for round, mine := range t[who] {
		if theirs, ok := t[other][round]; ok {
			v = append(v, f(figure(name, mine), figure(name, theirs)))
		}
	}
	return spreadOf(v)
}

func quotient(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func difference(a, b float64) float64 { return a - b }

// judge measures a target: what came out, over the rounds, and whether its
// median is within the bounds.
func (t table) judge(g *contender.Target) (got spread, met bool) {
	who := cmp.Or(g.Who, "gombu")
	switch {
	case g.Of != "":
		got = t.against(who, g.Of, g.Figure, quotient)
	case g.Above != "":
		got = t.against(who, g.Above, g.Figure, difference)
	default:
		got = t.of(who, g.Figure)
	}
	met = got.n > 0 && (g.Min == 0 || got.median >= g.Min) && (g.Max == 0 || got.median <= g.Max)
	return got, met
}

// thousands writes a whole number with commas.
func thousands(v float64) string {
	s := strconv.FormatInt(int64(v+0.5), 10)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

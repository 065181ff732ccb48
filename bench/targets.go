package main

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"github.com/gombu/gombu/bench/contender"
)

// writeTargets writes the table of what must be true, and is or is not.
func writeTargets(b *strings.Builder, suites []suiteResults) {
	fmt.Fprint(b, "## Targets\n\nMedians of the rounds; a ratio is one of the same round.\n\n| suite | target | measured (min–max) | |\n|---|---|---|---|\n")
	met, missed, open := 0, 0, 0
	for i := range suites {
		s := &suites[i]
		for j := range s.suite.Targets {
			g := &s.suite.Targets[j]
			got, ok := s.table.judge(g)
			verdict := "met"
			switch {
			case got.n == 0:
				verdict = "not measured"
				open++
			case ok:
				met++
			default:
				verdict = "**missed**"
				missed++
			}
			fmt.Fprintf(b, "| %s | %s | %s | %s |\n", s.suite.Name, targetText(g), measured(g, got), verdict)
		}
	}
	fmt.Fprintf(b, "\n%d met, %d missed, %d not measured.\n", met, missed, open)
}

// targetText is a target in words: "gombu: rate ≥ 1.25 × raw".
func targetText(g *contender.Target) string {
	name := map[string]string{
		contender.Rate: "rate", contender.Client: "client CPU", contender.Server: "server CPU", contender.Allocs: "allocs/msg",
		contender.P50: "p50", contender.P99: "p99", contender.Peak: "peak memory", contender.Live: "live memory", contender.Elapsed: "time",
	}[g.Figure]
	var bounds []string
	for _, bound := range []struct {
		sign string
		v    float64
	}{{"≥", g.Min}, {"≤", g.Max}} {
		if bound.v == 0 {
			continue
		}
		switch {
		case g.Of != "":
			bounds = append(bounds, fmt.Sprintf("%s %s × %s", bound.sign, number(bound.v), g.Of))
		case g.Above != "":
			bounds = append(bounds, fmt.Sprintf("%s %s + %s", bound.sign, g.Above, unit(g.Figure, bound.v)))
		default:
			bounds = append(bounds, fmt.Sprintf("%s %s", bound.sign, unit(g.Figure, bound.v)))
		}
	}
	return fmt.Sprintf("%s: %s %s", cmp.Or(g.Who, "gombu"), name, strings.Join(bounds, ", "))
}

func number(v float64) string {
	return strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.2f", v), "0"), ".")
}

// measured is what came out, as the target puts it.
func measured(g *contender.Target, got spread) string {
	if got.n == 0 {
		return "–"
	}
	text := func(v float64) string {
		switch {
		case g.Of != "":
			return digits(v)
		case g.Above != "" && v >= 0:
			return "+" + unit(g.Figure, v)
		default:
			return unit(g.Figure, v)
		}
	}
	return fmt.Sprintf("%s (%s–%s)", text(got.median), text(got.min), text(got.max))
}

// unit writes a figure with its unit.
func unit(name string, v float64) string {
	switch name {
	case contender.Rate:
		return thousands(v) + "/s"
	case contender.Client, contender.Server:
		return fmt.Sprintf("%.2f s/100k", v)
	case contender.P50, contender.P99, contender.Elapsed:
		return time.Duration(v).Round(time.Microsecond).String()
	case contender.Peak, contender.Live:
		return fmt.Sprintf("%.1f MB", v/(1<<20))
	default:
		return fmt.Sprintf("%.2f", v)
	}
}

// Package near finds the words that somebody may have meant.
package near

import (
	"fmt"
	"slices"
	"strings"
)

// Hint is `; did you mean "x" or "y"?` for the words near to w, else empty.
func Hint(w string, words []string) string {
	var out []string
	for _, c := range Words(w, words) {
		out = append(out, fmt.Sprintf("%q", c))
	}
	if len(out) == 0 {
		return ""
	}
	return "; did you mean " + strings.Join(out, " or ") + "?"
}

// Words returns at most three words near to w, nearest first.
func Words(w string, words []string) []string {
	type scored struct {
		word string
		d    int
	}
	var found []scored
	lw := strings.ToLower(w)
	for _, c := range words {
		lc := strings.ToLower(c)
		d := distance(lw, lc)
		if len(lw) >= 3 && (strings.HasPrefix(lc, lw) || strings.HasPrefix(lw, lc) && len(lc) >= 3) {
			d = min(d, 2)
		}
		if d <= max(1, len(c)/2) && d <= 4 {
			found = append(found, scored{c, d})
		}
	}
	slices.SortStableFunc(found, func(a, b scored) int { return a.d - b.d })
	var out []string
	for _, f := range found[:min(3, len(found))] {
		if !slices.Contains(out, f.word) {
			out = append(out, f.word)
		}
	}
	return out
}

// distance is Levenshtein's, in bytes.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diag
			if a[i] != b[j] {
				cost++
			}
			diag = row[j+1]
			row[j+1] = min(cost, row[j]+1, diag+1)
		}
	}
	return row[len(b)]
}

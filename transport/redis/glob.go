package redis

import "strings"

// globMatch is Redis's pattern match (PSUBSCRIBE, SCAN): * any text, ? any
// byte, [abc], [^a-c] one of them or none of them, \ takes the next as it is.
func globMatch(pattern, text string) bool {
	star, mark := -1, 0 // of the last *: where it was, and up to where it reached
	p, t := 0, 0
	for t < len(text) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark, p = p, t, p+1
			continue
		}
		if p < len(pattern) {
			if next, ok := globByte(pattern, p, text[t]); ok {
				p, t = next, t+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		mark++
		p, t = star+1, mark
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// globByte matches one byte against the pattern's element at p and returns
// where the next begins.
func globByte(pattern string, p int, c byte) (next int, ok bool) {
	switch pattern[p] {
	case '?':
		return p + 1, true
	case '[':
		return globClass(pattern, p+1, c)
	case '\\':
		if p+1 < len(pattern) {
			p++
		}
	}
	return p + 1, pattern[p] == c
}

func globClass(pattern string, p int, c byte) (next int, ok bool) {
	not := p < len(pattern) && pattern[p] == '^'
	if not {
		p++
	}
	hit := false
	for ; p < len(pattern) && pattern[p] != ']'; p++ {
		switch {
		case pattern[p] == '\\' && p+1 < len(pattern):
			p++
			hit = hit || pattern[p] == c
		case p+2 < len(pattern) && pattern[p+1] == '-':
			lo, hi := pattern[p], pattern[p+2]
			hit = hit || min(lo, hi) <= c && c <= max(lo, hi)
			p += 2
		default:
			hit = hit || pattern[p] == c
		}
	}
	return min(p+1, len(pattern)), hit != not
}

// globQuote makes a pattern that matches text alone.
func globQuote(text string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`, `]`, `\]`, `^`, `\^`).Replace(text)
}

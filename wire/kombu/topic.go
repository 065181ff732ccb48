package kombu

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// TopicPattern is the regular expression that Kombu stores beside a topic
// binding. It is written so that Python peers can route by it and so that both
// sides' set members are equal; it is not AMQP's rule, and Go never matches
// with it. Source: virtual.md section 2.
func TopicPattern(key string) string {
	var b strings.Builder
	b.Grow(len(key) + 16)
	b.WriteByte('^')
	for i, word := range strings.Split(key, ".") {
		if i > 0 {
			b.WriteString(`\.`)
		}
		switch word {
		case "*":
			b.WriteString(`.*?[^\.]`)
		case "#":
			b.WriteString(`.*?`)
		default:
			escapeWord(&b, word)
		}
	}
	b.WriteByte('$')
	return b.String()
}

// escapeWord puts a backslash before all that is no letter, number, # or *.
func escapeWord(b *strings.Builder, word string) {
	for i := 0; i < len(word); {
		r, size := utf8.DecodeRuneInString(word[i:])
		switch {
		case r == 0:
			b.WriteString(`\000`)
			i += size
			continue
		case r == '#' || r == '*' || unicode.IsLetter(r) || unicode.IsNumber(r):
		default:
			b.WriteByte('\\')
		}
		b.WriteString(word[i : i+size])
		i += size
	}
}

// BindingMember is the member of Kombu's binding set: key, pattern (empty but
// for topic bindings) and queue. Source: redis.md section 1.
func BindingMember(key, pattern, queue, sep string) string {
	return key + sep + pattern + sep + queue
}

// ParseBindingMember takes a member apart; ok is false when it has not exactly
// three parts.
func ParseBindingMember(member, sep string) (key, pattern, queue string, ok bool) {
	key, rest, ok1 := strings.Cut(member, sep)
	pattern, queue, ok2 := strings.Cut(rest, sep)
	return key, pattern, queue, sep != "" && ok1 && ok2 && !strings.Contains(queue, sep)
}

package overlay

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Plain makes a foreign text safe to show anywhere: it is at most limit bytes
// long, an ellipsis at its end if it was cut, and control characters, direction
// overrides, other invisible ones and bytes that are no UTF-8 are written as
// escapes.
func Plain(s string, limit int) string {
	const dots = "…"
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		part := s[i : i+n]
		switch {
		case r == utf8.RuneError && n == 1:
			part = fmt.Sprintf(`\x%02x`, s[i])
		case r == ' ' || unicode.IsPrint(r):
		case r < 0x80:
			part = fmt.Sprintf(`\x%02x`, r)
		case r < 0x10000:
			part = fmt.Sprintf(`\u%04x`, r)
		default:
			part = fmt.Sprintf(`\U%08x`, r)
		}
		i += n
		room := limit - b.Len()
		if i < len(s) {
			room -= len(dots)
		}
		if len(part) > room {
			b.WriteString(dots)
			break
		}
		b.WriteString(part)
	}
	return b.String()
}

// PlainTime makes a foreign time (Unix ms) one that can be shown anywhere: what is
// past the year 9999 becomes its end.
func PlainTime(ms uint64) time.Time { return time.UnixMilli(int64(min(ms, MaxTime))).UTC() }

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
)

// teller prints a story: chapters, sentences, and what did not hold. Colours
// only where a person looks at a terminal.
type teller struct {
	w       io.Writer
	colours bool
	chapter int
	failed  []string
}

func newTeller(w io.Writer) *teller {
	f, ok := w.(*os.File)
	if !ok || os.Getenv("NO_COLOR") != "" {
		return &teller{w: w}
	}
	info, err := f.Stat()
	return &teller{w: w, colours: err == nil && info.Mode()&os.ModeCharDevice != 0}
}

const (
	bold  = "1"
	green = "32"
	red   = "31"
	dim   = "2"
)

func (t *teller) in(code, s string) string {
	if !t.colours {
		return s
	}
	return "\x1b[" + code + "m" + s + "\x1b[0m"
}

// title begins a chapter.
func (t *teller) title(format string, args ...any) {
	t.chapter++
	fmt.Fprintf(t.w, "\n%s\n", t.in(bold, fmt.Sprintf("%d. ", t.chapter)+fmt.Sprintf(format, args...)))
}

// say prints a sentence.
func (t *teller) say(format string, args ...any) {
	fmt.Fprintf(t.w, "   "+format+"\n", args...)
}

// aside prints what need not be read.
func (t *teller) aside(format string, args ...any) {
	fmt.Fprintf(t.w, "   %s\n", t.in(dim, fmt.Sprintf(format, args...)))
}

// check prints whether something held, and remembers it if it did not.
func (t *teller) check(ok bool, format string, args ...any) bool {
	text := fmt.Sprintf(format, args...)
	if ok {
		fmt.Fprintf(t.w, "   %s %s\n", t.in(green, "✓"), text)
		return true
	}
	fmt.Fprintf(t.w, "   %s %s\n", t.in(red, "✗"), text)
	t.failed = append(t.failed, text)
	return false
}

// list joins names as a sentence does.
func list(names []string) string {
	switch len(names) {
	case 0:
		return "nobody"
	case 1:
		return names[0]
	default:
		return strings.Join(names[:len(names)-1], ", ") + " and " + names[len(names)-1]
	}
}

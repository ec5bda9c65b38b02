package store

import (
	"fmt"
	"log/slog"
)

// logger passes Pebble's messages to slog. Pebble's info is about single files
// and of no use to an operator, so it is logged as debug.
type logger struct {
	log   *slog.Logger
	guard *guard
}

func (l logger) Infof(format string, args ...any) {
	l.log.Debug("pebble", "msg", fmt.Sprintf(format, args...))
}

func (l logger) Errorf(format string, args ...any) {
	l.log.Error("pebble", "err", fmt.Sprintf(format, args...))
}

// Fatalf is called by Pebble when it finds itself in a state it does not know
// (I/O errors never get that far, see guard) and must not return. While
// opening, the error is returned as well, so logging is enough.
func (l logger) Fatalf(format string, args ...any) {
	msg := fmt.Sprintf(format, args...)
	l.log.Error("pebble", "err", msg)
	if !l.guard.opened.Load() {
		return
	}
	l.guard.fail(fmt.Errorf("pebble: %s", msg))
	panic("store: pebble: " + msg)
}

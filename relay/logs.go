package relay

import (
	"context"
	"errors"
	"log/slog"
	"net"

	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/gologshim"
)

// RouteLibraryLogs sends what libp2p logs to handler instead of standard
// error, but for complaints that a listener is closed. It is process-wide and
// only works before the first host is made, so it is for a program's main, never
// for a library.
func RouteLibraryLogs(handler slog.Handler) { gologshim.SetDefaultHandler(libraryLogs{handler}) }

// libraryLogs leaves out what libp2p logs as an error now and then when a host
// ends: its listeners for WebSocket and for a port that two transports share
// close the socket under them twice, and accept once more in between. A listener
// that ends by itself is told of by another message, without an error in it.
type libraryLogs struct{ slog.Handler }

// Handle implements slog.Handler.
func (h libraryLogs) Handle(ctx context.Context, r slog.Record) error {
	closed := false
	r.Attrs(func(a slog.Attr) bool {
		if err, ok := a.Value.Any().(error); ok {
			// Some of libp2p's listeners have an error of their own with that text.
			closed = errors.Is(err, net.ErrClosed) || err.Error() == transport.ErrListenerClosed.Error()
		}
		return !closed
	})
	if closed {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

// WithAttrs implements slog.Handler.
func (h libraryLogs) WithAttrs(attrs []slog.Attr) slog.Handler {
	return libraryLogs{h.Handler.WithAttrs(attrs)}
}

// WithGroup implements slog.Handler.
func (h libraryLogs) WithGroup(name string) slog.Handler {
	return libraryLogs{h.Handler.WithGroup(name)}
}

package relay_test

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk/relay"
)

// What libp2p says because a host of ours has closed its listeners is not for
// operators; everything else is.
func TestLibraryLogs(t *testing.T) {
	var out bytes.Buffer
	log := slog.New(relay.LibraryLogs(slog.NewTextHandler(&out, nil))).With("logger", "swarm2")
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	log.Error("error when shutting down listener", "err", l.Close())
	log.WithGroup("g").Error("swarm listener accept error", "addr", "/ip4/127.0.0.1/tcp/0/ws", "err", errors.New("listener closed"))
	if out.Len() > 0 {
		t.Errorf("operators read: %s", &out)
	}
	log.Error("swarm listener unintentionally closed")
	log.Error("swarm listener accept error", "addr", "/ip4/127.0.0.1/tcp/0", "err", errors.New("too many open files"))
	if got := out.String(); strings.Count(got, "\n") != 2 || !strings.Contains(got, "unintentionally") || !strings.Contains(got, "too many open files") || !strings.Contains(got, "logger=swarm2") {
		t.Errorf("operators read: %s", got)
	}
}

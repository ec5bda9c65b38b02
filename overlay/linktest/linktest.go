// Package linktest is the conformance suite of overlay.Links, overlay.Packets
// and overlay.Peers. Every implementation runs it:
//
//	func TestContract(t *testing.T) {
//		linktest.Run(t, func(t *testing.T) linktest.Host { … })
//	}
package linktest

import (
	"context"
	"errors"
	"io"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
)

// Host is what the suite tests: the three contracts on one identity.
type Host interface {
	overlay.Links
	overlay.Packets
	overlay.Peers
	// Addrs is where the host accepts connections.
	Addrs() []multiaddr.Multiaddr
	// Shutdown ends it, waiting for its handlers.
	Shutdown() error
}

// NewHost makes a host of a fresh identity that accepts connections and can
// reach the others made in the same test. The suite shuts it down.
type NewHost func(t *testing.T) Host

// Case is one rule of the contracts.
type Case struct {
	Name string
	Test func(t *testing.T, newHost NewHost)
}

// Run runs every case as a subtest.
func Run(t *testing.T, newHost NewHost) {
	for _, c := range Cases() {
		t.Run(c.Name, func(t *testing.T) { c.Test(t, newHost) })
	}
}

// Cases are all rules, for implementations that wrap each in something, such
// as a synctest bubble.
func Cases() []Case {
	return append(append(append([]Case(nil), linkCases...), packetCases...), peerCases...)
}

const (
	proto   = overlay.Protocol("/linktest/1")
	unknown = overlay.Protocol("/linktest/unknown/1")
	patient = 2 * time.Minute // longer than anything here takes, on however slow a machine
)

// hosts makes n hosts and shuts them down at the end of the test.
func hosts(t *testing.T, newHost NewHost, n int) []Host {
	t.Helper()
	out := make([]Host, n)
	for i := range out {
		h := newHost(t)
		t.Cleanup(func() { _ = h.Shutdown() })
		out[i] = h
	}
	return out
}

// pair makes two hosts; the first has connected to the second.
func pair(t *testing.T, newHost NewHost, prepare func(b Host)) (a, b Host) {
	t.Helper()
	hs := hosts(t, newHost, 2)
	if prepare != nil {
		prepare(hs[1])
	}
	connect(t, hs[0], hs[1])
	return hs[0], hs[1]
}

func connect(t *testing.T, a, b Host) {
	t.Helper()
	if err := a.Connect(within(t), b.Self(), b.Addrs()); err != nil {
		t.Fatalf("connect: %v", err)
	}
	// The accepting side may learn of the connection a moment later.
	await(t, b, a.Self(), overlay.PeerConnected)
}

func open(t *testing.T, a Host, b peer.ID) overlay.Stream {
	t.Helper()
	s, err := a.Open(within(t), b, proto)
	if err != nil {
		t.Fatalf("open: %v", err)
	}
	limit(t, s)
	return s
}

// limit makes a stream of a stuck implementation fail instead of the test
// binary.
func limit(t *testing.T, s overlay.Stream) {
	t.Helper()
	end := time.Now().Add(patient)
	if err := errors.Join(s.SetReadDeadline(end), s.SetWriteDeadline(end)); err != nil {
		t.Errorf("set deadline: %v", err)
	}
}

func within(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	t.Cleanup(cancel)
	return ctx
}

// await waits until h reports want for p: events that are already history
// count through the connected peers that Watch begins with.
func await(t *testing.T, h Host, p peer.ID, want overlay.PeerChange) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patient)
	defer cancel()
	if want == overlay.PeerLost {
		t.Fatal("a loss before the watch began is not reported: use watch")
	}
	found := false
	h.Watch(ctx, func(e overlay.PeerEvent) {
		if e.Peer == p && e.What == want {
			found = true
			cancel()
		}
	})
	if !found {
		t.Fatalf("no %v event about %s", want, p)
	}
}

// watch collects the events about p.
func watch(t *testing.T, h Host, p peer.ID) <-chan overlay.PeerChange {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	events := make(chan overlay.PeerChange, 100)
	done := make(chan struct{})
	go func() {
		defer close(done)
		h.Watch(ctx, func(e overlay.PeerEvent) {
			if e.Peer == p {
				events <- e.What
			}
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return events
}

// next receives from c, or fails.
func next[T any](t *testing.T, c <-chan T, what string) T {
	t.Helper()
	timer := time.NewTimer(patient)
	defer timer.Stop()
	select {
	case v := <-c:
		return v
	case <-timer.C:
		t.Fatalf("nothing came: %s", what)
		panic("not reached")
	}
}

// echo returns what it reads, until the peer has ended its direction.
func echo(s overlay.Stream) {
	if _, err := io.Copy(s, s); err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

// drain ends a stream when its peer has.
func drain(s overlay.Stream) {
	_, _ = io.Copy(io.Discard, s)
	_ = s.Close()
}

func handle(fn func(overlay.Stream)) func(Host) {
	return func(h Host) { h.Handle(proto, fn) }
}

func wantErr(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("%s: %v, want %v", what, err, want)
	}
}

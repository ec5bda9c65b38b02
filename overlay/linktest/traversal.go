package linktest

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Traverser is a device's host: what the suite of overlay.Traversal tests.
type Traverser interface {
	Host
	overlay.Traversal
}

// TraversalRig makes the hosts of one test of overlay.Traversal, all in one
// world. The suite shuts them down.
type TraversalRig struct {
	// Pillar makes a host that everybody can reach and that carries circuits.
	Pillar func(t *testing.T) Host
	// Node makes a host that refuses strangers and can be punched through to.
	Node func(t *testing.T) Traverser
	// Reserve makes node, which is connected with pillar already, reachable
	// through it.
	Reserve func(t *testing.T, node Traverser, pillar Host)
}

// TraversalCase is one rule of overlay.Traversal.
type TraversalCase struct {
	Name string
	Test func(t *testing.T, rig TraversalRig)
}

// RunTraversal runs every case as a subtest.
func RunTraversal(t *testing.T, newRig func(t *testing.T) TraversalRig) {
	for _, c := range TraversalCases() {
		t.Run(c.Name, func(t *testing.T) { c.Test(t, newRig(t)) })
	}
}

// TraversalCases are all rules of overlay.Traversal.
func TraversalCases() []TraversalCase {
	return slices.Clone(traversalCases)
}

var traversalCases = []TraversalCase{
	{"a circuit carries streams at once", testCircuit},
	{"both sides open streams over a circuit", testCircuitBothWays},
	{"a circuit becomes a direct connection", testUpgrade},
	{"strangers are refused", testStrangers},
	{"an admission ends", testAdmissionEnds},
	{"a connection outlives its admission", testAdmissionLeavesAlone},
	{"nobody to go through", testNoVia},
	{"the next pillar is tried", testNextVia},
	{"connected already", testConnectedAlready},
	{"dialling is cancelled", testDialCancelled},
	{"addresses nearby are private ones", testNearPrivate},
	{"nearby is who is connected", testNearConnected},
}

// behind makes a pillar and n nodes that it has circuits to.
func behind(t *testing.T, rig TraversalRig, n int) (Host, []Traverser) {
	t.Helper()
	pillar := newPillar(t, rig)
	nodes := make([]Traverser, n)
	for i := range nodes {
		nodes[i] = newNode(t, rig)
		reserve(t, rig, nodes[i], pillar)
	}
	return pillar, nodes
}

func newPillar(t *testing.T, rig TraversalRig) Host {
	p := rig.Pillar(t)
	t.Cleanup(func() { _ = p.Shutdown() })
	return p
}

func newNode(t *testing.T, rig TraversalRig) Traverser {
	n := rig.Node(t)
	t.Cleanup(func() { _ = n.Shutdown() })
	return n
}

func reserve(t *testing.T, rig TraversalRig, node Traverser, pillar Host) {
	t.Helper()
	connect(t, node, pillar)
	rig.Reserve(t, node, pillar)
}

// through is the pillars as what DialThrough takes.
func through(pillars ...Host) []overlay.PillarAddr {
	var via []overlay.PillarAddr
	for _, p := range pillars {
		for _, a := range p.Addrs() {
			via = append(via, overlay.PillarAddr{Pillar: identity.PillarID(p.Self()), Addr: a})
		}
	}
	return via
}

func dialThrough(t *testing.T, a, b Traverser, pillar Host) {
	t.Helper()
	if err := a.DialThrough(within(t), b.Self(), through(pillar)); err != nil {
		t.Fatalf("dial through: %v", err)
	}
	await(t, b, a.Self(), overlay.PeerConnected)
}

func admit(b Traverser, a peer.ID) { b.Admit(a, time.Now().Add(time.Hour)) }

// say sends a word to an echo and reads it back.
func say(t *testing.T, s overlay.Stream) {
	t.Helper()
	word := []byte("through")
	if _, err := s.Write(word); err != nil {
		t.Fatalf("write: %v", err)
	}
	if _, err := io.ReadFull(s, word); err != nil || string(word) != "through" {
		t.Fatalf("read %q, %v", word, err)
	}
}

func testCircuit(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 1)
	b, a := nodes[0], newNode(t, rig) // a is connected with nobody
	b.Handle(proto, echo)
	admit(b, a.Self())
	dialThrough(t, a, b, pillar)
	s := open(t, a, b.Self())
	say(t, s)
	if s.Peer() != b.Self() {
		t.Errorf("the stream's peer is %s, want %s", s.Peer(), b.Self())
	}
	if info, ok := a.Info(b.Self()); !ok || info.Path == overlay.PathNone || info.Remote == nil {
		t.Errorf("info %+v, %v", info, ok)
	}
	_ = s.Close()
}

func testCircuitBothWays(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 2)
	a, b := nodes[0], nodes[1]
	a.Handle(proto, echo)
	b.Handle(proto, echo)
	admit(b, a.Self())
	dialThrough(t, a, b, pillar)
	for _, s := range []overlay.Stream{open(t, a, b.Self()), open(t, b, a.Self())} {
		say(t, s)
		_ = s.Close()
	}
}

func testUpgrade(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 2)
	a, b := nodes[0], nodes[1]
	b.Handle(proto, echo)
	admit(b, a.Self())
	here, there := watch(t, a, b.Self()), watch(t, b, a.Self())
	dialThrough(t, a, b, pillar)
	old := open(t, a, b.Self())
	say(t, old)
	circuit := isCircuit(old.Remote())
	for _, events := range []<-chan overlay.PeerChange{here, there} {
		for _, want := range []overlay.PeerChange{overlay.PeerConnected, overlay.PeerUpgraded} {
			if e := next(t, events, "the upgrade"); e != want {
				t.Fatalf("event %v, want %v", e, want)
			}
		}
	}
	for _, h := range []struct {
		from Traverser
		to   peer.ID
	}{{a, b.Self()}, {b, a.Self()}} {
		if info, ok := h.from.Info(h.to); !ok || info.Path != overlay.PathDirect || isCircuit(info.Remote) {
			t.Errorf("after the upgrade: %+v, %v", info, ok)
		}
	}
	s := open(t, a, b.Self())
	say(t, s)
	if isCircuit(s.Remote()) {
		t.Errorf("a stream opened after the upgrade runs over %s", s.Remote())
	}
	if circuit {
		// The circuit ends, and what runs over it; the connection does not.
		_, err := old.Read(make([]byte, 1))
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("a stream over the circuit: %v, want it ended with the circuit", err)
		}
	}
	say(t, s)
	for _, events := range []<-chan overlay.PeerChange{here, there} {
		select {
		case e := <-events:
			t.Errorf("event %v after the circuit's end", e)
		default:
		}
	}
	_ = s.Close()
}

func testStrangers(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 3)
	stranger, b, friend := nodes[0], nodes[1], nodes[2]
	b.Handle(proto, echo)
	admit(b, friend.Self())
	seen := watch(t, b, stranger.Self())
	wantErr(t, "a stranger dials", stranger.DialThrough(within(t), b.Self(), through(pillar)), overlay.ErrUnreachable)
	if info, ok := stranger.Info(b.Self()); ok {
		t.Errorf("the stranger is connected: %+v", info)
	}
	dialThrough(t, friend, b, pillar)
	select {
	case e := <-seen:
		t.Errorf("event %v about the stranger", e)
	default:
	}
}

func testAdmissionEnds(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 2)
	a, b := nodes[0], nodes[1]
	admit(b, a.Self())
	b.Admit(a.Self(), time.Now().Add(-time.Second))
	wantErr(t, "dial after the admission", a.DialThrough(within(t), b.Self(), through(pillar)), overlay.ErrUnreachable)
	admit(b, a.Self())
	dialThrough(t, a, b, pillar)
}

func testAdmissionLeavesAlone(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 2)
	a, b := nodes[0], nodes[1]
	b.Handle(proto, echo)
	admit(b, a.Self())
	dialThrough(t, a, b, pillar)
	b.Admit(a.Self(), time.Time{})
	s := open(t, a, b.Self())
	say(t, s)
	_ = s.Close()
}

func testNoVia(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 1)
	a, b := nodes[0], newNode(t, rig) // b is nowhere
	admit(b, a.Self())
	wantErr(t, "dial through nobody", a.DialThrough(within(t), b.Self(), nil), overlay.ErrUnreachable)
	wantErr(t, "dial who is not there", a.DialThrough(within(t), b.Self(), through(pillar)), overlay.ErrUnreachable)
	wantErr(t, "dial oneself", a.DialThrough(within(t), a.Self(), through(pillar)), overlay.ErrUnreachable)
}

func testNextVia(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 2)
	empty := newPillar(t, rig)
	a, b := nodes[0], nodes[1]
	b.Handle(proto, echo)
	admit(b, a.Self())
	if err := a.DialThrough(within(t), b.Self(), through(empty, pillar)); err != nil {
		t.Fatalf("the second of two pillars has a circuit: %v", err)
	}
	s := open(t, a, b.Self())
	say(t, s)
	_ = s.Close()
}

func testConnectedAlready(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 2)
	a, b := nodes[0], nodes[1]
	admit(b, a.Self())
	dialThrough(t, a, b, pillar)
	if err := a.DialThrough(within(t), b.Self(), nil); err != nil {
		t.Errorf("a connection is enough: %v", err)
	}
	if err := b.DialThrough(within(t), a.Self(), nil); err != nil {
		t.Errorf("the other side's connection is enough: %v", err)
	}
}

func testDialCancelled(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 2)
	a, b := nodes[0], nodes[1]
	admit(b, a.Self())
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if err := a.DialThrough(ctx, b.Self(), through(pillar)); err == nil {
		t.Error("dialled with a cancelled context")
	}
}

func testNearPrivate(t *testing.T, rig TraversalRig) {
	pillar, nodes := behind(t, rig, 2)
	a, b := nodes[0], nodes[1]
	admit(b, a.Self())
	dialThrough(t, a, b, pillar)
	many := make([]multiaddr.Multiaddr, overlay.MaxNear+1)
	for i := range many {
		many[i] = multiaddr.StringCast("/ip4/192.168.77.1/tcp/9")
	}
	for what, addrs := range map[string][]multiaddr.Multiaddr{
		"public, loopback, multicast, link-local, unspecified, a name": {
			multiaddr.StringCast("/ip4/198.18.0.9/tcp/9"), multiaddr.StringCast("/ip4/127.0.0.1/tcp/9"),
			multiaddr.StringCast("/ip4/224.0.0.1/udp/9/quic-v1"), multiaddr.StringCast("/ip4/169.254.1.1/tcp/9"),
			multiaddr.StringCast("/ip4/0.0.0.0/tcp/9"), multiaddr.StringCast("/dns4/near.invalid/tcp/9"),
		},
		"too many": many,
		"none":     nil,
	} {
		err := a.DialNear(within(t), b.Self(), addrs)
		if info, _ := a.Info(b.Self()); err == nil && info.Path != overlay.PathDirect {
			t.Errorf("%s: dialled, and said to be direct over %s", what, info.Remote)
		}
	}
}

func testNearConnected(t *testing.T, rig TraversalRig) {
	_, nodes := behind(t, rig, 2)
	a, b := nodes[0], nodes[1]
	admit(b, a.Self())
	addrs := b.Vicinity().Near
	if len(addrs) > overlay.MaxNear {
		t.Errorf("%d addresses nearby, at most %d", len(addrs), overlay.MaxNear)
	}
	if err := a.DialNear(within(t), b.Self(), addrs); err == nil {
		t.Error("dialled nearby who is not connected")
	}
	if _, ok := a.Info(b.Self()); ok {
		t.Error("connected with who is not connected")
	}
}

func isCircuit(a multiaddr.Multiaddr) bool {
	if a == nil {
		return false
	}
	_, err := a.ValueForProtocol(multiaddr.P_CIRCUIT)
	return err == nil
}

package obelisk_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/relay"
)

// A network is pillars and nodes in this process: real keys, disks and sockets
// on loopback.
type network struct {
	t       *testing.T
	ctx     context.Context
	key     string // file of the network key
	closed  bool   // pillars to come take no new accounts
	perIP   int    // of pillars to come
	pillars []*obelisk.Pillar
	nodes   []*obelisk.Node
}

func newNetwork(t *testing.T) *network {
	ctx, cancel := context.WithTimeout(context.Background(), 2*patience)
	t.Cleanup(cancel)
	n := &network{t: t, ctx: ctx, key: filepath.Join(t.TempDir(), "network.key")}
	if _, _, err := identity.LoadOrCreateNetworkKey(n.key); err != nil {
		t.Fatal(err)
	}
	return n
}

func (n *network) addPillar() *obelisk.Pillar {
	n.t.Helper()
	p := n.openPillar(n.t.TempDir())
	n.pillars = append(n.pillars, p)
	return p
}

func (n *network) openPillar(dir string) *obelisk.Pillar {
	n.t.Helper()
	var join []string
	if len(n.pillars) > 0 {
		join = []string{n.pillars[0].JoinLink()}
	}
	cfg := obelisk.PillarConfig{Dir: filepath.Join(dir, "pillar"), NetworkKey: n.key, Join: join,
		Listen: []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"}, Memory: 16 << 20, StoreLimit: 1 << 30, PerIP: n.perIP}
	if n.closed {
		cfg.Registration = obelisk.RegistrationClosed
	}
	p, err := obelisk.OpenPillar(n.ctx, cfg)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { p.Close() })
	return p
}

func (n *network) addNode(at *obelisk.Pillar, name string) *obelisk.Node {
	n.t.Helper()
	node, err := obelisk.OpenNode(n.ctx, obelisk.NodeConfig{Dir: filepath.Join(n.t.TempDir(), "node"), Name: name,
		Join: []string{at.JoinLink()}, Listen: []string{"/ip4/127.0.0.1/tcp/0"}, Memory: 8 << 20})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { node.Close() })
	n.nodes = append(n.nodes, node)
	return node
}

// until waits for a condition about the whole network, which nothing signals.
func (n *network) until(what string, holds func() bool) {
	n.t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-n.ctx.Done():
			n.t.Fatalf("never came true: %s", what)
		case <-tick.C:
		}
	}
}

func (n *network) send(from *obelisk.Node, to *obelisk.Node, text string, want obelisk.State) obelisk.Sent {
	n.t.Helper()
	sent, err := from.Send(n.ctx, to.Account(), text)
	if err != nil {
		n.t.Fatalf("send %q: %v", text, err)
	}
	ctx, cancel := context.WithTimeout(n.ctx, patience)
	defer cancel()
	sent, err = from.Wait(ctx, sent.Handle, want)
	if err != nil {
		n.t.Fatalf("%q is %s (%s): %v", text, sent.State, sent.Reason, err)
	}
	if !sent.State.Reached(want) || sent.State == obelisk.Rejected || sent.State == obelisk.Expired {
		n.t.Fatalf("%q is %s (%s), want %s", text, sent.State, sent.Reason, want)
	}
	return sent
}

// receive takes messages off a node's inbox, acknowledging each, until it has
// the wanted texts; any other text, or one twice, is an error.
func (n *network) receive(node *obelisk.Node, texts ...string) {
	n.t.Helper()
	want := map[string]bool{}
	for _, text := range texts {
		want[text] = true
	}
	ctx, cancel := context.WithTimeout(n.ctx, patience)
	defer cancel()
	for m, err := range node.Inbox(ctx) {
		if err != nil {
			n.t.Fatalf("inbox: %v; still missing %v", err, want)
		}
		if m.Text == nil || !want[*m.Text] {
			n.t.Fatalf("unexpected message %+v", m)
		}
		delete(want, *m.Text)
		if err := node.Ack(m.ID); err != nil {
			n.t.Fatal(err)
		}
		if len(want) == 0 {
			return
		}
	}
	n.t.Fatalf("the inbox ended; still missing %v", want)
}

func (n *network) nothingUnacked() {
	n.t.Helper()
	for i, node := range n.nodes {
		if s := node.Status(); s.Inbox.Unacked != 0 {
			n.t.Errorf("node %d has %d messages more than were sent", i, s.Inbox.Unacked)
		}
	}
}

// TestTenAndTen: ten pillars and ten nodes fit in one process, find each other
// from one address, and every node reaches every other.
func TestTenAndTen(t *testing.T) {
	if testing.Short() {
		t.Skip("ten pillars and ten nodes take some seconds")
	}
	n := newNetwork(t)
	const size = 10
	for range size {
		n.addPillar()
	}
	for i := range size {
		n.addNode(n.pillars[i], fmt.Sprint("node", i))
	}
	n.until("all pillars alive", func() bool {
		for _, p := range n.pillars {
			if p.Status().PillarsAlive != size {
				return false
			}
		}
		return true
	})
	n.until("all nodes know all pillars and all nodes", func() bool {
		for _, node := range n.nodes {
			if s := node.Status(); s.PillarsKnown != size || s.NodesKnown != size || s.Standby == "" {
				return false
			}
		}
		return true
	})
	for i, node := range n.nodes {
		n.send(node, n.nodes[(i+1)%size], fmt.Sprint("to the next of ", i), obelisk.Delivered)
	}
	for i := range n.nodes {
		n.receive(n.nodes[(i+1)%size], fmt.Sprint("to the next of ", i))
	}
	n.until("all pillars hold the same number of records", func() bool {
		for _, p := range n.pillars {
			if p.Status().Records != n.pillars[0].Status().Records {
				return false
			}
		}
		return true
	})
	n.nothingUnacked()
}

// TestOnePillarIsEnough kills pillars until one is left, and goes on sending.
func TestOnePillarIsEnough(t *testing.T) {
	n := newNetwork(t)
	for range 4 {
		n.addPillar()
	}
	alice, bob := n.addNode(n.pillars[0], "alice"), n.addNode(n.pillars[0], "bob")
	n.until("standby and roster", func() bool {
		for _, node := range n.nodes {
			if s := node.Status(); s.Standby == "" || s.PillarsKnown != 4 {
				return false
			}
		}
		return true
	})
	n.send(alice, bob, "all four are up", obelisk.Delivered)
	texts := []string{"all four are up"}
	for i := range 3 {
		if err := n.pillars[i].Close(); err != nil {
			t.Fatal(err)
		}
		want := obelisk.Replicated
		if i == 2 {
			want = obelisk.Stored // one pillar is left, four are in the roster
		}
		text := fmt.Sprintf("%d are gone", i+1)
		n.send(alice, bob, text, want)
		n.send(bob, alice, text, want)
		texts = append(texts, text)
	}
	n.receive(bob, texts...)
	n.receive(alice, texts[1:]...)
	n.nothingUnacked()
}

// TestPillarAddMergesNetworks: two pillars that never heard of each other
// become one network when one is told the other's address.
func TestPillarAddMergesNetworks(t *testing.T) {
	n := newNetwork(t)
	one := n.openPillar(t.TempDir())
	two := n.openPillar(t.TempDir())
	alice, bob := n.addNode(one, "alice"), n.addNode(two, "bob")
	n.until("both registered", func() bool { return alice.Status().Pillar != "" && bob.Status().Pillar != "" })
	sent, err := alice.Send(n.ctx, bob.Account(), "before the merge")
	if err != nil {
		t.Fatal(err)
	}
	if err := one.AddPillar(n.ctx, two.Listen()[0]); err != nil {
		t.Fatal(err)
	}
	if sent, err = alice.Wait(n.ctx, sent.Handle, obelisk.Delivered); err != nil || sent.State != obelisk.Delivered {
		t.Fatalf("%s (%s): %v", sent.State, sent.Reason, err)
	}
	n.receive(bob, "before the merge")
	n.until("equal records", func() bool { return one.Status().Records == two.Status().Records })
}

// TestAnotherNetworkIsRefused: the address of a pillar of another network is an
// error that says so, and changes nothing.
func TestAnotherNetworkIsRefused(t *testing.T) {
	here, there := newNetwork(t), newNetwork(t)
	a, b := here.addPillar(), there.addPillar()
	err := a.AddPillar(here.ctx, b.Listen()[0])
	var refusal *obelisk.Error
	if !errors.As(err, &refusal) || refusal.Code != "wrong_network" {
		t.Fatalf("adding a pillar of another network: %v", err)
	}
	if alive := a.Status().PillarsAlive; alive != 1 {
		t.Errorf("%d pillars alive", alive)
	}
	node := here.addNode(a, "alice")
	here.until("registered", func() bool { return node.Status().Pillar != "" })
	if err := node.AddPillar(here.ctx, b.JoinLink()); err == nil {
		t.Error("a node took the link of another network")
	}
}

// TestRelayIsForMembers: a pillar relays for devices registered at it and for
// admitted pillars, and for nobody else.
func TestRelayIsForMembers(t *testing.T) {
	n := newNetwork(t)
	p := n.addPillar()
	node := n.addNode(p, "alice")
	n.until("registered", func() bool { return node.Status().Pillar != "" })
	stranger, err := relay.New(relay.Config{Key: identity.NewDeviceKey().Private(), Role: relay.RoleNode})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Shutdown()
	at, err := overlay.ParsePillarAddr(p.Listen()[0])
	if err != nil {
		t.Fatal(err)
	}
	if err := stranger.Connect(n.ctx, peer.ID(at.Pillar), []multiaddr.Multiaddr{at.Addr}); err != nil {
		t.Fatal(err)
	}
	if err := stranger.Reserve(n.ctx, peer.ID(at.Pillar)); !errors.Is(err, overlay.ErrFull) {
		t.Errorf("a stranger's reservation: %v", err)
	}
	// The node's own loop reserves there.
	n.until("the node's reservation", func() bool { return node.Reserved(p.ID()) })
}

// A node leaves a pillar that has no room to relay for it when there is another.
func TestCrowdedPillarIsLeft(t *testing.T) {
	n := newNetwork(t)
	n.perIP = 1 // reservation; loopback may have any number of connections
	first, second := n.addPillar(), n.addPillar()
	a := n.addNode(first, "a")
	n.until("a is at both", func() bool { s := a.Status(); return s.Pillar != "" && s.Standby != "" })
	n.until("a has both reservations", func() bool { return a.Reserved(first.ID()) && a.Reserved(second.ID()) })
	b := n.addNode(first, "b")
	n.until("b is at both", func() bool { s := b.Status(); return s.Pillar != "" && s.Standby != "" })
	n.perIP = 0
	third := n.addPillar()
	n.until("b has moved", func() bool { return b.Reserved(third.ID()) })
	if s := b.Status(); s.Pillar != third.ID().String() && s.Standby != third.ID().String() {
		t.Errorf("b works with %s and %s, not with the pillar that has room", s.Pillar, s.Standby)
	}
}

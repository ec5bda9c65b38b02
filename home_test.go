package obelisk_test

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/overlay"
)

// addHome adds a home pillar that knows one address.
func (n *network) addHome(join string) *obelisk.Pillar {
	n.t.Helper()
	p, err := obelisk.OpenPillar(n.ctx, obelisk.PillarConfig{Dir: filepath.Join(n.t.TempDir(), "home"), NetworkKey: n.key, Join: []string{join},
		Listen: []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"}, Memory: 16 << 20, StoreLimit: 1 << 30, Home: true})
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { p.Close() })
	n.pillars = append(n.pillars, p)
	return p
}

// TestHomePillar: a pillar behind a NAT is told by circuits only.
func TestHomePillar(t *testing.T) {
	n := newNetwork(t)
	public := n.addPillar()
	home := n.addHome(public.JoinLink())
	for _, a := range home.Listen() {
		if !strings.HasSuffix(a, "/p2p/"+public.ID().String()+"/p2p-circuit/p2p/"+home.ID().String()) {
			t.Errorf("%s is not through the public pillar", a)
		}
	}
	if len(home.Listen()) != 2 || home.JoinLink() == "" {
		t.Errorf("listens at %v, link %s", home.Listen(), home.JoinLink())
	}
	n.until("the others are told", func() bool {
		for _, e := range public.Pillars() {
			if e.ID == home.ID() {
				return e.Home && e.Connected && len(e.Addrs) == 2
			}
		}
		return false
	})
	s := home.Status()
	if !s.Home || len(s.Relays) != 1 || s.Relays[0] != public.ID() || public.Status().Home {
		t.Errorf("status %+v", s)
	}
}

// TestHomePillarAlone: nodes that have nothing but a home pillar register, send
// and receive, and go on at once when a circuit is cut.
func TestHomePillarAlone(t *testing.T) {
	n := newNetwork(t)
	n.closed = true // it relays, and no node may register there
	public := n.addPillar()
	home := n.addHome(public.JoinLink())
	a := n.addNode(home, "a")
	b := n.addNode(home, "b")
	n.send(a, b, "from behind", obelisk.Delivered)
	n.receive(b, "from behind")
	for _, p := range a.Pillars() {
		if p.ID == home.ID() && (!p.Active || !p.Home || p.Path != overlay.PathRelayed) || p.ID == public.ID() && p.Active {
			t.Errorf("pillar %+v", p)
		}
	}
	start := time.Now()
	if err := errors.Join(a.HangUp(home.ID()), b.HangUp(home.ID())); err != nil {
		t.Fatal(err)
	}
	n.send(a, b, "over another circuit", obelisk.Delivered)
	n.receive(b, "over another circuit")
	t.Logf("delivered %v after the cut", time.Since(start))
	if s := a.Status(); s.Pillar != home.ID().String() || s.Failovers != 0 {
		t.Errorf("status %+v", s)
	}
}

// TestHomePillarIsSecondChoice: nodes that came by a home pillar move to a public
// one, and a home pillar's copy counts like any other.
func TestHomePillarIsSecondChoice(t *testing.T) {
	n := newNetwork(t)
	public := n.addPillar()
	home := n.addHome(public.JoinLink())
	a, b := n.addNode(home, "a"), n.addNode(home, "b")
	for _, node := range n.nodes {
		n.until("the public one is active, the home one standby", func() bool {
			s := node.Status()
			return s.Pillar == public.ID().String() && s.Standby == home.ID().String()
		})
		for _, p := range node.Pillars() {
			if p.Home != (p.ID == home.ID()) {
				t.Errorf("pillar %+v", p)
			}
		}
	}
	n.send(a, b, "two copies", obelisk.Replicated)
	n.receive(b, "two copies")
}

// TestHomePillarsTogether: two home pillars reach each other through a public
// one, and a third that knows nothing but a home one reaches all.
func TestHomePillarsTogether(t *testing.T) {
	n := newNetwork(t)
	public := n.addPillar()
	one := n.addHome(public.JoinLink())
	two := n.addHome(one.JoinLink())
	all := []*obelisk.Pillar{public, one, two}
	n.until("all have sessions with all", func() bool {
		for _, p := range all {
			alive := 0
			for _, e := range p.Pillars() {
				if e.State == overlay.PillarAlive && e.Connected {
					alive++
				}
			}
			if alive != 2 {
				return false
			}
		}
		return true
	})
	for _, e := range one.Pillars() {
		want := overlay.PathDirect
		if e.ID == two.ID() {
			want = overlay.PathRelayed
		}
		if e.Path != want || e.Home != (e.ID == two.ID()) {
			t.Errorf("%s is %s, home %v", e.ID, e.Path, e.Home)
		}
	}
	// The public one, which is no end of it, knows of their connection.
	links, err := public.Links(n.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if edges := links.Edges(); len(edges) != 3 || !slices.ContainsFunc(edges, func(e overlay.LinkEdge) bool {
		return e.A == min(one.ID(), two.ID()) && e.B == max(one.ID(), two.ID()) && e.Word == overlay.LinkBoth &&
			e.Path == overlay.PathRelayed && e.Through == public.ID()
	}) {
		t.Errorf("%+v", edges)
	}
	if err := one.HangUp(two.ID()); err != nil {
		t.Fatal(err)
	}
	a, b := n.addNode(public, "a"), n.addNode(public, "b")
	n.send(a, b, "everywhere", obelisk.Delivered)
	n.receive(b, "everywhere")
	n.until("converged", func() bool {
		for _, p := range all {
			if !p.Status().Converged {
				return false
			}
		}
		return true
	})
}

// TestHomePillarLosesItsRelay: whoever looks for it finds it through another one.
func TestHomePillarLosesItsRelay(t *testing.T) {
	n := newNetwork(t)
	first := n.addPillar()
	home := n.addHome(first.JoinLink())
	second := n.addPillar()
	n.until("reservations at both, and the second knows", func() bool {
		for _, e := range second.Pillars() {
			if e.ID == home.ID() {
				return len(e.Addrs) == 4 && len(home.Status().Relays) == 2
			}
		}
		return false
	})
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	n.until("one reservation is left", func() bool {
		s := home.Status()
		return len(s.Relays) == 1 && s.Relays[0] == second.ID()
	})
	a := n.addNode(home, "a")
	n.until("registered", func() bool { return a.Status().Pillar != "" })
}

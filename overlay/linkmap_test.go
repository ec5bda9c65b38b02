package overlay_test

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestLinkOf: what a connection runs on, and through whom.
func TestLinkOf(t *testing.T) {
	other, relay := identity.NewPillarKey().ID(), identity.NewPillarKey().ID()
	through := "/p2p/" + relay.String() + "/p2p-circuit"
	now := time.Now()
	for addr, want := range map[string]overlay.PillarLink{
		"/ip4/192.0.2.1/udp/4001/quic-v1":           {Path: overlay.PathDirect, Transport: overlay.LinkQUIC},
		"/ip6/2001:db8::1/tcp/4001":                 {Path: overlay.PathDirect, Transport: overlay.LinkTCP},
		"/ip4/192.0.2.1/tcp/443/ws":                 {Path: overlay.PathDirect, Transport: overlay.LinkWebSocket},
		"/ip4/192.0.2.1":                            {Path: overlay.PathDirect, Transport: overlay.LinkOther},
		"/ip4/192.0.2.1/udp/4001/quic-v1" + through: {Path: overlay.PathRelayed, Transport: overlay.LinkQUIC, Through: relay},
		"/ip4/192.0.2.1/tcp/4001" + through:         {Path: overlay.PathRelayed, Transport: overlay.LinkTCP, Through: relay},
		"/p2p-circuit":                              {Path: overlay.PathRelayed, Transport: overlay.LinkOther},
	} {
		want.With, want.RTT, want.Age = other, time.Millisecond, time.Minute
		got := overlay.LinkOf(&overlay.PeerInfo{Peer: peer.ID(other), Path: want.Path, Remote: multiaddr.StringCast(addr),
			RTT: time.Millisecond, Since: now.Add(-time.Minute)}, now)
		if got != want {
			t.Errorf("%s: %+v, want %+v", addr, got, want)
		}
	}
}

// TestLinkEdges: of what two ends say the worse counts, and it is told whose
// word it is.
func TestLinkEdges(t *testing.T) {
	a, b, c, d := identity.PillarID("a"), identity.PillarID("b"), identity.PillarID("c"), identity.PillarID("d")
	direct := func(with identity.PillarID, rtt, age time.Duration) overlay.PillarLink {
		return overlay.PillarLink{With: with, Path: overlay.PathDirect, Transport: overlay.LinkQUIC, RTT: rtt, Age: age}
	}
	relayed := overlay.PillarLink{With: a, Path: overlay.PathRelayed, Transport: overlay.LinkTCP, Through: c, RTT: 5, Age: 70}
	m := &overlay.LinkMap{Reports: []overlay.LinkReport{
		{Pillar: b, Answered: true, Links: []overlay.PillarLink{relayed, direct(c, 3, 4)}},
		{Pillar: a, Answered: true, Links: []overlay.PillarLink{direct(b, 9, 60), direct(d, 1, 1)}},
		{Pillar: c, Answered: true, Links: []overlay.PillarLink{}},
		{Pillar: d},
	}}
	edges := m.Edges()
	worse := relayed
	worse.With, worse.RTT, worse.Age = b, 9, 60
	want := []overlay.LinkEdge{
		{A: a, B: b, Word: overlay.LinkBoth, PillarLink: worse},
		{A: a, B: d, Word: overlay.LinkOne, PillarLink: direct(d, 1, 1)},
		{A: b, B: c, Word: overlay.LinkDenied, PillarLink: direct(c, 3, 4)},
	}
	if len(edges) != len(want) {
		t.Fatalf("%+v", edges)
	}
	for i, e := range edges {
		w := want[i]
		if e.A != w.A || e.B != w.B || e.Word != w.Word || e.PillarLink != w.PillarLink {
			t.Errorf("%+v, want %+v", e, w)
		}
	}
	if e := edges[0]; e.AsA.Path != overlay.PathDirect || e.AsB.Path != overlay.PathRelayed {
		t.Errorf("each end's word: %+v, %+v", e.AsA, e.AsB)
	}
	if e := edges[2]; e.AsA == nil || e.AsB != nil {
		t.Errorf("one end's word: %+v, %+v", e.AsA, e.AsB)
	}
}

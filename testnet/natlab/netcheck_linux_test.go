package natlab

import (
	"context"
	"testing"
	"time"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/testnet"
)

// TestNetcheck has nodes behind every kind of gateway say what they are behind:
// it must be true, and nothing may be said that cannot be known.
func TestNetcheck(t *testing.T) {
	needLab(t)
	if testing.Short() {
		t.Skip("starts real processes; not with -short")
	}
	binary := build(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(cancel)
	l, err := Open(ctx, Topology{Pillars: 4, Public: []string{"open"}, Path: near, Speech: SpeakAll, Gateways: []Gateway{
		{NAT: Cone, Egress: Everything, Behind: []string{"cone"}},
		{NAT: Symmetric, Egress: Everything, Behind: []string{"symmetric"}},
		{NAT: Cone, Egress: NoUDP, Behind: []string{"no-udp"}},
		{NAT: Cone, Egress: WebOnly, Behind: []string{"web-only"}},
	}}, binary, 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	if err := l.StartPillars(ctx); err != nil {
		t.Fatal(err)
	}
	type works map[string]bool
	all := works{"quic": true, "tcp": true, "ws": true}
	tests := []struct {
		place              string
		mapping, filtering overlay.NATBehaviour
		reachability       string
		punching           string
		works              works
		seenAt             string
	}{
		{"cone", overlay.NATEndpointIndependent, overlay.NATPortDependent, "private", overlay.PunchingLikely, all, gatewayAddr(0).String()},
		{"symmetric", overlay.NATPortDependent, overlay.NATPortDependent, "private", overlay.PunchingUnlikely, all, gatewayAddr(1).String()},
		{"no-udp", overlay.NATUnknown, overlay.NATUnknown, "unknown", overlay.PunchingLikely, works{"tcp": true, "ws": true}, gatewayAddr(2).String()},
		{"web-only", overlay.NATUnknown, overlay.NATUnknown, "unknown", overlay.PunchingUnlikely, works{"ws": true}, gatewayAddr(3).String()},
		{"open", overlay.NATNone, overlay.NATEndpointIndependent, "public", overlay.PunchingLikely, all, publicAddr(0).String()},
	}
	nodes := make([]*testnet.Process, len(tests))
	for i, tt := range tests {
		if nodes[i], err = l.StartNode(ctx, tt.place, l.public()[0]); err != nil {
			t.Fatalf("%s: %v", tt.place, err)
		}
	}
	if err := testnet.WaitConnected(ctx, nodes, 4); err != nil {
		t.Fatal(err)
	}
	for i, tt := range tests {
		t.Run(tt.place, func(t *testing.T) {
			t.Parallel()
			api, err := nodes[i].Node()
			if err != nil {
				t.Fatal(err)
			}
			c, err := api.Netcheck(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if c.Mapping != tt.mapping || c.Filtering != tt.filtering || c.Reachability != tt.reachability || c.HolePunching != tt.punching {
				t.Errorf("mapping %s, filtering %s, reachability %s, hole punching %s (%s); want %+v",
					c.Mapping, c.Filtering, c.Reachability, c.HolePunching, c.Why, tt)
			}
			if len(c.Pillars) != 4 {
				t.Errorf("%d pillars, want 4", len(c.Pillars))
			}
			for _, p := range c.Pillars {
				if len(p.Transports) != 3 {
					t.Errorf("%d transports tried at %s, want 3", len(p.Transports), p.ID)
				}
				for _, x := range p.Transports {
					if x.OK != tt.works[x.Transport] || x.OK != (x.Error == "") || x.OK && x.RTTMS <= 0 {
						t.Errorf("%+v, want it to work: %t", x, tt.works[x.Transport])
					}
				}
			}
			if len(c.Public) == 0 {
				t.Error("seen nowhere")
			}
			for _, s := range c.Public {
				if at := "/ip4/" + tt.seenAt + "/"; len(s.Addr) < len(at) || s.Addr[:len(at)] != at {
					t.Errorf("seen at %s, want %s", s.Addr, at)
				}
			}
			st, err := api.Status(ctx)
			if err != nil || st.Reachability != tt.reachability {
				t.Errorf("status says %s, %v", st.Reachability, err)
			}
			t.Logf("%s in %.0f ms; %s: %s; warnings %q", tt.place, c.TookMS, c.HolePunching, c.Why, c.Warnings)
		})
	}
}

package obelisk_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/obelisk-network/obelisk"
)

// addHome adds a home pillar that knows one address.
func (n *network) addHome(join string) *obelisk.Pillar {
	n.t.Helper()
	p, err := obelisk.OpenPillar(n.ctx, obelisk.PillarConfig{Dir: filepath.Join(n.t.TempDir(), "home"), NetworkKey: n.key, Join: []string{join},
		Listen: []string{"/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"}, Memory: 16 << 20, Home: true})
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

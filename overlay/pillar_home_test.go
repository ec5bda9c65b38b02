package overlay_test

import (
	"bytes"
	"testing"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// TestHomePillarKeepsAddrs: a home pillar that starts tells the addresses of its
// last run until it knows better; one that was public before does not.
func TestHomePillarKeepsAddrs(t *testing.T) {
	rig := bareRig(newTestNetwork(t))
	key := identity.NewPillarKey()
	var addrs []multiaddr.Multiaddr
	home := true
	start := func() {
		rig.start(nil, key, func(c *overlay.PillarConfig) {
			c.Home, c.Addrs = home, func() []multiaddr.Multiaddr { return addrs }
		})
	}
	stop := func() {
		until(t, "the record is on disk", func() (saved bool) {
			view := rig.store.View()
			defer view.Close()
			err := view.Values("roster/p/", func(_ string, data []byte) bool {
				saved = saved || bytes.HasSuffix(data, rig.pillar.Record().Raw)
				return true
			})
			return saved && err == nil
		})
		rig.stop()
	}
	check := func(what string, want ...multiaddr.Multiaddr) {
		t.Helper()
		info, err := overlay.ParsePillarInfo(rig.pillar.Record().Bin)
		if err != nil || info.Home != home || len(info.Addrs) != len(want) {
			t.Fatalf("%s: %+v, %v", what, info, err)
		}
		for i := range want {
			if !want[i].Equal(info.Addrs[i]) {
				t.Errorf("%s: %v, want %v", what, info.Addrs, want)
			}
		}
	}
	relay := overlay.PillarAddr{Pillar: identity.NewPillarKey().ID(), Addr: multiaddr.StringCast("/ip4/203.0.113.1/tcp/1")}
	circuit, direct := overlay.Circuit(relay), multiaddr.StringCast("/ip4/203.0.113.2/tcp/1")

	start()
	check("the first time nothing is known")
	before := rig.pillar.Record()
	if err := rig.pillar.Readdress(); err != nil || rig.pillar.Record() != before {
		t.Fatalf("a record about nothing new: %v", err)
	}
	addrs = []multiaddr.Multiaddr{circuit}
	if err := rig.pillar.Readdress(); err != nil {
		t.Fatal(err)
	}
	check("reserved", circuit)
	stop()
	addrs = nil
	start()
	check("after a restart", circuit)
	stop()
	home, addrs = false, []multiaddr.Multiaddr{direct}
	start()
	check("public now", direct)
	stop()
	home, addrs = true, nil
	start()
	check("at home again")
	rig.stop()
}

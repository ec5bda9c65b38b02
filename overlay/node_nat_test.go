package overlay_test

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
)

// TestNAT: status and metrics say what was found out last, and before that
// nothing.
func TestNAT(t *testing.T) {
	net := memnet.New()
	home := newNodeHome(t, net)
	reg := prometheus.NewRegistry()
	cfg := home.config(net.Host(peer.ID(home.device.ID()), "-"))
	cfg.Registerer = reg
	n, err := overlay.NewNode(cfg)
	if err != nil {
		t.Fatal(err)
	}
	check := func(mapping, filtering overlay.NATBehaviour, reachability string) {
		t.Helper()
		if got := n.Status().Reachability; got != reachability {
			t.Errorf("status: %s, want %s", got, reachability)
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]bool{"mapping " + string(mapping): true, "filtering " + string(filtering): true, "reachability " + reachability: true}
		paths := 0
		for _, f := range families {
			for _, m := range f.GetMetric() {
				switch f.GetName() {
				case "obelisk_node_nat": // labels in the order of their names: is, property
					key := m.GetLabel()[1].GetValue() + " " + m.GetLabel()[0].GetValue()
					if is := m.GetGauge().GetValue() == 1; is != want[key] {
						t.Errorf("%s is %t", key, is)
					}
					delete(want, key)
				case "obelisk_node_contact_devices":
					paths++
				}
			}
		}
		if len(want) > 0 || paths != 3 {
			t.Errorf("not there: %v; %d paths", want, paths)
		}
	}
	check(overlay.NATUnknown, overlay.NATUnknown, "unknown")
	n.NoteNAT(overlay.NATEndpointIndependent, overlay.NATPortDependent, "private")
	check(overlay.NATEndpointIndependent, overlay.NATPortDependent, "private")
}

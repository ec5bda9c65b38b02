package overlay_test

import (
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk/overlay"
)

// TestNodeMetricsTwice: a node that gets a new device key is made anew with the
// registerer of the old one, and goes on counting there.
func TestNodeMetricsTwice(t *testing.T) {
	bubble(t, 1, func(t *testing.T, c *fakeCluster) {
		reg := prometheus.NewRegistry()
		with := func(cfg *overlay.NodeConfig) { cfg.Registerer = reg }
		for range 2 {
			n := newNodeHome(t, c.net).start(c.addrs(), with)
			n.works(t, "its pillar", c.pillars, nil)
			n.stop()
		}
		families, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		dials := 0.0
		for _, f := range families {
			if f.GetName() == "obelisk_node_dials_total" {
				for _, m := range f.GetMetric() {
					dials += m.GetCounter().GetValue()
				}
			}
		}
		if dials < 2 {
			t.Errorf("%g attempts counted of two nodes", dials)
		}
	})
}

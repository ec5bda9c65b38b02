package obelisk_test

import (
	"path/filepath"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/obelisk-network/obelisk"
	"github.com/obelisk-network/obelisk/overlay"
)

// Pillars that reach each other over QUIC exchange memberlist's packets as
// datagrams, and find each other as ever.
func TestMembersByDatagram(t *testing.T) {
	n := newNetwork(t)
	registries := make([]*prometheus.Registry, 3)
	for i := range registries {
		registries[i] = prometheus.NewRegistry()
		var join []string
		if i > 0 {
			join = []string{n.pillars[0].JoinLink()}
		}
		p, err := obelisk.OpenPillar(n.ctx, obelisk.PillarConfig{Dir: filepath.Join(t.TempDir(), "pillar"), NetworkKey: n.key, Join: join,
			Listen: []string{"/ip4/127.0.0.1/udp/0/quic-v1"}, Memory: 16 << 20, StoreLimit: 1 << 30, Registry: registries[i]})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		n.pillars = append(n.pillars, p)
	}
	sum := func(i int, name, label string) (sum float64) {
		families, err := registries[i].Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			for _, m := range f.GetMetric() {
				if f.GetName() == name && m.GetLabel()[0].GetValue() == label {
					sum += m.GetCounter().GetValue()
				}
			}
		}
		return sum
	}
	for i, p := range n.pillars {
		n.until("all alive, and packets by datagram", func() bool {
			alive := 0
			for _, st := range p.Pillars() {
				if st.State == overlay.PillarAlive {
					alive++
				}
			}
			return alive >= 2 && sum(i, "obelisk_relay_packets_received_total", "datagram") >= 3
		})
		for _, why := range []string{"malformed", "nested", "encoded", "unknown", "forged", "leave"} {
			if dropped := sum(i, "obelisk_gossip_member_dropped_total", why); dropped != 0 {
				t.Errorf("%v messages dropped as %s", dropped, why)
			}
		}
	}
}

package gossip_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

func TestMemoryIsReplica(t *testing.T) {
	replicatest.Run(t, func(t *testing.T, mesh overlay.Mesh) replicatest.Subject {
		network := identity.NewNetworkKey()
		m := replicatest.NewMemory(network.ID(), identity.NewPillarKey())
		m.SetMesh(mesh)
		return replicatest.Subject{Network: network, Replica: m, Records: m, Notes: m,
			Submit: func(raws ...[]byte) { m.Submit(raws...) }}
	})
}

func TestThreeConverge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		a := w.pillar().start()
		b := w.pillar().start(a)
		c := w.pillar().start(a)
		until(t, 10*time.Second, "full mesh", func() bool { return meshed(a, b, c) })
		for range 10 {
			a.submit(5)
			b.submit(3)
			c.submit(1)
		}
		until(t, 5*time.Second, "converged", func() bool { return a.disk.Count() == 90 && converged(a, b, c) })
		for _, p := range []*pillar{a, b, c} {
			if got, fresh := p.count("entries_received_total"), p.count("entries_new_total"); got != fresh {
				t.Errorf("received %v entries, %v of them new", got, fresh)
			}
		}
		a.stop()
		b.stop()
		c.stop()
	})
}

package gossip_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/gossip"
	"github.com/obelisk-network/obelisk/gossip/replicatest"
	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
	"github.com/obelisk-network/obelisk/overlay/memnet"
	"github.com/obelisk-network/obelisk/store"
)

// realPillar runs an overlay.Pillar over a store in memory; mesh makes its Mesh
// before it runs.
func realPillar(t testing.TB, net *memnet.Network, network *identity.NetworkKey, mesh func(*overlay.Pillar, *identity.PillarKey, *memnet.Host) overlay.Mesh) (*overlay.Pillar, *memnet.Host) {
	t.Helper()
	return realPillarOver(t, store.NewMemory(), net, network, mesh)
}

func realPillarOver(t testing.TB, disk overlay.Store, net *memnet.Network, network *identity.NetworkKey, mesh func(*overlay.Pillar, *identity.PillarKey, *memnet.Host) overlay.Mesh) (*overlay.Pillar, *memnet.Host) {
	t.Helper()
	key := identity.NewPillarKey()
	host := net.Host(peer.ID(key.ID()), "")
	p, err := overlay.NewPillar(overlay.PillarConfig{Network: network.ID(), Key: key, Store: disk, Links: host, Peers: host,
		Admit: func(now uint64) (identity.Admission, error) {
			return network.Admit(key.ID(), now, now+20*overlay.DayMillis), nil
		},
		Addrs: host.Addrs})
	if err != nil {
		t.Fatal(err)
	}
	m := mesh(p, key, host)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 2)
	running := 1
	go func() { done <- p.Run(ctx, m) }()
	meshCtx, stopMesh := context.WithCancel(ctx)
	if r, ok := m.(overlay.Runner); ok {
		running++
		go func() { done <- r.Run(meshCtx) }()
	}
	t.Cleanup(func() {
		stopMesh()
		cancel()
		for range running {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		host.Shutdown()
	})
	return p, host
}

func TestPillarIsReplica(t *testing.T) {
	testPillarIsReplica(t, func(*testing.T) overlay.Store { return store.NewMemory() })
}

func TestPillarOverPebbleIsReplica(t *testing.T) {
	testPillarIsReplica(t, func(t *testing.T) overlay.Store {
		disk, err := store.OpenPebble(store.PebbleConfig{Dir: t.TempDir(), Memory: 4 << 20})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := disk.Close(); err != nil {
				t.Error(err)
			}
		})
		return disk
	})
}

func testPillarIsReplica(t *testing.T, disk func(t *testing.T) overlay.Store) {
	replicatest.Run(t, func(t *testing.T, mesh overlay.Mesh) replicatest.Subject {
		network, net := identity.NewNetworkKey(), memnet.New()
		p, host := realPillarOver(t, disk(t), net, network, func(*overlay.Pillar, *identity.PillarKey, *memnet.Host) overlay.Mesh { return mesh })
		return replicatest.Subject{Network: network, Replica: p, Records: p, Notes: p,
			Submit: func(raws ...[]byte) {
				t.Helper()
				// The records' own author need not be who submits them.
				a := replicatest.NewAuthor(t, network.ID(), time.Now)
				node := net.Host(a.Peer(), "-")
				defer node.Shutdown()
				a.Register(t, node, host.Self(), host.Addrs()).Submit(1, raws...)
			}}
	})
}

// realTrio is three real pillars with gossip between them, fully connected.
func realTrio(t testing.TB) (*memnet.Network, *identity.NetworkKey, []*overlay.Pillar, []*memnet.Host) {
	t.Helper()
	net, network := memnet.New(), identity.NewNetworkKey()
	var pillars []*overlay.Pillar
	var hosts []*memnet.Host
	var meshes []*gossip.Mesh
	for range 3 {
		p, host := realPillar(t, net, network, func(p *overlay.Pillar, key *identity.PillarKey, host *memnet.Host) overlay.Mesh {
			cfg := gossip.Config{Network: network.ID(), Key: key, Links: host, Packets: host, Peers: host,
				Roster: p.Roster(), Replica: p, Records: p, Notes: p, Devices: p, Own: p.Record}
			for _, h := range hosts {
				cfg.Bootstrap = append(cfg.Bootstrap, overlay.PillarAddr{Pillar: identity.PillarID(h.Self()), Addr: h.Addrs()[0]})
			}
			m, err := gossip.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			p.LocateThrough(m)
			meshes = append(meshes, m)
			return m
		})
		pillars, hosts = append(pillars, p), append(hosts, host)
	}
	alive := func() bool {
		for _, m := range meshes {
			for _, st := range m.Pillars() {
				if st.State != overlay.PillarAlive {
					return false
				}
			}
			if len(m.Pillars()) != 2 {
				return false
			}
		}
		return true
	}
	eventually(t, alive)
	return net, network, pillars, hosts
}

// eventually polls cond, in real time where there is no bubble: however slow the
// machine.
func eventually(t testing.TB, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(2 * time.Minute); !cond(); <-tick.C {
		if time.Now().After(end) {
			t.Fatal("not in time")
		}
	}
}

func vectorOf(p *overlay.Pillar) overlay.Hash {
	var v overlay.Vector
	for _, s := range p.Logs() {
		v = append(v, s.Position)
	}
	v.Sort()
	return v.Hash()
}

func TestRealPillarsReplicate(t *testing.T) {
	net, network, pillars, hosts := realTrio(t)
	for i := range pillars {
		a := replicatest.NewAuthor(t, network.ID(), time.Now)
		node := net.Host(a.Peer(), "-")
		t.Cleanup(func() { node.Shutdown() })
		a.Register(t, node, hosts[i].Self(), hosts[i].Addrs()).Submit(3, a.Messages(t, 50)...)
	}
	eventually(t, func() bool {
		return vectorOf(pillars[0]) == vectorOf(pillars[1]) && vectorOf(pillars[0]) == vectorOf(pillars[2])
	})
	if n := pillars[2].Status().Records; n != 156 {
		t.Errorf("%d records, want 150 messages and 6 of keys", n)
	}
}

// BenchmarkReplicated is one message in flight through a real pillar, without
// a disk, until it is on two.
func BenchmarkReplicated(b *testing.B) {
	net, network, _, hosts := realTrio(b)
	a := replicatest.NewAuthor(b, network.ID(), time.Now)
	node := net.Host(a.Peer(), "-")
	b.Cleanup(func() { node.Shutdown() })
	n := a.Register(b, node, hosts[0].Self(), hosts[0].Addrs())
	raws := a.Messages(b, b.N)
	b.ResetTimer()
	for _, raw := range raws {
		n.Submit(2, raw)
	}
}

// BenchmarkIngest is 512 messages in flight through a real pillar, without a
// disk, each verified at all three, until they are on two; one op is one
// message.
func BenchmarkIngest(b *testing.B) {
	net, network, _, hosts := realTrio(b)
	a := replicatest.NewAuthor(b, network.ID(), time.Now)
	node := net.Host(a.Peer(), "-")
	b.Cleanup(func() { node.Shutdown() })
	n := a.Register(b, node, hosts[0].Self(), hosts[0].Addrs())
	raws := make([][]byte, b.N)
	for i := range raws {
		raws[i] = a.Message(b, 512, time.Hour)
	}
	b.ResetTimer()
	for part := range slices.Chunk(raws, 512) {
		n.Submit(2, part...)
	}
}

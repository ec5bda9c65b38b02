package obelisk

import (
	"maps"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
)

func TestProtector(t *testing.T) {
	t.Parallel()
	var told []string
	g := newProtector(func(p peer.ID, on bool) {
		if on {
			told = append(told, "+"+string(p))
		} else {
			told = append(told, "-"+string(p))
		}
	})
	g.set([]peer.ID{"a"})
	g.set([]peer.ID{"a", "b"})
	g.set([]peer.ID{"b", "b"})
	g.set(nil)
	if want := []string{"+a", "+b", "-a", "-b"}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
}

func (g *protector) peers() []peer.ID {
	g.mu.Lock()
	defer g.mu.Unlock()
	return slices.Sorted(maps.Keys(g.on))
}

// TestProtected: two pillars protect each other, and a node the two it works
// with.
func TestProtected(t *testing.T) {
	t.Parallel()
	loopback := []string{"/ip4/127.0.0.1/tcp/0"}
	one, err := OpenPillar(t.Context(), PillarConfig{Dir: filepath.Join(t.TempDir(), "one"), Listen: loopback, Memory: 16 << 20, StoreLimit: 1 << 30})
	if err != nil {
		t.Fatal(err)
	}
	defer one.Close()
	two, err := OpenPillar(t.Context(), PillarConfig{Dir: filepath.Join(t.TempDir(), "two"), Listen: loopback, Memory: 16 << 20, StoreLimit: 1 << 30,
		Join: []string{one.JoinLink()}, NetworkKey: filepath.Join(one.dir.path, fileNetKey)})
	if err != nil {
		t.Fatal(err)
	}
	defer two.Close()
	node, err := OpenNode(t.Context(), NodeConfig{Dir: filepath.Join(t.TempDir(), "node"), Listen: loopback, Join: []string{one.JoinLink()}})
	if err != nil {
		t.Fatal(err)
	}
	defer node.Close()

	peers := func(ids ...identity.PillarID) []peer.ID {
		var out []peer.ID
		for _, id := range ids {
			out = append(out, peer.ID(id))
		}
		slices.Sort(out)
		return out
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(2 * time.Minute)
	for !slices.Equal(one.protected.peers(), peers(two.ID())) || !slices.Equal(two.protected.peers(), peers(one.ID())) ||
		!slices.Equal(node.current().protected.peers(), peers(one.ID(), two.ID())) {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("one protects %v, two %v, the node %v", one.protected.peers(), two.protected.peers(), node.current().protected.peers())
		}
	}
}

func TestOrderAddrs(t *testing.T) {
	t.Parallel()
	want := []string{
		"/ip4/203.0.113.7/tcp/4001", "/ip4/203.0.113.7/udp/4001/quic-v1",
		"/ip4/192.168.1.2/tcp/4001", "/ip6/fd00::2/tcp/4001",
		"/ip4/127.0.0.1/tcp/4001", "/ip6/::1/tcp/4001",
	}
	var addrs []multiaddr.Multiaddr
	for _, s := range want {
		a, err := multiaddr.NewMultiaddr(s)
		if err != nil {
			t.Fatal(err)
		}
		addrs = append(addrs, a)
	}
	slices.Reverse(addrs)
	for i, a := range orderAddrs(addrs) {
		if a.String() != want[i] {
			t.Errorf("place %d: %s, want %s", i, a, want[i])
		}
	}
}

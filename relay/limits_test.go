package relay_test

import (
	"fmt"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/relay"
)

// admitted counts how many of n connections from addr get past a pillar's
// limits, at once.
func admitted(t *testing.T, cfg relay.Config, n int, addr func(i int) string) (in int) {
	t.Helper()
	cfg.Key, cfg.Role = newKey(t), relay.RolePillar
	m, err := relay.ResourceManager(cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	for i := range n {
		scope, err := m.OpenConnection(network.DirInbound, true, multiaddr.StringCast(addr(i)))
		if err != nil {
			continue
		}
		defer scope.Done()
		// Known to a peer, it counts as one in use, no longer as one coming in.
		if err := scope.SetPeer(newPeer(t)); err == nil {
			in++
		}
	}
	return in
}

func newPeer(t *testing.T) peer.ID {
	t.Helper()
	p, err := peer.IDFromPrivateKey(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestCrowds(t *testing.T) {
	one := func(i int) string { return fmt.Sprintf("/ip4/100.64.0.1/tcp/%d", 1024+i) }
	subnet := func(i int) string { return fmt.Sprintf("/ip4/203.0.113.%d/tcp/%d", 1+i%250, 1024+i/250) }
	for name, c := range map[string]struct {
		cfg  relay.Config
		from func(int) string
		n    int
		want int
	}{
		"500 nodes behind one address":     {relay.Config{}, one, 500, 500},
		"more than may come from one":      {relay.Config{}, one, 1500, relay.DefaultPillarPerIP},
		"an operator allows fewer":         {relay.Config{PerIP: 10}, one, 100, 10},
		"a subnet of an operator's choice": {relay.Config{PerIP: 100, PerSubnet: 150}, subnet, 500, 150},
		"a subnet by default":              {relay.Config{PerIP: 20}, subnet, 500, 80},
		"an IPv6 customer": {relay.Config{PerIP: 20, PerSubnet: 30}, func(i int) string {
			return fmt.Sprintf("/ip6/2001:db8:0:%x::1/tcp/4001", i)
		}, 100, 20},
		"an IPv6 site": {relay.Config{PerIP: 20, PerSubnet: 30}, func(i int) string {
			return fmt.Sprintf("/ip6/2001:db8:0:%x::1/tcp/4001", i<<8)
		}, 100, 30},
	} {
		if in := admitted(t, c.cfg, c.n, c.from); in != c.want {
			t.Errorf("%s: %d of %d got in, want %d", name, in, c.n, c.want)
		}
	}
}

package relay_test

import (
	"slices"
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/relay"
)

func TestDialOrder(t *testing.T) {
	const id = "12D3KooWQCkBm1BYtkHpocxCwMgR8yjitEeHGx8spzcDLGt2gkBm"
	for name, want := range map[string][]string{
		"loopback": {"/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/udp/4001/quic-v1"},
		"private":  {"/ip4/192.168.1.7/tcp/4001", "/ip4/192.168.1.7/udp/4001/quic-v1", "/ip4/192.168.1.7/tcp/4002/ws"},
		"internet": {"/ip4/1.2.3.4/udp/4001/quic-v1", "/ip4/1.2.3.4/tcp/4001"},
		"circuit last": {
			"/ip4/1.2.3.4/udp/4001/quic-v1",
			"/ip4/5.6.7.8/udp/4001/quic-v1/p2p/" + id + "/p2p-circuit",
		},
		"web last":  {"/ip4/1.2.3.4/udp/4001/quic-v1", "/ip4/1.2.3.4/tcp/4001", "/ip4/1.2.3.4/tcp/443/ws"},
		"only QUIC": {"/ip4/127.0.0.1/udp/4001/quic-v1"},
		"nothing":   {},
	} {
		var addrs []multiaddr.Multiaddr
		for _, s := range slices.Backward(want) {
			addrs = append(addrs, multiaddr.StringCast(s))
		}
		ranked := relay.RankDials(addrs)
		slices.SortStableFunc(ranked, func(a, b network.AddrDelay) int { return int(a.Delay - b.Delay) })
		got := []string{}
		for i, r := range ranked {
			got = append(got, r.Addr.String())
			if i > 0 && r.Delay == ranked[i-1].Delay {
				t.Errorf("%s: %s and %s are dialled at the same time", name, r.Addr, ranked[i-1].Addr)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
		if len(ranked) > 0 && ranked[0].Delay != 0 {
			t.Errorf("%s: first dial after %v", name, ranked[0].Delay)
		}
	}
}

func TestLoopbackPrefersTCP(t *testing.T) {
	p := listening(t, relay.Config{Role: relay.RolePillar}, quic, tcp)
	cfg := relay.Config{}
	relay.PatientDials(&cfg, true)
	c := newHost(t, cfg)
	if err := c.Connect(within(t), p.Self(), p.Addrs()); err != nil {
		t.Fatal(err)
	}
	info, _ := c.Info(p.Self())
	if _, err := info.Remote.ValueForProtocol(multiaddr.P_TCP); err != nil {
		t.Errorf("connected over %s", info.Remote)
	}
}

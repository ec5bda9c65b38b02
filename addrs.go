package obelisk

import (
	"slices"
	"strings"

	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// orderAddrs puts the addresses that a host listens on into one order for good:
// those that everybody can reach first, loopback last. The system lists them in
// any order, and where only a few fit, in a pillar's record or a link, it must
// always be the same and the useful ones.
func orderAddrs(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	out := slices.Clone(addrs)
	slices.SortFunc(out, func(a, b multiaddr.Multiaddr) int {
		if d := reach(a) - reach(b); d != 0 {
			return d
		}
		return strings.Compare(a.String(), b.String())
	})
	return out
}

func reach(a multiaddr.Multiaddr) int {
	switch {
	case manet.IsIPLoopback(a):
		return 2
	case manet.IsPrivateAddr(a) || manet.IsIP6LinkLocal(a):
		return 1
	default:
		return 0
	}
}

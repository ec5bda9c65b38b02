package relay

import (
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
)

// rankDials is libp2p's order (QUIC first, TCP 250 ms later, circuits last)
// except that WebSocket waits for 250 ms more, whatever its port: it is for
// networks that let nothing else out, and no hole can be punched from its
// sockets. And except on loopback and private networks, where TCP goes first: bandwidth is
// plentiful there, nothing is lost, no NAT has to be punched, and QUIC's work
// in user space is what costs. Both ends together on loopback, two shared cores,
// two runs each:
//
//	                          QUIC            TCP+TLS         TCP+Noise
//	64 KiB writes, CPU        3.2-4.2 ms/MB   1.0-1.4 ms/MB   1.6 ms/MB
//	700-byte writes, CPU      6.4-10.7 µs     4.2-5.4 µs      4.9-6.6 µs
//	4,300 frames/s, 5 a flush 11 % of a core  6-8 %           6-7 %
//	700-byte echo, p50        21-23 µs        21-22 µs        17-19 µs
//
// On the internet QUIC stays first, between pillars too: streams do not wait
// for each other's lost packets there, and small packets do not queue behind a
// bulk transfer in the kernel's send buffer.
func rankDials(addrs []multiaddr.Multiaddr) []network.AddrDelay {
	var tcp, local, web, rest []multiaddr.Multiaddr
	for _, a := range addrs {
		switch {
		case isWebSocket(a) && !isCircuit(a) && !manet.IsPrivateAddr(a):
			web = append(web, a)
		case isCircuit(a) || !manet.IsPrivateAddr(a):
			rest = append(rest, a)
		case isRawTCP(a):
			tcp = append(tcp, a)
		default:
			local = append(local, a)
		}
	}
	out := swarm.DefaultDialRanker(tcp)
	late := swarm.DefaultDialRanker(local)
	if len(tcp) > 0 {
		for i := range late {
			late[i].Delay += swarm.PublicTCPDelay
		}
	}
	out = append(out, late...)
	last := swarm.DefaultDialRanker(web)
	others := swarm.DefaultDialRanker(rest)
	if wait, ok := webDelay(others); ok {
		for i := range last {
			last[i].Delay += wait
		}
	}
	return append(append(out, others...), last...)
}

// webDelay is how long WebSocket waits for public addresses of other
// transports: a step after the first of the slowest.
func webDelay(others []network.AddrDelay) (wait time.Duration, ok bool) {
	var quic, tcp time.Duration
	var anyQUIC, anyTCP bool
	for _, o := range others {
		switch {
		case isCircuit(o.Addr):
		case isRawTCP(o.Addr):
			if !anyTCP || o.Delay < tcp {
				anyTCP, tcp = true, o.Delay
			}
		default:
			if !anyQUIC || o.Delay < quic {
				anyQUIC, quic = true, o.Delay
			}
		}
	}
	return max(quic, tcp) + swarm.PublicTCPDelay, anyQUIC || anyTCP
}

func isRawTCP(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_TCP)
	return err == nil && !isWebSocket(a)
}

package natlab

import (
	"fmt"
	"net/netip"
	"slices"
)

// NAT is how a gateway maps and filters, as RFC 4787 has it.
type NAT string

// Kinds of gateways.
const (
	// Cone maps independently of the destination, keeping the port, and lets in
	// only what answers: a "port-restricted cone", the usual home router.
	Cone NAT = "cone"
	// Symmetric takes a random port for every destination: address and
	// port-dependent mapping, which defeats hole punching.
	Symmetric NAT = "symmetric"
)

// Egress is what a gateway lets out.
type Egress string

// What gateways let out.
const (
	Everything Egress = "everything"
	NoUDP      Egress = "no udp"
	// WebOnly lets out nothing but TCP to port 443, as guests' networks do.
	WebOnly Egress = "web only"
)

// Gateway is a NAT and the network behind it. There is no hairpin: nobody
// behind it reaches it at its public address.
type Gateway struct {
	NAT    NAT
	Egress Egress
	Behind []string // names of the places in its network
}

// Speech is what pillars and nodes listen on, and so what can be punched.
type Speech string

// What is spoken.
const (
	SpeakAll   Speech = "all"   // QUIC and TCP, pillars also WebSocket on port 443
	SpeakPorts Speech = "ports" // QUIC and TCP at ports of their own alone
	SpeakQUIC  Speech = "quic"
	SpeakTCP   Speech = "tcp"
)

// Topology is who is where.
type Topology struct {
	Pillars  int      // public ones: pillar-1, pillar-2 …
	Closed   bool     // they take no nodes
	Public   []string // places with a public address and no gateway
	Gateways []Gateway
	Path     Path // of the internet between all of them
	Speech   Speech
}

// behind is the gateway that a place is behind, or -1.
func (t Topology) behind(place string) int {
	return slices.IndexFunc(t.Gateways, func(g Gateway) bool { return slices.Contains(g.Behind, place) })
}

// The internet of the lab. It is a range that libp2p takes for public, which
// those for documentation are not.
func pillarAddr(i int) netip.Addr  { return netip.AddrFrom4([4]byte{45, 10, byte(1 + i), 2}) }
func publicAddr(i int) netip.Addr  { return netip.AddrFrom4([4]byte{45, 10, byte(50 + i), 2}) }
func gatewayAddr(i int) netip.Addr { return netip.AddrFrom4([4]byte{45, 10, byte(100 + i), 2}) }

// movedAddr is what gateway i has after its address was changed the nth time,
// from 1.
func movedAddr(i, n int) netip.Addr {
	return netip.AddrFrom4([4]byte{45, 10, byte(100 + i), byte(2 + n)})
}

// maxMoves is how often one gateway can change its address.
const maxMoves = 250

// The private networks: 192.168.10.0/24 behind the first gateway, and so on.
func lanGateway(i int) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, byte(10 + i), 1}) }
func lanAddr(i, k int) netip.Addr {
	return netip.AddrFrom4([4]byte{192, 168, byte(10 + i), byte(10 + k)})
}

const lanBits = 24

// rules are the gateway's tables as iptables-restore reads them. Outside is its
// interface "inet", inside its bridge "lan". Whatever nobody behind it asked
// for is dropped without an answer, at the gateway itself too.
func (g Gateway) rules() string {
	masquerade := "-A POSTROUTING -o inet -j MASQUERADE"
	if g.NAT == Symmetric {
		masquerade += " --random-fully"
	}
	out := ""
	switch g.Egress {
	case NoUDP:
		out = "-A FORWARD -i lan -p udp -j DROP\n"
	case WebOnly:
		out = "-A FORWARD -i lan -p tcp --dport 443 -j ACCEPT\n-A FORWARD -i lan -j DROP\n"
	}
	return fmt.Sprintf(`*nat
%s
COMMIT
*filter
:FORWARD ACCEPT
:INPUT ACCEPT
-A INPUT -i inet -j DROP
-A FORWARD -i inet -m conntrack --ctstate ESTABLISHED,RELATED -j ACCEPT
-A FORWARD -i inet -j DROP
%sCOMMIT
`, masquerade, out)
}

// pillarListen is where a public pillar listens.
func (s Speech) pillarListen(addr netip.Addr) []string {
	quic := fmt.Sprintf("/ip4/%s/udp/4001/quic-v1", addr)
	tcp := fmt.Sprintf("/ip4/%s/tcp/4001", addr)
	switch s {
	case SpeakQUIC:
		return []string{quic}
	case SpeakTCP:
		return []string{tcp}
	case SpeakPorts:
		return []string{quic, tcp}
	default:
		return []string{quic, tcp, fmt.Sprintf("/ip4/%s/tcp/443/ws", addr)}
	}
}

// hostListen is where a node or home pillar listens, at port or, if that is 0,
// any.
func (s Speech) hostListen(port int) []string {
	quic := fmt.Sprintf("/ip4/0.0.0.0/udp/%d/quic-v1", port)
	tcp := fmt.Sprintf("/ip4/0.0.0.0/tcp/%d", port)
	switch s {
	case SpeakQUIC:
		return []string{quic}
	case SpeakTCP:
		return []string{tcp}
	default:
		return []string{quic, tcp}
	}
}

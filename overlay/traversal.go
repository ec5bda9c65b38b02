package overlay

import (
	"context"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// Traversal gets a node to other nodes' devices: by a circuit through a pillar
// at once, directly as soon as the NATs between let it. The real one is
// relay.Host, the one for tests memnet.Host; both pass linktest. Peers tells
// when a connection was upgraded, and over which path a peer is reached.
type Traversal interface {
	// DialThrough makes sure that a connection with p exists, by a circuit
	// through one of the pillars of via, tried in their order; a connection of
	// any path is enough. It returns as soon as something can be sent. From then
	// on the host tries to make the connection direct, more than once, and
	// closes the circuit some seconds after it is. ErrUnreachable if no pillar
	// of via has a circuit to p, wrapped with ErrFull if one refused for want
	// of room.
	DialThrough(ctx context.Context, p peer.ID, via []PillarAddr) error
	// Admit lets p connect to this host, by a circuit or directly, until then;
	// a time that is past ends it. Connections that exist are left alone. Who is
	// neither admitted, nor protected as a pillar, nor dialled by this host, is
	// refused before anything of the host, its addresses included, is shown.
	Admit(p peer.ID, until time.Time)
	// Vicinity says where this host is.
	Vicinity() Vicinity
	// DialNear makes a direct connection with p, which is connected by a
	// circuit and behind the same NAT, at addresses that p told. Only private
	// unicast addresses on a network that this machine is part of itself are
	// dialled, at most MaxNear, and of one peer at most every few seconds:
	// a contact must not make us scan ports.
	DialNear(ctx context.Context, p peer.ID, addrs []multiaddr.Multiaddr) error
}

// MaxNear is how many addresses of its own network a device tells another.
const MaxNear = 8

// Vicinity is where a host is, as far as it knows.
type Vicinity struct {
	// Public are the IP addresses that connected pillars see it at, in the
	// order in which they were first seen.
	Public []netip.Addr
	// Near are at most MaxNear private addresses it listens on, without /p2p.
	Near []multiaddr.Multiaddr
}

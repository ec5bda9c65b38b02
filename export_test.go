package obelisk

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
)

// Reserved reports whether the node holds a reservation at a pillar.
func (n *Node) Reserved(p PillarID) bool {
	return n.current().host.ReservedUntil(peer.ID(p)).After(time.Now())
}

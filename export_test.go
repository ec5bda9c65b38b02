package obelisk

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// Reserved reports whether the node holds a reservation at a pillar.
func (n *Node) Reserved(p PillarID) bool {
	return n.current().host.ReservedUntil(peer.ID(p)).After(time.Now())
}

// HeirOf is whom a pillar that leaves relies on.
func HeirOf(pillars []overlay.PillarStatus) (PillarID, bool) { return heirOf(pillars) }

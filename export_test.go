package obelisk

import (
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
)

// Reserved reports whether the node holds a reservation at a pillar.
func (n *Node) Reserved(p PillarID) bool {
	return n.current().host.ReservedUntil(peer.ID(p)).After(time.Now())
}

// ExportAccountQuickly is ExportAccount with a backup that costs next to nothing
// to open.
func ExportAccountQuickly(dir, passphrase string) ([]byte, error) {
	return exportAccount(dir, passphrase, 10)
}

// Silent is silent.
var Silent = silent

// HangUp drops the node's connections with a peer.
func (n *Node) HangUp(p PillarID) error { return n.current().host.Close(peer.ID(p)) }

// HangUp drops the pillar's connections with another.
func (p *Pillar) HangUp(q PillarID) error { return p.host.Close(peer.ID(q)) }

// HeirOf is whom a pillar that leaves relies on.
func HeirOf(pillars []overlay.PillarStatus) (PillarID, bool) { return heirOf(pillars) }

// HomeChoice is homeChoice.
type HomeChoice struct{ c homeChoice }

// NewHomeChoice returns the choice of a home pillar.
func NewHomeChoice(self PillarID) *HomeChoice { return &HomeChoice{newHomeReach(self).choice} }

// Update is update.
func (c *HomeChoice) Update(now time.Time, connected []PillarID, held func(PillarID) bool) {
	c.c.update(now, connected, held)
}

// Chosen are the pillars at which reservations are wanted.
func (c *HomeChoice) Chosen() (ids []PillarID) {
	for _, r := range c.c.chosen {
		ids = append(ids, r.id)
	}
	return ids
}

// Holding are those of them that granted one.
func (c *HomeChoice) Holding() []PillarID { return c.c.holding() }

// HomeNotice is homeNotice.
type HomeNotice struct{ n homeNotice }

// Offer is offer.
func (n *HomeNotice) Offer(now time.Time, addrs []multiaddr.Multiaddr) bool {
	return n.n.offer(now, addrs)
}

package gossip

import "github.com/libp2p/go-libp2p/core/peer"

// scores counts what pillars did wrong.
type scores struct{ m *Mesh }

// offend counts an offence.
func (t *scores) offend(p peer.ID, reason string) {
	t.m.met.offences.WithLabelValues(reason).Inc()
}

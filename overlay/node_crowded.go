package overlay

import (
	"errors"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// crowdedPause is how long a pillar that had no room for a node's reservation is
// not left again for that reason, nor taken in another's place. Where all are
// full the node stays where it is: messages still come, by the pillars.
const crowdedPause = 10 * time.Minute

var errCrowded = errors.New("the pillar has no room to relay for this node")

// Crowded takes note that p, with which there is a session, refuses to relay for
// this node. The session ends if there is another pillar to turn to: others get
// to a device through the pillars that it works with. It may be called often,
// and does not block.
func (n *Node) Crowded(p identity.PillarID) {
	m := n.sessions
	m.mu.Lock()
	now := time.Now()
	c := m.candidate(p)
	var s *nodeSession
	switch {
	case m.standby != nil && m.standby.pillar == p:
		s = m.standby
	case m.active != nil && m.active.pillar == p && m.standby != nil:
		s = m.active
	}
	if s == nil || now.Sub(c.crowded) < crowdedPause || now.Sub(m.swapped) < swapPause || !m.elsewhere(now) {
		m.mu.Unlock()
		return
	}
	c.crowded, m.swapped = now, now
	m.mu.Unlock()
	n.log.Info("pillar left", "pillar", p, "err", errCrowded)
	s.end(errCrowded)
}

// elsewhere reports whether there is a public pillar that the node does not work
// with and that may have room. m.mu is held.
func (m *nodeSessions) elsewhere(now time.Time) bool {
	for _, c := range m.candidates {
		if !m.serves(c) && !c.nextTry.After(now) && now.Sub(c.crowded) >= crowdedPause &&
			!m.isHome(c) && m.gone(c.id) == nil && len(m.addrsOf(c)) > 0 {
			return true
		}
	}
	return false
}

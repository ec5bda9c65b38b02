package overlay

import (
	"errors"
	"time"
)

// Nodes prefer public pillars. What goes by a home pillar takes a detour through
// a public one at first, and leans on somebody's line at home for good. So a
// home pillar is used while no public one can be had, and left when one can.

const (
	// homeDelay is how long public pillars are tried alone. After that one more
	// attempt than usual may be under way: none of many that do not answer keeps
	// the node from a home pillar that does.
	homeDelay = 2 * time.Second
	// relayedLeast is how long a session over a circuit must have lasted for its
	// end to be nobody's fault: circuits have limits.
	relayedLeast = 2 * time.Second
)

var (
	errBetter   = errors.New("a public pillar was found")
	errUpgraded = errors.New("there is a direct connection now")
)

// isHome reports whether c is a home pillar: by the roster, or, as long as that
// does not know it, because only circuits lead to it. m.mu is held.
func (m *nodeSessions) isHome(c *candidate) bool {
	if r := m.n.pillars(); r != nil {
		if e, ok := r.Lookup(c.id); ok {
			return e.Info.Home
		}
	}
	for _, a := range c.addrs {
		if !IsCircuit(a) {
			return false
		}
	}
	return true
}

func (m *nodeSessions) atHome(s *nodeSession) bool {
	return s != nil && m.isHome(m.candidate(s.pillar))
}

// wants returns how many attempts may be under way. m.mu is held.
func (m *nodeSessions) wants(now time.Time) int {
	switch {
	case m.active == nil:
		return dialsIdle + btoi(now.Sub(m.idleSince) >= homeDelay)
	case m.standby == nil || m.atHome(m.active) || m.atHome(m.standby):
		return dialsStandby
	default:
		return 0
	}
}

// preferPublic leaves home pillars out of those to try: as a standby, while there
// is a public one that did not fail lately, and without an active session for
// homeDelay only; and always, if something better than a home pillar is all that
// is wanted. It returns after what time that may change. m.mu is held.
func (m *nodeSessions) preferPublic(list []*candidate, now time.Time) ([]*candidate, time.Duration) {
	wait := backoffMax
	if m.active == nil {
		if wait = homeDelay - now.Sub(m.idleSince); wait <= 0 {
			return list, backoffMax
		}
	}
	if (m.active == nil || m.standby == nil) && !m.publicLeft() {
		return list, backoffMax
	}
	kept := list[:0]
	for _, c := range list {
		if len(c.waiters) > 0 || c.again || !m.isHome(c) {
			kept = append(kept, c)
		}
	}
	return kept, wait
}

// publicLeft reports whether a public pillar that is not used did not fail
// lately. m.mu is held.
func (m *nodeSessions) publicLeft() bool {
	for _, c := range m.candidates {
		if c.fails == 0 && !m.isHome(c) && !m.serves(c) && m.gone(c.id) == nil && len(m.addrsOf(c)) > 0 {
			return true
		}
	}
	return false
}

// serves reports whether there is a session with c. m.mu is held.
func (m *nodeSessions) serves(c *candidate) bool {
	return m.active != nil && m.active.pillar == c.id || m.standby != nil && m.standby.pillar == c.id
}

// improve uses s instead of a home pillar, if it is with a public one and there
// is a session with a home one. It ends that one and, if s is used, unlocks m.mu,
// which is held.
func (m *nodeSessions) improve(s *nodeSession) (used bool) {
	if m.atHome(s) || m.serves(m.candidate(s.pillar)) {
		return false
	}
	switch {
	case m.atHome(m.active):
		old := m.active
		m.active = nil
		m.n.log.Info("public pillar instead of one at home", "pillar", s.pillar, "before", old.pillar)
		m.n.outbox.setActive(nil)
		m.activate(s)
		old.end(errBetter)
		return true
	case m.atHome(m.standby):
		old := m.standby
		m.standby = s
		s.standBy()
		m.mu.Unlock()
		m.changed()
		m.n.log.Info("standby pillar", "pillar", s.pillar, "before", old.pillar)
		old.end(errBetter)
		return true
	default:
		return false
	}
}

// leaveCircuit ends a session that runs over a circuit although there is a direct
// connection by now: the circuit is closed soon, and what is sent takes the
// detour until then. m.mu is held.
func (m *nodeSessions) leaveCircuit(s *nodeSession) {
	if !s.relayed {
		return
	}
	if info, ok := m.n.cfg.Peers.Info(peerOf(s.pillar)); ok && info.Path == PathDirect {
		s.end(errUpgraded)
	}
}

// unplanned plans c's next attempt after its session s ended. Over a circuit
// that is at once: circuits end by the relay's limits, and sessions over them as
// soon as there is a direct connection. m.mu is held.
func (m *nodeSessions) unplanned(c *candidate, s *nodeSession) {
	if errors.Is(s.err, errSilent) || errors.Is(s.err, errNoAnswer) {
		m.missing(c, s)
		return
	}
	if s.relayed && !errors.As(s.err, new(*Error)) && time.Since(s.since) > relayedLeast || errors.Is(s.err, errUpgraded) {
		m.n.log.Debug("session over a circuit ended", "pillar", c.id, "err", s.err)
		c.fails, c.nextTry, c.again = 0, time.Time{}, true
		return
	}
	m.failed(c, s.err)
}

package overlay

import (
	"slices"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
)

// candidate is a pillar the node knows an address of, or hopes to.
type candidate struct {
	id       identity.PillarID
	addrs    []multiaddr.Multiaddr // given by hand or remembered
	hand     bool                  // given by hand: private addresses may be dialled
	fails    int
	nextTry  time.Time
	dialing  bool
	again    bool // its session ended by no fault and is opened again at once
	lastFail time.Time
	lastSeen time.Time
	refusal  error // why it was not used the last time
	rtt      time.Duration
	waiters  []chan error // AddPillar: for the next attempt
	served   []chan error // and for the one under way
}

// candidate returns the candidate with that ID, made if need be. m.mu is held,
// or the node not yet shared.
func (m *nodeSessions) candidate(p identity.PillarID) *candidate {
	c := m.candidates[p]
	if c == nil {
		c = &candidate{id: p}
		m.candidates[p] = c
	}
	return c
}

// addHand takes an address given by hand and remembers it.
func (m *nodeSessions) addHand(a PillarAddr) {
	m.mu.Lock()
	c := m.candidate(a.Pillar)
	c.hand = true
	c.nextTry = time.Time{}
	known := slices.ContainsFunc(c.addrs, a.Addr.Equal)
	if !known {
		c.addrs = append(c.addrs, a.Addr)
		if len(c.addrs) > MaxAddrs {
			c.addrs = c.addrs[1:]
		}
	}
	m.mu.Unlock()
	if !known {
		m.n.disk.lazy(Write{append(nodeKey(keyAddr, a.Pillar), a.Addr.Bytes()...), []byte{1}})
	}
	wakeUp(m.wake)
}

// gone says why p is no pillar any more, as far as the roster knows; nil if it
// may be one.
func (m *nodeSessions) gone(p identity.PillarID) *Error {
	r := m.n.pillars()
	if r == nil {
		return nil
	}
	now := m.n.now()
	switch r.Standing(p, now) {
	case StandingRevoked, StandingLeft:
		return r.NotAdmitted(p, now)
	}
	return nil
}

// addrsOf lists where c can be dialled. m.mu is held.
func (m *nodeSessions) addrsOf(c *candidate) []multiaddr.Multiaddr {
	addrs := slices.Clone(c.addrs)
	if r := m.n.pillars(); r != nil {
		for _, a := range r.DialAddrs(c.id, c.hand) {
			if !slices.ContainsFunc(addrs, a.Equal) {
				addrs = append(addrs, a)
			}
		}
	}
	return addrs
}

// addrsFor lists where p can be dialled, for whoever does not hold m.mu.
func (m *nodeSessions) addrsFor(p identity.PillarID) []multiaddr.Multiaddr {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := m.candidates[p]
	if c == nil {
		c = &candidate{id: p} // known of the roster alone
	}
	return m.addrsOf(c)
}

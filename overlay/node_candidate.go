package overlay

import (
	"errors"
	"math/rand/v2"
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
	crowded  time.Time // when it was left because it does not relay for the node
	trouble  Trouble   // why it is not used, since it worked the last time; without the plan
	// stale: its connection is dead, and has to be closed, or Connect would be
	// content with it. renewing: the attempt under way does that; it keeps no
	// other from being made.
	stale    bool
	renewing bool
	silent   bool      // it was given up for dead
	run      uint64    // and which run that was
	haste    int       // how often it lived all the same
	hasteAt  time.Time // the last time
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

// failed plans c's next attempt. m.mu is held.
func (m *nodeSessions) failed(c *candidate, err error) {
	level := m.n.log.Debug
	switch CodeOf(err) {
	case CodeWrongNetwork, CodeNotAdmitted, CodeRemovedDevice:
		level = m.n.log.Warn
		c.fails = max(c.fails, 5)
	case CodeRegistrationClosed: // until its operator allows the account, which may be any moment
		level = m.n.log.Warn
		c.fails = min(c.fails, closedFails)
	}
	if errors.Is(err, ErrCloned) {
		level = m.n.log.Error
	}
	level("pillar not used", "pillar", c.id, "err", err)
	c.trouble.Failed(err, m.n.cfg.Now())
	c.fails++
	c.lastFail = time.Now()
	c.nextTry = c.lastFail.Add(spread(min(backoffMax, backoffMin<<min(c.fails-1, 6))))
}

// missing plans c's next attempt after its session fell silent: its connection is
// closed then. The path died as likely as the pillar, so a new one may work at
// once. m.mu is held.
func (m *nodeSessions) missing(c *candidate, s *nodeSession) {
	fails := c.fails
	m.failed(c, s.err)
	c.stale = true
	if errors.Is(s.err, errSilent) {
		c.fails, c.nextTry = fails, time.Time{}
		c.silent, c.run = true, s.run
	}
}

// troubleOf says why c is not used and when it is tried next. m.mu is held.
func (m *nodeSessions) troubleOf(c *candidate) Trouble {
	t := c.trouble
	if r := m.n.pillars(); r != nil && len(c.waiters) == 0 {
		switch standing, since := r.standing(c.id, m.n.now()); standing {
		case StandingRevoked, StandingLeft: // it is not tried any more
			return standing.trouble(since)
		case StandingExpired:
			if t.Error == "" {
				t = standing.trouble(since)
			}
		}
	}
	now := time.Now()
	reachable := len(m.addrsOf(c)) > 0
	if !reachable && t.Error == "" { // so it is not tried
		t = troubleOf(&DialError{Cause: ErrNoAddress})
	}
	t.Trying = c.dialing
	if !c.dialing && reachable && (m.wants(now) > 0 || c.stale || len(c.waiters) > 0) {
		t.Planned(m.n.cfg.Now().Add(max(0, c.nextTry.Sub(now))))
	}
	return t
}

// patience returns how often the pillar of a new session was given up for dead
// and then was not: the same run of it answers. Or the path was another then,
// which does not happen every minute. nodeSessions.mu is held.
func (c *candidate) patience(s *nodeSession) int {
	now := time.Now()
	if now.Sub(c.hasteAt) > hasteLife {
		c.haste = 0
	}
	if c.silent && c.run == s.run {
		c.haste, c.hasteAt = min(c.haste+1, hasteMost), now
	}
	c.silent = false
	return c.haste
}

// jitter returns between three quarters of d and d.
func jitter(d time.Duration) time.Duration { return d - time.Duration(rand.Int64N(int64(d/4)+1)) }

// spread returns between half of d and one and a half: thousands of nodes that
// lost one pillar must not come back to it at once.
func spread(d time.Duration) time.Duration { return d/2 + time.Duration(rand.Int64N(int64(d)+1)) }

package overlay

import (
	"context"
	"errors"
	"time"

	"github.com/obelisk-network/obelisk/identity"
)

// Status describes the node.
func (n *Node) Status() NodeStatus {
	st := NodeStatus{Account: n.account(), Device: n.device(), Name: n.cfg.Name, Reachability: n.nat.reachable()}
	if id := n.network(); !id.IsZero() {
		st.Network = id.String()
	}
	m := n.sessions
	m.mu.Lock()
	if m.active != nil {
		st.Pillar = m.active.pillar.String()
		st.ClockSkewMS = m.active.skew.Milliseconds()
	}
	if m.standby != nil {
		st.Standby = m.standby.pillar.String()
	}
	st.Failovers, st.LastFailoverMS = m.failovers, m.lastTookMS
	m.mu.Unlock()
	if r := n.pillars(); r != nil {
		st.PillarsKnown = r.Living(n.now())
	}
	n.outbox.mu.Lock()
	st.Outbox = n.outbox.counts
	n.outbox.mu.Unlock()
	n.inbox.mu.Lock()
	st.Inbox = n.inbox.counts
	n.inbox.mu.Unlock()
	n.dir.mu.Lock()
	st.NodesKnown = len(n.dir.known)
	n.dir.mu.Unlock()
	return st
}

// Pillars describes every pillar the node knows, of the roster or by an
// address that was given to it.
func (n *Node) Pillars() []NodePillar {
	roster, now := n.pillars(), n.now()
	m := n.sessions
	m.mu.Lock()
	defer m.mu.Unlock()
	if roster != nil {
		for _, e := range roster.Entries() {
			m.candidate(e.Pillar)
		}
	}
	list := make([]NodePillar, 0, len(m.candidates))
	for _, c := range m.candidates {
		p := NodePillar{ID: c.id, Addrs: m.addrsOf(c), State: PillarAlive,
			Active: m.active != nil && m.active.pillar == c.id, Standby: m.standby != nil && m.standby.pillar == c.id}
		if roster != nil {
			if e, ok := roster.Lookup(c.id); ok {
				p.Name, p.Home = e.Info.Name, e.Info.Home
				switch roster.Standing(c.id, now) {
				case StandingAdmitted:
				case StandingLeft:
					p.State = PillarLeft
				default:
					p.State = PillarDead
				}
			}
		}
		if info, ok := n.cfg.Peers.Info(peerOf(c.id)); ok {
			p.Connected, p.Path, p.RTTMS = true, info.Path, float64(info.RTT)/float64(time.Millisecond)
		}
		if p.RTTMS == 0 {
			p.RTTMS = float64(c.rtt) / float64(time.Millisecond)
		}
		if !p.Active && !p.Standby {
			p.Trouble = m.troubleOf(c)
		}
		if p.State == PillarAlive && !p.Active && !p.Standby {
			switch {
			case c.trouble.ErrorCode == CodeRegistrationClosed: // it is there, for others
				p.Reason = CodeRegistrationClosed
			case c.fails > 2 || c.trouble.ErrorCode == CodeWrongNetwork:
				p.State = PillarDead
			case c.fails > 0:
				p.State = PillarSuspect
			}
		}
		if p.Active || p.Standby {
			seen := n.cfg.Now().UTC()
			p.LastSeen = &seen
		} else if !c.lastSeen.IsZero() {
			seen := c.lastSeen.UTC()
			p.LastSeen = &seen
		}
		list = append(list, p)
	}
	sortPillars(list)
	return list
}

// AddPillar makes a pillar known by hand. It is remembered, and if the node
// runs, AddPillar returns when a session with it was opened, or why none could
// be: CodeWrongNetwork, CodeNotAdmitted, ErrUnreachable …
func (n *Node) AddPillar(ctx context.Context, inv Invitation) error {
	if len(inv.Pillars) == 0 {
		return Refuse(CodeBadRequest, "no pillar is named")
	}
	if !inv.Network.IsZero() {
		if _, err := n.pin(inv.Network); err != nil {
			return err
		}
	}
	for _, p := range inv.Pillars {
		n.sessions.addHand(p)
	}
	n.mu.Lock()
	running := n.running
	n.mu.Unlock()
	if !running {
		return n.disk.flush()
	}
	var err error
	for _, p := range inv.Pillars {
		if err = n.sessions.tryNow(ctx, p.Pillar); err == nil {
			return n.disk.flush()
		}
	}
	return err
}

// errNodeStopped: asked of a Node whose Run is over.
var errNodeStopped = errors.New("the node is stopping")

// tryNow waits for the outcome of an attempt with p.
func (m *nodeSessions) tryNow(ctx context.Context, p identity.PillarID) error {
	done := make(chan error, 1)
	m.mu.Lock()
	for _, s := range []*nodeSession{m.active, m.standby} {
		if s != nil && s.pillar == p && !s.ended() {
			m.mu.Unlock()
			return nil
		}
	}
	if m.over {
		m.mu.Unlock()
		return errNodeStopped
	}
	c := m.candidate(p)
	c.waiters = append(c.waiters, done)
	c.nextTry = time.Time{}
	m.mu.Unlock()
	wakeUp(m.wake)
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// JoinLink returns a link with which others join the network through the
// pillars the node knows; "" until the network is pinned.
func (n *Node) JoinLink() string {
	network := n.network()
	if network.IsZero() {
		return ""
	}
	var addrs []PillarAddr
	for _, p := range n.Pillars() {
		if p.State == PillarLeft || p.State == PillarDead {
			continue
		}
		for _, a := range p.Addrs {
			if len(addrs) < MaxAddrs {
				addrs = append(addrs, PillarAddr{p.ID, a})
			}
		}
	}
	return JoinLink(network, addrs...)
}

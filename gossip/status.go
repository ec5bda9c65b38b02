package gossip

import (
	"bytes"
	"math"
	"slices"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// Pillars implements overlay.Mesh. A session is what counts for alive; without
// one memberlist's word makes the difference between suspect and dead.
func (m *Mesh) Pillars() []overlay.PillarStatus {
	entries := m.cfg.Roster.Entries()
	alive := m.member.alive()
	mine := m.toldHere()
	newest := m.summaries.all()
	out := make([]overlay.PillarStatus, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		if e.Pillar == m.self {
			continue
		}
		st := overlay.PillarStatus{ID: e.Pillar, Name: e.Info.Name, Home: e.Info.Home, Addrs: e.Info.Addrs,
			State: overlay.PillarDead, LastSeen: m.sessions.lastSeen(e.Pillar)}
		if info, ok := m.cfg.Peers.Info(peer.ID(e.Pillar)); ok {
			st.Connected, st.Path, st.RTT = true, info.Path, info.RTT
		}
		st.ClockSkew, st.ClockKnown = m.clocks.skew(e.Pillar)
		s := m.sessions.get(peer.ID(e.Pillar))
		switch {
		case e.Info.Left:
			st.State = overlay.PillarLeft
		case s != nil:
			st.State = overlay.PillarAlive
			if newest[e.Pillar].Full {
				st.State = overlay.PillarFull
			}
		case alive[e.Pillar]:
			st.State = overlay.PillarSuspect
		}
		if s == nil {
			st.Trouble = m.dialer.trouble(e.Pillar)
		} else {
			st.MissingHere, st.MissingThere = m.compare(mine, s)
			st.LastSeen = m.cfg.Now()
		}
		out = append(out, st)
	}
	return out
}

// SyncStatus describes replication.
func (m *Mesh) SyncStatus() overlay.SyncStatus {
	mine := m.toldHere()
	m.follows.mu.Lock()
	last := m.follows.last
	m.follows.mu.Unlock()
	st := overlay.SyncStatus{
		Logs: m.cfg.Replica.Logs(), Settled: m.summaries.all()[m.self], Missing: last.entries,
		Backlog: last.backlog, BacklogRate: m.follows.progress.rate.get(),
		Unreachable: m.unreachable(), Forks: m.forks.all(),
	}
	for _, s := range m.sessions.all() {
		peer := overlay.PeerSync{Pillar: s.id, Gaps: m.gaps(mine, s)}
		for _, g := range peer.Gaps {
			peer.Behind = sumUp(peer.Behind, g.Here)
		}
		st.Peers = append(st.Peers, peer)
	}
	m.auditStatus(&st)
	return st
}

// toldHere is what this pillar tells of the logs that live.
func (m *Mesh) toldHere() map[overlay.LogID]spans {
	all, _, _ := m.logs.told(m.now(), 0)
	mine := make(map[overlay.LogID]spans, len(all))
	for i := range all {
		mine[all[i].Log] = makeTold(all[i].Position, all[i].above).runs
	}
	return mine
}

// compare counts what a pillar tells that is missing here, and the other way
// round.
func (m *Mesh) compare(mine map[overlay.LogID]spans, s *session) (here, there uint64) {
	for _, g := range m.gaps(mine, s) {
		here, there = sumUp(here, g.Here), sumUp(there, g.There)
	}
	return here, there
}

// gaps are the logs of which a pillar tells something else than this one,
// ascending.
func (m *Mesh) gaps(mine map[overlay.LogID]spans, s *session) []overlay.LogGap {
	var gaps []overlay.LogGap
	theirs := map[overlay.LogID]spans{}
	s.eachTold(func(log overlay.LogID, t told) {
		theirs[log] = t.runs
		if _, here := mine[log]; here {
			return
		}
		if state, held := m.logs.state(log); held && dies(&state) <= m.now() || m.logs.isDead(log) {
			return
		}
		if n := t.runs.count(); n > 0 {
			gaps = append(gaps, overlay.LogGap{Log: log, Here: n})
		}
	})
	for log, runs := range mine {
		g := overlay.LogGap{Log: log, There: runs.minus(theirs[log]).count()}
		if state, held := m.logs.state(log); !(held && dies(&state) <= m.now() || m.logs.isDead(log)) {
			g.Here = theirs[log].minus(runs).count()
		}
		if g.Here > 0 || g.There > 0 {
			gaps = append(gaps, g)
		}
	}
	slices.SortFunc(gaps, func(a, b overlay.LogGap) int { return bytes.Compare(a.Log[:], b.Log[:]) })
	return gaps
}

// sumUp adds up to the largest number there is.
func sumUp(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

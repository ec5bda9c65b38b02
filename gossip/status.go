package gossip

import (
	"math"

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
		if s != nil {
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
		behind, _ := m.compare(mine, s)
		st.Peers = append(st.Peers, overlay.PeerSync{Pillar: s.id, Behind: behind})
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
	theirs := map[overlay.LogID]spans{}
	s.eachTold(func(log overlay.LogID, t told) {
		theirs[log] = t.runs
		if state, held := m.logs.state(log); held && dies(&state) <= m.now() || m.logs.isDead(log) {
			return
		}
		here = sumUp(here, t.runs.minus(mine[log]).count())
	})
	for log, runs := range mine {
		there = sumUp(there, runs.minus(theirs[log]).count())
	}
	return here, there
}

// sumUp adds up to the largest number there is.
func sumUp(a, b uint64) uint64 {
	if a > math.MaxUint64-b {
		return math.MaxUint64
	}
	return a + b
}

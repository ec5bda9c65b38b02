package gossip

import (
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// Pillars implements overlay.Mesh. A session is what counts for alive; without
// one memberlist's word makes the difference between suspect and dead.
func (m *Mesh) Pillars() []overlay.PillarStatus {
	entries := m.cfg.Roster.Entries()
	alive := m.member.alive()
	mine, _ := m.logs.vector(m.now(), 0)
	newest := m.summaries.all()
	out := make([]overlay.PillarStatus, 0, len(entries))
	for i := range entries {
		e := &entries[i]
		if e.Pillar == m.self {
			continue
		}
		st := overlay.PillarStatus{ID: e.Pillar, Name: e.Info.Name, Addrs: e.Info.Addrs,
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
			st.MissingHere, st.MissingThere = missing(mine, s.positions())
			st.LastSeen = m.cfg.Now()
		}
		out = append(out, st)
	}
	return out
}

// missing sums the differences of two vectors: what theirs has more, and mine.
// mine is in a Vector's order.
func missing(mine, theirs overlay.Vector) (here, there uint64) {
	covered := make(map[overlay.LogID]uint64, len(theirs))
	for _, p := range theirs {
		covered[p.Log] = p.Seq
		held, _ := mine.Find(p.Log)
		if p.Seq > held.Seq {
			here += p.Seq - held.Seq
		}
	}
	for _, p := range mine {
		if p.Seq > covered[p.Log] {
			there += p.Seq - covered[p.Log]
		}
	}
	return here, there
}

// SyncStatus describes replication.
func (m *Mesh) SyncStatus() overlay.SyncStatus {
	st := overlay.SyncStatus{Logs: m.cfg.Replica.Logs(), Settled: m.summaries.all()[m.self]}
	mine, _ := m.logs.vector(m.now(), 0)
	most := map[overlay.LogID]uint64{}
	for _, s := range m.sessions.all() {
		theirs := s.positions()
		here, _ := missing(mine, theirs)
		st.Peers = append(st.Peers, overlay.PeerSync{Pillar: s.id, Behind: here})
		for _, p := range theirs {
			most[p.Log] = max(most[p.Log], p.Seq)
		}
	}
	for log, seq := range most {
		if held, _ := mine.Find(log); held.Seq < seq {
			st.Missing += seq - held.Seq
		}
	}
	m.auditStatus(&st)
	return st
}

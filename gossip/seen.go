package gossip

import (
	"bytes"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of what is remembered of logs that may be longer than anybody in reach
// has them.
const (
	maxSeen        = 16384
	seenKeep       = 33 * 24 * time.Hour // no log lives longer without being told again
	maxUnreachable = 1024                // runs that are shown
)

// seen remembers the highest entry of each log that anybody was known to have:
// from signed heads, from vectors of pillars that are away now, and, as a hint,
// from summaries. What no pillar in reach holds of it is unreachable: it is
// shown, it is asked for as soon as somebody shows up who tells it, and nothing
// waits for it.
type seen struct {
	mu   sync.Mutex
	tops map[overlay.LogID]seenTop // guarded by mu
}

type seenTop struct {
	pillar identity.PillarID
	seq    uint64
	at     time.Time
}

func newSeen() *seen { return &seen{tops: map[overlay.LogID]seenTop{}} }

// note takes that entry pos.Seq of a log of p exists.
func (s *seen) note(pos overlay.Position, p identity.PillarID) {
	if pos.Log.IsZero() || p == "" || pos.Seq == 0 || pos.Seq > maxSeq {
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	old, ok := s.tops[pos.Log]
	if !ok && len(s.tops) >= maxSeen {
		for log, t := range s.tops {
			if now.Sub(t.at) > seenKeep {
				delete(s.tops, log)
			}
		}
		if len(s.tops) >= maxSeen {
			return
		}
	}
	s.tops[pos.Log] = seenTop{p, max(old.seq, pos.Seq), now}
}

// remember notes what a pillar told before its session ended.
func (m *Mesh) remember(s *session) {
	s.eachTold(func(log overlay.LogID, t told) {
		if state, ok := m.logs.state(log); ok {
			m.seen.note(overlay.Position{Log: log, Seq: t.runs.top()}, state.Pillar)
		}
	})
}

// unreachable returns the parts of logs that are neither held nor told by
// anybody in reach, and forgets logs of which nothing is left to be had.
func (m *Mesh) unreachable() (list []overlay.Unreachable) {
	for p, sum := range m.summaries.all() {
		if p != m.self {
			m.seen.note(sum.Head, p)
		}
	}
	reach := map[overlay.LogID]spans{}
	for _, s := range m.sessions.all() {
		s.eachTold(func(log overlay.LogID, t told) { reach[log] = reach[log].plus(t.runs) })
	}
	now := m.now()
	m.seen.mu.Lock()
	defer m.seen.mu.Unlock()
	for log, t := range m.seen.tops {
		state, held := m.logs.state(log)
		switch {
		case m.logs.isDead(log), held && dies(&state) <= now, time.Since(t.at) > seenKeep, t.pillar == m.self && log == m.acks.own():
			delete(m.seen.tops, log)
			continue
		}
		for _, gap := range (spans{{1, t.seq}}).minus(heldSpans(&state)).minus(reach[log]) {
			if len(list) < maxUnreachable {
				list = append(list, overlay.Unreachable{Pillar: t.pillar, Log: log, From: gap.from, To: gap.to})
			}
		}
	}
	slices.SortFunc(list, func(a, b overlay.Unreachable) int {
		if c := bytes.Compare(a.Log[:], b.Log[:]); c != 0 {
			return c
		}
		if a.From < b.From {
			return -1
		}
		return 1
	})
	return list
}

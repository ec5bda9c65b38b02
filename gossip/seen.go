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
// from signed heads, and, as hints, from vectors of pillars that are away now and
// from summaries. What no pillar in reach holds of it is unreachable: it is
// shown, it is asked for as soon as somebody shows up who tells it, and nothing
// waits for it.
//
// A log that died is told by nobody, and is not unreachable. When it does, only
// heads say. So a hint counts only while the log's pillar is away, and while the
// log is not held for dead here.
type seen struct {
	mu   sync.Mutex
	tops map[overlay.LogID]seenTop // guarded by mu
}

type seenTop struct {
	pillar identity.PillarID
	seq    uint64 // of a signed head
	dies   uint64 // of it
	hint   uint64 // as others tell
	at     time.Time
}

func newSeen() *seen { return &seen{tops: map[overlay.LogID]seenTop{}} }

// note takes that a signed head was seen.
func (s *seen) note(log overlay.LogID, h *overlay.Head) {
	s.change(log, h.Pillar, h.Seq, func(t *seenTop) { t.seq, t.dies = max(t.seq, h.Seq), max(t.dies, h.Dies) })
}

// hint takes that entry pos.Seq of a log of p is said to exist.
func (s *seen) hint(pos overlay.Position, p identity.PillarID) {
	s.change(pos.Log, p, pos.Seq, func(t *seenTop) { t.hint = max(t.hint, pos.Seq) })
}

func (s *seen) change(log overlay.LogID, p identity.PillarID, seq uint64, fn func(t *seenTop)) {
	if log.IsZero() || p == "" || seq == 0 || seq > maxSeq {
		return
	}
	now := time.Now()
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tops[log]
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
	t.pillar, t.at = p, now
	fn(&t)
	s.tops[log] = t
}

// forget takes that logs were dropped here: they died, or are followed anew.
func (s *seen) forget(logs []overlay.LogID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, log := range logs {
		delete(s.tops, log)
	}
}

// remember notes what a pillar told before its session ended.
func (m *Mesh) remember(s *session) {
	s.eachTold(func(log overlay.LogID, t told) {
		if state, ok := m.logs.state(log); ok {
			m.seen.hint(overlay.Position{Log: log, Seq: t.runs.top()}, state.Pillar)
		}
	})
}

// unreachable returns the parts of logs that are neither held nor told by
// anybody in reach, and forgets logs of which nothing is left to be had.
func (m *Mesh) unreachable() (list []overlay.Unreachable) {
	reach := map[overlay.LogID]spans{}
	here := map[identity.PillarID]bool{m.self: true}
	for _, s := range m.sessions.all() {
		here[s.id] = true
		s.eachTold(func(log overlay.LogID, t told) { reach[log] = reach[log].plus(t.runs) })
	}
	now := m.now()
	m.seen.mu.Lock()
	defer m.seen.mu.Unlock()
	for log, t := range m.seen.tops {
		state, held := m.logs.state(log)
		switch {
		case m.logs.isDead(log), held && max(dies(&state), t.dies) <= now, time.Since(t.at) > seenKeep, t.pillar == m.self && log == m.acks.own():
			delete(m.seen.tops, log)
			continue
		}
		top := uint64(0)
		if t.dies > now {
			top = t.seq
		}
		if !here[t.pillar] {
			top = max(top, t.hint)
		}
		if top == 0 {
			continue
		}
		for _, gap := range (spans{{1, top}}).minus(heldSpans(&state)).minus(reach[log]) {
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

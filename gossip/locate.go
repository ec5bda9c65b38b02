package gossip

import (
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Questions where an account's devices are travel between pillars in sessions:
// from the pillar whose node asks to every other, and no further. Each is
// answered by one Located for each device that wants to be found, or by nothing.

// Bounds of questions in one session.
const (
	// askBurst and askRate bound the questions that this pillar sends, which the
	// Pillar shares out among those who ask; who is asked twice as much counts it as
	// an offence.
	askBurst, askRate = overlay.LocateBurst, overlay.LocateRate
	// strayBurst and strayRate bound answers to questions that are over.
	strayBurst, strayRate = 1024, 64
)

// locating is a question that a pillar was asked.
type locating struct {
	asker identity.DeviceID
	each  func(overlay.Presence)
	left  int // answers that may still come; guarded by session.mu
}

// Locate implements overlay.Locator.
func (m *Mesh) Locate(q *overlay.Locate, each func(overlay.Presence)) (stop func()) {
	asker := q.Device()
	type sent struct {
		s *session
		n uint64
	}
	var asked []sent
	for _, s := range m.sessions.all() {
		if n, ok := s.locate(q, &locating{asker: asker, each: each, left: overlay.MaxDevices}); ok {
			asked = append(asked, sent{s, n})
		} else {
			m.met.unasked.Inc()
		}
	}
	return func() {
		for _, a := range asked {
			a.s.mu.Lock()
			delete(a.s.locates, a.n)
			a.s.mu.Unlock()
		}
	}
}

// locate sends a question; false if too many were, or wait to be sent.
func (s *session) locate(q *overlay.Locate, l *locating) (n uint64, ok bool) {
	s.mu.Lock()
	if s.asks.Take(time.Now(), askBurst, askRate) > 0 {
		s.mu.Unlock()
		return 0, false
	}
	s.number++
	n = s.number
	s.locates[n] = l
	s.mu.Unlock()
	on := *q
	on.N = n
	if s.post(&on) {
		return n, true
	}
	s.mu.Lock()
	delete(s.locates, n)
	s.mu.Unlock()
	return 0, false
}

// locateHere takes a question from the other side. Only the reader calls it.
func (s *session) locateHere(q *overlay.Locate) {
	if s.asked.Take(time.Now(), 2*askBurst, 2*askRate) > 0 {
		s.m.scores.offend(s.peer, faultLocate)
		return
	}
	if s.m.cfg.Devices == nil {
		return
	}
	s.m.cfg.Devices.LocateHere(s.id, q, func(p overlay.Presence) {
		// Without room the answer is lost: who asks will ask again.
		s.post(&overlay.Located{N: q.N, Presences: []overlay.Presence{p}})
	})
}

// located takes an answer. Only the reader calls it.
func (s *session) located(a *overlay.Located) {
	s.mu.Lock()
	l, never := s.locates[a.N], a.N > s.number
	if l != nil {
		l.left -= len(a.Presences)
	}
	s.mu.Unlock()
	switch {
	case never, l == nil && s.stray.Take(time.Now(), strayBurst, strayRate) > 0,
		len(a.Presences) == 0, a.More, a.Err != nil, l != nil && l.left < 0:
		s.m.scores.offend(s.peer, faultPresence)
		return
	case l == nil:
		return // too late
	}
	for i := range a.Presences {
		if a.Presences[i].Asker != l.asker {
			s.m.scores.offend(s.peer, faultPresence)
			return
		}
	}
	for i := range a.Presences {
		l.each(a.Presences[i])
	}
}

package overlay

import "time"

// A node has its mail pushed by its active pillar. If that dies without a word,
// as a killed process on QUIC does, and the node has nothing to say, it would
// not notice: so it asks the pillar that it has as its standby, which sends it
// no mail, to be nudged when mail comes. That costs nothing while nothing comes,
// and little while much does.
const (
	// nudgeEvery is how often a session is nudged at most, but for one that
	// makes up for those left out.
	nudgeEvery = time.Second
	// nudgeFresh is how old a record may be: what a pillar gets that catches up
	// was delivered by others long ago.
	nudgeFresh = time.Minute
)

// askNudges takes a node's wish to be nudged on this session.
func (s *pillarSession) askNudges() {
	s.mu.Lock()
	s.mail.nudge = true
	s.mu.Unlock()
}

// nudge queues a Nudge for a record of the session's mailbox, if the session is
// a node's standby, and reports whether the writer is to be woken. p.mu is held.
func (s *pillarSession) nudge(created uint64) bool {
	p := s.p
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.standbyLocked() {
		return false
	}
	now := p.now()
	if created+uint64(nudgeFresh.Milliseconds()) < now {
		return false
	}
	if last := s.nudged; now >= last && now-last < uint64(nudgeEvery.Milliseconds()) {
		p.nudges[s] = struct{}{}
		return false
	}
	s.nudgeLocked(now)
	return true
}

// standbyLocked reports whether the node wants to be nudged on the session.
// s.mu is held.
func (s *pillarSession) standbyLocked() bool { return s.mail.nudge && !s.dead && !s.closing }

func (s *pillarSession) nudgeLocked(now uint64) {
	s.nudged = now
	s.sendLocked(&Nudge{})
	s.p.metrics.nudges.Inc()
}

// nudgeLate makes up for the nudges that were left out.
func (p *Pillar) nudgeLate() {
	var late map[*pillarSession]struct{}
	p.mu.Lock()
	if len(p.nudges) > 0 {
		late, p.nudges = p.nudges, map[*pillarSession]struct{}{}
	}
	p.mu.Unlock()
	for s := range late {
		s.mu.Lock()
		if s.standbyLocked() {
			s.nudgeLocked(p.now())
		}
		s.mu.Unlock()
		s.wakeWriter()
	}
}

package gossip

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/obelisk-network/obelisk/overlay"
)

// vectorChunk bounds the logs, and the islands, of one Vector message, so that
// the largest fits a frame.
const vectorChunk = 6 << 10

// shortProof is how many links a proof of a fork may have to be told at the start
// of every session: 64 of one pillar take some 300 KB then.
const shortProof = 96

// tellVector tells what changed since a version: everything at first, and when
// something holds less than before. It returns the version that was told.
func (s *session) tellVector(since uint64) (uint64, error) {
	all, whole, version := s.m.logs.told(s.m.now(), since)
	if len(all) == 0 && !whole {
		return version, nil
	}
	// Their own logs first: a message that tells everything anew takes back what
	// is not in it, and what they count as acknowledged must not flicker.
	slices.SortStableFunc(all, func(a, b toldLog) int { return cmp.Compare(s.ofOther(&a), s.ofOther(&b)) })
	for first := true; first || len(all) > 0; first = false {
		msg := &overlay.VectorMsg{Full: first && whole}
		n := 0
		for n < len(all) && n < vectorChunk && len(msg.Islands)+len(all[n].above) <= vectorChunk {
			msg.Positions = append(msg.Positions, all[n].Position)
			msg.Islands = append(msg.Islands, all[n].above...)
			n++
		}
		all = all[n:]
		msg.Positions.Sort()
		if err := s.writeMessage(msg); err != nil {
			return version, err
		}
	}
	return version, nil
}

// ofOther is 0 for a log of the session's pillar, else 1.
func (s *session) ofOther(l *toldLog) int {
	if l.pillar == s.id {
		return 0
	}
	return 1
}

// takeVector notes what the other side holds.
func (s *session) takeVector(msg *overlay.VectorMsg) error {
	above := map[overlay.LogID][]overlay.Span{}
	for _, i := range msg.Islands {
		runs := above[i.Log]
		if i.From == 0 || i.To < i.From || i.To > maxSeq || len(runs) > 0 && i.From <= runs[len(runs)-1].To || len(runs) >= overlay.MaxIslands {
			return fmt.Errorf("%w: entries %d to %d of log %s", overlay.ErrFrame, i.From, i.To, i.Log)
		}
		above[i.Log] = append(runs, i)
	}
	m := s.m
	own := m.acks.own()
	counted := false
	s.mu.Lock()
	if msg.Full {
		clear(s.vector)
	}
	for _, p := range msg.Positions {
		runs := above[p.Log]
		if p.Seq > maxSeq || len(runs) > 0 && runs[0].From <= p.Seq {
			s.mu.Unlock()
			return fmt.Errorf("%w: entries to %d of log %s", overlay.ErrFrame, p.Seq, p.Log)
		}
		if p.Seq == 0 && len(runs) == 0 {
			delete(s.vector, p.Log)
			continue
		}
		s.vector[p.Log] = makeTold(p, runs)
	}
	n, mine := len(s.vector), s.vector[own]
	s.mu.Unlock()
	if n > overlay.MaxVector {
		return fmt.Errorf("%w: a vector of %d logs", overlay.ErrFrame, n)
	}
	for _, p := range msg.Positions {
		if m.logs.isDead(p.Log) {
			s.contradictFork(p.Log)
		}
		m.doubts.told(s, p)
		counted = counted || p.Log == own
	}
	if msg.Full || counted {
		if hash, known, _ := m.logs.hashAt(own, mine.pos.Seq); mine.pos.Seq > 0 && known && hash != mine.pos.Hash {
			mine = told{} // another history than ours is no copy of it
		}
		m.acks.state(s.id, own, mine.runs, msg.Full)
	}
	m.follows.poke()
	return nil
}

// told returns what the other side says it holds of a log.
func (s *session) told(log overlay.LogID) told {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.vector[log]
}

// eachTold calls fn with all that the other side says it holds.
func (s *session) eachTold(fn func(overlay.LogID, told)) {
	s.mu.Lock()
	all := make([]told, 0, len(s.vector))
	for _, t := range s.vector {
		all = append(all, t)
	}
	s.mu.Unlock()
	for _, t := range all {
		fn(t.pos.Log, t)
	}
}

// tellForks tells every log that is known to be forked. Long proofs, of which a
// forking pillar may make 22 MB, are told a pillar once, and again only if it holds
// the log all the same.
func (s *session) tellForks() error {
	s.mu.Lock()
	s.untold = false
	s.mu.Unlock()
	for _, f := range s.m.forks.all() {
		if len(f.Proof.Links) > shortProof && !s.m.forks.tellOnce(s.peer, f.Log) && !s.owedProof(f.Log) {
			continue
		}
		if err := s.writeMessage(f.Proof); err != nil {
			s.m.forks.untell(s.peer, f.Log)
			return err
		}
	}
	return nil
}

// contradictFork tells who holds a log that it was forked, once a session.
func (s *session) contradictFork(log overlay.LogID) {
	proof := s.m.forks.proof(log)
	if proof == nil {
		return
	}
	s.mu.Lock()
	_, said := s.forked[log]
	s.mu.Unlock()
	if said {
		return
	}
	owed := !s.post(proof)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.forked[log] = owed
	s.untold = s.untold || owed
}

// owedProof reports whether the other side holds a forked log and could not be
// told so, and takes it for told.
func (s *session) owedProof(log overlay.LogID) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.forked[log] {
		return false
	}
	s.forked[log] = false
	return true
}

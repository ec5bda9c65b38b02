package store

import "github.com/obelisk-network/obelisk/overlay"

// Clone returns a store of its own with what m holds now: a copy of its disk.
// It costs no more than a view, and does not carry over that m failed or was
// closed.
func (m *Memory) Clone() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.shared = nil
	s := m.now
	s.byID, s.byDay = m.now.byID.Clone(), m.now.byDay.Clone()
	s.boxes, s.logs, s.values = m.now.boxes.Clone(), m.now.logs.Clone(), m.now.values.Clone()
	return &Memory{seen: make(map[overlay.RecordID]struct{}), now: s}
}

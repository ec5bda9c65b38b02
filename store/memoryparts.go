package store

import (
	"bytes"

	"github.com/obelisk-network/obelisk/overlay"
)

// repair does what a scrub asks for. In memory nothing gets lost by itself: it is
// where somebody removes it by these means.
func (s *memoryState) repair(c *overlay.Commit, done *overlay.Committed) {
	if len(c.Forget)+len(c.Unfile) > 0 {
		done.Forgotten = make([]bool, len(c.Forget))
	}
	for i, f := range c.Forget {
		r, ok := s.get(overlay.Ref{ID: f.ID, Day: f.Day})
		if !ok || r.Local != f.Local {
			continue
		}
		done.Forgotten[i] = true
		s.remove(r)
	}
	for _, x := range c.Unfile {
		p, ok := s.boxes.Get(memoryPlace{box: x.Box, local: x.Local})
		if !ok || p.day != x.Day {
			continue
		}
		s.boxes.Delete(p)
		if r, ok := s.get(overlay.Ref{ID: p.id}); ok && r.Local == p.local && r.boxes[0] == p.box {
			next := *r
			next.Raw = nil
			s.bytes -= uint64(len(r.Raw))
			s.byID.ReplaceOrInsert(&next)
			s.byDay.ReplaceOrInsert(&next)
		}
	}
}

// remove removes a record and its box entries.
func (s *memoryState) remove(r *memoryRecord) {
	s.byID.Delete(r)
	s.byDay.Delete(r)
	for _, box := range r.boxes {
		s.boxes.Delete(memoryPlace{box: box, local: r.Local})
	}
	s.bytes -= uint64(len(r.Raw))
}

// Parts implements overlay.View.
func (v *memoryView) Parts() overlay.Parts { return memoryParts{v} }

// memoryParts shows a memoryView as if it had columns.
type memoryParts struct{ v *memoryView }

// Days implements overlay.Parts.
func (p memoryParts) Days() (days []overlay.Day, err error) {
	if err := p.v.ready(); err != nil {
		return nil, err
	}
	p.v.s.byDay.Ascend(func(r *memoryRecord) bool {
		if n := len(days); n == 0 || days[n-1] != r.day {
			days = append(days, r.day)
		}
		return true
	})
	return days, nil
}

// Heads implements overlay.Parts.
func (p memoryParts) Heads(day overlay.Day, after overlay.RecordID, fn func(r overlay.StoredRecord) bool) error {
	if err := p.v.ready(); err != nil {
		return err
	}
	probe := &memoryRecord{day: day, StoredRecord: overlay.StoredRecord{ID: after}}
	p.v.s.byDay.AscendGreaterOrEqual(probe, func(r *memoryRecord) bool {
		bare := r.StoredRecord
		bare.Raw = nil
		return r.day == day && (r.ID == after || fn(bare))
	})
	return nil
}

// Places implements overlay.Parts.
func (p memoryParts) Places(day overlay.Day, after overlay.Place, fn func(p overlay.Place, e overlay.BoxEntry) bool) error {
	if err := p.v.ready(); err != nil {
		return err
	}
	probe := memoryPlace{box: after.Box, local: after.Local}
	p.v.s.boxes.AscendGreaterOrEqual(probe, func(x memoryPlace) bool {
		at := overlay.Place{Day: x.day, Box: x.box, Local: x.local}
		if x.day != day || at == after {
			return true
		}
		e := overlay.BoxEntry{Local: x.local, ID: x.id}
		if r, ok := p.v.s.get(overlay.Ref{ID: x.id}); ok {
			e.Created, e.Expires, e.Dot = r.Created, r.Expires, r.first
			if r.boxes[0] == x.box {
				e.Raw = r.Raw
			}
		}
		return fn(at, e)
	})
	return nil
}

// Bodies implements overlay.Parts.
func (p memoryParts) Bodies(day overlay.Day, after overlay.RecordID, fn func(id overlay.RecordID, raw []byte) bool) error {
	if err := p.v.ready(); err != nil {
		return err
	}
	p.v.s.byDay.AscendGreaterOrEqual(&memoryRecord{day: day}, func(r *memoryRecord) bool {
		if r.day != day || len(r.boxes) > 0 || bytes.Compare(r.ID[:], after[:]) <= 0 {
			return r.day == day
		}
		return fn(r.ID, r.Raw)
	})
	return nil
}

// Locals implements overlay.Parts.
func (p memoryParts) Locals(refs []overlay.Ref) ([]uint64, error) {
	if err := p.v.ready(); err != nil {
		return nil, err
	}
	locals := make([]uint64, len(refs))
	for i := range refs {
		if r, ok := p.v.s.get(refs[i]); ok {
			locals[i] = r.Local
		}
	}
	return locals, nil
}

// Filed implements overlay.Parts.
func (p memoryParts) Filed(places []overlay.Place) ([]bool, error) {
	if err := p.v.ready(); err != nil {
		return nil, err
	}
	filed := make([]bool, len(places))
	for i, x := range places {
		at, ok := p.v.s.boxes.Get(memoryPlace{box: x.Box, local: x.Local})
		filed[i] = ok && at.day == x.Day
	}
	return filed, nil
}

// Logs implements overlay.Parts.
func (p memoryParts) Logs(fn func(log overlay.LogID) bool) error {
	if err := p.v.ready(); err != nil {
		return err
	}
	var last overlay.LogID
	first := true
	p.v.s.logs.Ascend(func(e memoryEntry) bool {
		if !first && e.log == last {
			return true
		}
		first, last = false, e.log
		return fn(e.log)
	})
	return nil
}

package store

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/btree"

	"github.com/obelisk-network/obelisk/overlay"
)

// Memory is a pillar's store that is gone with the process: the twin of Pebble
// for tests and simulations. It does no I/O, starts no goroutine and asks no
// clock, so it may be used inside a synctest bubble. It implements
// overlay.Store.
type Memory struct {
	mu     sync.Mutex
	now    memoryState // what commits change
	shared *memoryState
	seen   map[overlay.RecordID]struct{}
	failed error
	closed bool
}

// memoryState is everything stored. Trees are copied on write, so that a copy
// of a state costs nothing and stays as it is.
type memoryState struct {
	local  uint64
	bytes  uint64
	byID   *btree.BTreeG[*memoryRecord]
	byDay  *btree.BTreeG[*memoryRecord]
	boxes  *btree.BTreeG[memoryPlace]
	logs   *btree.BTreeG[memoryEntry]
	values *btree.BTreeG[memoryValue]
}

// memoryRecord is never changed once it is in a tree.
type memoryRecord struct {
	overlay.StoredRecord
	day   overlay.Day
	boxes []overlay.BoxID
	first overlay.Dot // zero if it came by no log
}

type memoryPlace struct {
	box   overlay.BoxID
	local uint64
	day   overlay.Day
	id    overlay.RecordID
}

type memoryEntry struct {
	log overlay.LogID
	seq uint64
	overlay.LogEntry
}

type memoryValue struct {
	key  string
	data []byte
}

const memoryDegree = 16

// NewMemory returns an empty store.
func NewMemory() *Memory {
	return &Memory{
		seen: make(map[overlay.RecordID]struct{}),
		now: memoryState{
			byID: btree.NewG(memoryDegree, func(a, b *memoryRecord) bool { return bytes.Compare(a.ID[:], b.ID[:]) < 0 }),
			byDay: btree.NewG(memoryDegree, func(a, b *memoryRecord) bool {
				return cmp.Or(cmp.Compare(a.day, b.day), bytes.Compare(a.ID[:], b.ID[:])) < 0
			}),
			boxes: btree.NewG(memoryDegree, func(a, b memoryPlace) bool {
				return cmp.Or(bytes.Compare(a.box[:], b.box[:]), cmp.Compare(a.local, b.local)) < 0
			}),
			logs: btree.NewG(memoryDegree, func(a, b memoryEntry) bool {
				return cmp.Or(bytes.Compare(a.log[:], b.log[:]), cmp.Compare(a.seq, b.seq)) < 0
			}),
			values: btree.NewG(memoryDegree, func(a, b memoryValue) bool { return a.key < b.key }),
		},
	}
}

// Fail makes every later Commit and Drop fail with cause, as a disk would.
func (m *Memory) Fail(cause error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.failed == nil {
		m.failed = fmt.Errorf("%w: %w", overlay.ErrStoreFailed, cause)
	}
}

// ready says whether m takes commits. m.mu is held.
func (m *Memory) ready() error {
	if m.closed {
		return overlay.ErrStoreClosed
	}
	return m.failed
}

// Commit implements overlay.Store.
func (m *Memory) Commit(c *overlay.Commit) (overlay.Committed, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := checkCommit(c, &m.seen); err != nil {
		return overlay.Committed{}, err
	}
	if err := m.ready(); err != nil {
		return overlay.Committed{}, fmt.Errorf("commit: %w", err)
	}
	m.shared = nil
	s := &m.now
	done := overlay.Committed{Local: make([]uint64, len(c.Records)), New: make([]bool, len(c.Records))}
	s.repair(c, &done)
	received := time.UnixMilli(max(c.Time.UnixMilli(), 0)).UTC()
	for i := range c.Records {
		var again bool
		if done.Local[i], done.New[i], again = s.add(&c.Records[i], received); again {
			done.Again = append(done.Again, i)
		}
	}
	for _, log := range c.DropLog {
		for _, e := range s.log(log, 0) {
			s.logs.Delete(e)
		}
	}
	for _, cut := range c.CutLog {
		for _, e := range s.log(cut.Log, cut.From) {
			if e.seq <= cut.To {
				s.logs.Delete(e)
			}
		}
	}
	for _, l := range c.Logs {
		for j, e := range l.Entries {
			s.logs.ReplaceOrInsert(memoryEntry{l.Log, l.From + uint64(j), e})
		}
	}
	for _, v := range c.Values {
		if v.Data == nil {
			s.values.Delete(memoryValue{key: v.Key})
		} else {
			s.values.ReplaceOrInsert(memoryValue{v.Key, bytes.Clone(v.Data)})
		}
	}
	return done, nil
}

// add files a record, or adds its dot if it is known.
func (s *memoryState) add(a *overlay.Arrival, received time.Time) (local uint64, isNew, again bool) {
	known, ok := s.get(overlay.Ref{ID: a.ID})
	if again = ok && known.Raw == nil && a.Raw != nil; again {
		s.remove(known)
	} else if ok {
		if a.Dot != (overlay.Dot{}) && len(known.Dots) < overlay.MaxDots && !slices.Contains(known.Dots, a.Dot) {
			next := *known
			next.Dots = append(slices.Clone(known.Dots), a.Dot)
			s.byID.ReplaceOrInsert(&next)
			s.byDay.ReplaceOrInsert(&next)
		}
		return known.Local, false, false
	}
	if a.Raw == nil {
		return 0, false, false
	}
	s.local++
	r := &memoryRecord{
		StoredRecord: overlay.StoredRecord{
			ID: a.ID, Local: s.local, Created: a.Created, Expires: a.Expires,
			Received: received, Via: a.Via, Raw: append([]byte{}, a.Raw...),
		},
		day:   overlay.DayOf(a.Expires),
		boxes: slices.Clone(a.Boxes),
		first: a.Dot,
	}
	if a.Dot != (overlay.Dot{}) {
		r.Dots = []overlay.Dot{a.Dot}
	}
	s.byID.ReplaceOrInsert(r)
	s.byDay.ReplaceOrInsert(r)
	for _, box := range a.Boxes {
		s.boxes.ReplaceOrInsert(memoryPlace{box, s.local, r.day, a.ID})
	}
	s.bytes += uint64(len(a.Raw))
	return s.local, true, again
}

// log returns the entries of log from sequence from on.
func (s *memoryState) log(log overlay.LogID, from uint64) (es []memoryEntry) {
	s.logs.AscendGreaterOrEqual(memoryEntry{log: log, seq: from}, func(e memoryEntry) bool {
		if e.log == log {
			es = append(es, e)
		}
		return e.log == log
	})
	return es
}

// Drop implements overlay.Store. Here the cost does depend on how many there
// are.
func (m *Memory) Drop(before overlay.Day) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := m.ready(); err != nil {
		return err
	}
	m.shared = nil
	var old []*memoryRecord
	m.now.byDay.Ascend(func(r *memoryRecord) bool {
		if r.day < before {
			old = append(old, r)
		}
		return r.day < before
	})
	for _, r := range old {
		m.now.remove(r)
	}
	return nil
}

// Mend implements overlay.Store: memory is never damaged.
func (m *Memory) Mend() (int, error) { return 0, nil }

// Stats implements overlay.Store. Bytes is what the records' bytes take.
func (m *Memory) Stats() overlay.StoreStats {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := overlay.StoreStats{
		Records: uint64(m.now.byID.Len()), Bytes: m.now.bytes, LastLocal: m.now.local, Failed: m.failed,
	}
	if m.closed {
		s = overlay.StoreStats{Failed: overlay.ErrStoreClosed}
	}
	return s
}

// View implements overlay.Store.
func (m *Memory) View() overlay.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return &memoryView{m: m}
	}
	if m.shared == nil {
		s := m.now
		s.byID, s.byDay = m.now.byID.Clone(), m.now.byDay.Clone()
		s.boxes, s.logs, s.values = m.now.boxes.Clone(), m.now.logs.Clone(), m.now.values.Clone()
		m.shared = &s
	}
	return &memoryView{m: m, s: m.shared}
}

// Close implements overlay.Store.
func (m *Memory) Close() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	return nil
}

// memoryView is a snapshot of a Memory.
type memoryView struct {
	m *Memory
	s *memoryState // nil after Close, or if the store was closed before
}

// ready says whether v can be read.
func (v *memoryView) ready() error {
	v.m.mu.Lock()
	defer v.m.mu.Unlock()
	if v.s == nil || v.m.closed {
		return overlay.ErrStoreClosed
	}
	return nil
}

// Close implements overlay.View.
func (v *memoryView) Close() error {
	v.s = nil
	return nil
}

// LastLocal implements overlay.View.
func (v *memoryView) LastLocal() uint64 {
	if v.s == nil {
		return 0
	}
	return v.s.local
}

// Get implements overlay.View.
func (v *memoryView) Get(refs []overlay.Ref, fn func(i int, r overlay.StoredRecord) bool) error {
	if err := v.ready(); err != nil {
		return err
	}
	for i, ref := range refs {
		r, ok := v.s.get(ref)
		if ok && r.Raw != nil && !fn(i, r.StoredRecord) {
			break
		}
	}
	return nil
}

func (s *memoryState) get(ref overlay.Ref) (*memoryRecord, bool) {
	r, ok := s.byID.Get(&memoryRecord{StoredRecord: overlay.StoredRecord{ID: ref.ID}})
	return r, ok && (ref.Day == 0 || ref.Day == r.day)
}

// Has implements overlay.View.
func (v *memoryView) Has(refs []overlay.Ref) ([]bool, error) {
	if err := v.ready(); err != nil {
		return nil, err
	}
	has := make([]bool, len(refs))
	for i := range refs {
		_, has[i] = v.s.get(refs[i])
	}
	return has, nil
}

// Log implements overlay.View.
func (v *memoryView) Log(log overlay.LogID, from uint64, fn func(seq uint64, e overlay.LogEntry) bool) error {
	if err := v.ready(); err != nil {
		return err
	}
	v.s.logs.AscendGreaterOrEqual(memoryEntry{log: log, seq: from}, func(e memoryEntry) bool {
		return e.log == log && fn(e.seq, e.LogEntry)
	})
	return nil
}

// Box implements overlay.View.
func (v *memoryView) Box(box overlay.BoxID, after, to uint64, minDay overlay.Day, bodies bool, fn func(r overlay.BoxEntry) bool) error {
	if err := v.ready(); err != nil {
		return err
	}
	if after >= to {
		return nil
	}
	var err error
	v.s.boxes.AscendGreaterOrEqual(memoryPlace{box: box, local: after + 1}, func(p memoryPlace) bool {
		if p.box != box || p.local > to {
			return false
		}
		if p.day < minDay {
			return true
		}
		r, ok := v.s.get(overlay.Ref{ID: p.id})
		if !ok {
			err = errors.New("store: a box entry without its record")
			return false
		}
		e := overlay.BoxEntry{Local: p.local, ID: p.id, Created: r.Created, Expires: r.Expires, Dot: r.first}
		if bodies {
			if e.Raw = r.Raw; e.Raw == nil {
				return true
			}
		}
		return fn(e)
	})
	return err
}

// Records implements overlay.View.
func (v *memoryView) Records(minDay overlay.Day, fn func(day overlay.Day, r overlay.StoredRecord) bool) error {
	if err := v.ready(); err != nil {
		return err
	}
	v.s.byDay.AscendGreaterOrEqual(&memoryRecord{day: minDay}, func(r *memoryRecord) bool {
		bare := r.StoredRecord
		bare.Raw = nil
		return fn(r.day, bare)
	})
	return nil
}

// Near implements overlay.View.
func (v *memoryView) Near(day overlay.Day, prefix []byte, fn func(r overlay.StoredRecord) bool) error {
	if err := v.ready(); err != nil {
		return err
	}
	probe := &memoryRecord{day: day}
	copy(probe.ID[:], prefix)
	v.s.byDay.AscendGreaterOrEqual(probe, func(r *memoryRecord) bool {
		bare := r.StoredRecord
		bare.Raw = nil
		return r.day == day && bytes.HasPrefix(r.ID[:], prefix) && fn(bare)
	})
	return nil
}

// Values implements overlay.View.
func (v *memoryView) Values(prefix string, fn func(key string, data []byte) bool) error {
	if err := v.ready(); err != nil {
		return err
	}
	v.s.values.AscendGreaterOrEqual(memoryValue{key: prefix}, func(val memoryValue) bool {
		return len(val.key) >= len(prefix) && val.key[:len(prefix)] == prefix && fn(val.key, val.data)
	})
	return nil
}

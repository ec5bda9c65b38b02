// Package replicatest holds what tests of replication share: Memory, the
// smallest pillar that gossip can replicate for, makers of valid records and
// logs, and the conformance suite that every Replica passes.
package replicatest

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Memory implements gossip's Replica, Records and Notes in memory. Its disk
// survives Reopen, its process state does not. What it says of logs is in
// memory_log.go.
type Memory struct {
	Key *identity.PillarKey
	Now func() time.Time
	// Trusting leaves signatures unchecked, so that benchmarks measure gossip.
	Trusting bool

	network  identity.NetworkID
	verifier *overlay.Verifier

	commit sync.Mutex // held over a whole commit, so that Committed comes in order

	mu      sync.Mutex
	mesh    overlay.Mesh
	own     overlay.LogID
	logs    map[overlay.LogID]*memoryLog
	records map[overlay.RecordID]*overlay.Record
	sorted  []*overlay.Record              // records by ID; nil when they changed
	arrived map[overlay.RecordID]time.Time // where it is not when it was created
	notes   map[string][]byte
	durable map[overlay.LogID][]overlay.Durable
	refuse  error         // what Apply returns
	changed chan struct{} // closed at the next change
}

// NewMemory returns an empty one of the network.
func NewMemory(network identity.NetworkID, key *identity.PillarKey) *Memory {
	return &Memory{Key: key, Now: time.Now, network: network, verifier: overlay.NewVerifier(network),
		mesh: overlay.NoMesh{},
		logs: map[overlay.LogID]*memoryLog{}, records: map[overlay.RecordID]*overlay.Record{}, arrived: map[overlay.RecordID]time.Time{},
		notes: map[string][]byte{}, durable: map[overlay.LogID][]overlay.Durable{}, changed: make(chan struct{})}
}

// Reopen returns a new run over what was durable.
func (m *Memory) Reopen() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := NewMemory(m.network, m.Key)
	n.Now, n.Trusting = m.Now, m.Trusting
	for id, l := range m.logs {
		n.logs[id] = l.clone()
	}
	n.records, n.notes = maps.Clone(m.records), maps.Clone(m.notes)
	return n
}

// SetMesh sets who is told of commits.
func (m *Memory) SetMesh(mesh overlay.Mesh) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.mesh = mesh
}

// Refuse makes Apply fail with err; nil ends that.
func (m *Memory) Refuse(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.refuse = err
}

// Keep has a record that came by no log.
func (m *Memory) Keep(rec *overlay.Record) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.records[rec.ID], m.sorted = rec, nil
}

// SetReceived sets when a record counts as received; else it is when it was
// created.
func (m *Memory) SetReceived(id overlay.RecordID, at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.arrived[id] = at
}

// received is when a record came. m.mu is held.
func (m *Memory) received(r *overlay.Record) time.Time {
	if at, ok := m.arrived[r.ID]; ok {
		return at
	}
	return time.UnixMilli(int64(r.Created))
}

// Erase has records vanish and tells nobody, as if deleted by hand.
func (m *Memory) Erase(ids ...overlay.RecordID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, id := range ids {
		delete(m.records, id)
	}
	m.sorted = nil
}

// Submit appends records to the own log as one commit and returns its end.
func (m *Memory) Submit(raws ...[]byte) overlay.Position {
	m.commit.Lock()
	defer m.commit.Unlock()
	m.mu.Lock()
	if m.own.IsZero() {
		var nonce [overlay.LogNonceLen]byte
		rand.Read(nonce[:])
		m.own = overlay.MakeLogID(m.network, m.Key.ID(), nonce)
		m.logs[m.own] = newMemoryLog(m.own, m.Key.ID(), nonce)
	}
	l := m.logs[m.own]
	run := overlay.LogRun{From: l.state.Seq + 1, Before: l.state.Hash, Entries: make([]overlay.BatchEntry, len(raws))}
	for i, raw := range raws {
		run.Entries[i].Raw = raw
	}
	event, err := m.takeRun(l, &run)
	if err != nil {
		m.mu.Unlock()
		panic(err) // the own log is continued at its end
	}
	position := l.state.Position
	for i := range event.Logs {
		notes, err := m.mesh.Notes(&event.Logs[i])
		if err != nil {
			panic(err)
		}
		m.save(notes)
	}
	m.tell(event)
	return position
}

// tell makes a commit known. m.commit and m.mu are held; it releases m.mu.
func (m *Memory) tell(event *overlay.CommitEvent) {
	for i := range event.Logs {
		event.Logs[i].Own = event.Logs[i].State.Log == m.own
	}
	mesh := m.mesh
	close(m.changed)
	m.changed = make(chan struct{})
	m.mu.Unlock()
	if len(event.Logs)+len(event.New)+len(event.Gone)+len(event.Dropped) > 0 {
		mesh.Committed(event)
	}
}

// Logs implements gossip.Replica.
func (m *Memory) Logs() []overlay.LogState {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []overlay.LogState
	for _, l := range m.logs {
		l.expire(uint64(m.Now().UnixMilli()))
		all = append(all, l.published())
	}
	return all
}

// Apply implements gossip.Replica.
func (m *Memory) Apply(ctx context.Context, run overlay.LogRun) (overlay.LogState, error) {
	m.commit.Lock()
	defer m.commit.Unlock()
	if err := ctx.Err(); err != nil {
		return overlay.LogState{}, err
	}
	var notes []overlay.Value
	if run.Notes != nil {
		var err error
		if notes, err = run.Notes(); err != nil {
			return overlay.LogState{}, err
		}
	}
	m.mu.Lock()
	if err := m.refuse; err != nil {
		defer m.mu.Unlock()
		return overlay.LogState{}, err
	}
	if run.State.Log == m.own || run.From == 0 {
		defer m.mu.Unlock()
		return overlay.LogState{}, fmt.Errorf("log %s is written here, or a run from entry 0", run.State.Log)
	}
	l := m.logs[run.State.Log]
	if l == nil {
		l = newMemoryLog(run.State.Log, run.State.Pillar, run.State.Nonce)
	}
	event, err := m.takeRun(l, &run)
	if err != nil {
		defer m.mu.Unlock()
		return overlay.LogState{}, err
	}
	m.save(notes)
	if len(l.parts) > 1 || l.state.Seq > 0 {
		m.logs[run.State.Log] = l
	}
	state := l.published()
	m.tell(event)
	return state, nil
}

// Read implements gossip.Replica.
func (m *Memory) Read(log overlay.LogID, from uint64, limit int) ([]overlay.BatchEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.logs[log]
	if l == nil || from == 0 {
		return nil, nil
	}
	out := l.read(from, limit)
	for i := range out {
		// A record that came later than its entry.
		if e := &out[i]; e.Raw == nil && e.Why != overlay.WhyGone && e.Why != overlay.WhyVoid {
			if rec := m.records[e.ID]; rec != nil {
				e.Raw, e.Why = rec.Raw, overlay.WhyNone
			} else if e.Why == overlay.WhyNone {
				e.Why = overlay.WhyTrimmed
			}
		}
	}
	return out, nil
}

// Links implements gossip.Replica.
func (m *Memory) Links(log overlay.LogID, from, to uint64) ([]overlay.LogEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.logs[log]; l != nil && from > 0 && from <= to {
		if links := l.links(from, to); uint64(len(links)) == to-from+1 {
			return links, nil
		}
	}
	return nil, fmt.Errorf("entries %d to %d of log %s are not held one by one", from, to, log)
}

// Drop implements gossip.Replica.
func (m *Memory) Drop(_ context.Context, logs ...overlay.LogID) error {
	m.commit.Lock()
	defer m.commit.Unlock()
	m.mu.Lock()
	event := &overlay.CommitEvent{Time: m.Now()}
	for _, log := range logs {
		if m.logs[log] == nil {
			continue
		}
		delete(m.logs, log)
		if m.own == log {
			m.own = overlay.LogID{}
		}
		event.Dropped = append(event.Dropped, log)
	}
	m.tell(event)
	return nil
}

// Take implements gossip.Replica.
func (m *Memory) Take(ctx context.Context, _ overlay.Via, raws [][]byte) ([]bool, error) {
	m.commit.Lock()
	defer m.commit.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	m.mu.Lock()
	if err := m.refuse; err != nil {
		defer m.mu.Unlock()
		return nil, err
	}
	event := &overlay.CommitEvent{Time: m.Now()}
	taken := make([]bool, len(raws))
	for i, raw := range raws {
		rec, err := m.verify(raw)
		if err != nil || rec.Expires <= uint64(event.Time.UnixMilli()) || rec.Kind == overlay.KindPillar || rec.Kind == overlay.KindRevocation {
			continue
		}
		taken[i] = true
		m.keep(event, rec)
	}
	m.fill(event)
	m.tell(event)
	return taken, nil
}

// Lose has records vanish, as a scrub that finds them deleted by hand says it.
func (m *Memory) Lose(ids ...overlay.RecordID) {
	m.commit.Lock()
	defer m.commit.Unlock()
	m.mu.Lock()
	event := &overlay.CommitEvent{Time: m.Now()}
	for _, id := range ids {
		if rec := m.records[id]; rec != nil {
			delete(m.records, id)
			m.sorted = nil
			event.Gone = append(event.Gone, overlay.RecordStub{ID: id, Created: rec.Created, Expires: rec.Expires})
		}
	}
	for _, l := range m.logs {
		if l.lose(m.records, uint64(event.Time.UnixMilli())) {
			event.Logs = append(event.Logs, overlay.LogCommit{State: l.published(), Rewritten: true})
		}
	}
	m.tell(event)
}

// Rewind has the prefix of a log end before entry seq, as a scrub that finds a
// hole there says it. An own log is closed by it.
func (m *Memory) Rewind(log overlay.LogID, seq uint64) {
	m.commit.Lock()
	defer m.commit.Unlock()
	m.mu.Lock()
	event := &overlay.CommitEvent{Time: m.Now()}
	if l := m.logs[log]; l != nil && seq > 0 && seq <= l.state.Seq {
		l.parts[0].places = l.parts[0].slice(1, seq-1, overlay.Hash{})
		l.lacks = slices.DeleteFunc(slices.Clone(l.lacks), func(k overlay.Lack) bool { return k.Seq >= seq && k.Seq <= l.state.Seq })
		l.settle()
		if log == m.own {
			m.own = overlay.LogID{}
		}
		event.Logs = []overlay.LogCommit{{State: l.published(), Rewritten: true}}
	}
	m.tell(event)
}

// Trim replaces the entries from..to of a log, which lie in one run of it, by
// the run of gone entries that they are once they are expired.
func (m *Memory) Trim(log overlay.LogID, from, to uint64) {
	m.commit.Lock()
	defer m.commit.Unlock()
	m.mu.Lock()
	l := m.logs[log]
	l.trim(from, to)
	l.settle()
	m.tell(&overlay.CommitEvent{Time: m.Now(), Logs: []overlay.LogCommit{{State: l.published()}}})
}

// Near implements gossip.Records.
func (m *Memory) Near(day overlay.Day, prefix []byte, fn func(r overlay.StoredRecord) bool) error {
	m.mu.Lock()
	if m.sorted == nil {
		m.sorted = slices.SortedFunc(maps.Values(m.records), func(a, b *overlay.Record) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	}
	records := m.sorted
	m.mu.Unlock()
	i, _ := slices.BinarySearchFunc(records, prefix, func(r *overlay.Record, p []byte) int { return bytes.Compare(r.ID[:], p) })
	for _, r := range records[i:] {
		if !bytes.HasPrefix(r.ID[:], prefix) {
			break
		}
		m.mu.Lock()
		stored := overlay.StoredRecord{ID: r.ID, Created: r.Created, Expires: r.Expires, Received: m.received(r), Raw: r.Raw}
		m.mu.Unlock()
		if r.Day() == day && !fn(stored) {
			break
		}
	}
	return nil
}

// Trace implements gossip.Records.
func (m *Memory) Trace(sought []overlay.Sought) ([]overlay.Trace, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := uint64(m.Now().UnixMilli())
	traces := make([]overlay.Trace, len(sought))
	for i, s := range sought {
		t := &traces[i]
		t.Pillar, t.Answered = m.Key.ID(), true
		rec := m.records[s.ID]
		switch {
		case rec != nil && rec.Expires > now:
			*t = overlay.Trace{Pillar: t.Pillar, Answered: true, Has: true, Kind: rec.Kind, Created: rec.Created, Expires: rec.Expires,
				Size: uint64(len(rec.Raw)), Received: m.received(rec), Via: overlay.ViaFollow, Dots: m.dots(s.ID)}
		case rec != nil || s.Expires != 0 && s.Expires <= now:
			t.Why = overlay.AbsentExpired
		default:
			t.Why = m.lacking(s)
		}
	}
	return traces, nil
}

// dots finds the places of a record. m.mu is held.
func (m *Memory) dots(id overlay.RecordID) (dots []overlay.Dot) {
	for log, l := range m.logs {
		for _, part := range l.parts {
			for _, x := range part.places {
				if x.entry.ID == id && x.entry.Why != overlay.WhyGone {
					dots = append(dots, overlay.Dot{Log: log, Seq: x.end})
				}
			}
		}
	}
	return dots
}

// lacking says what is at the place of a record that is not held. m.mu is held.
func (m *Memory) lacking(s overlay.Sought) overlay.Absence {
	l := m.logs[s.Dot.Log]
	if l == nil {
		return overlay.AbsentNever
	}
	for i := range l.parts {
		p := &l.parts[i]
		if s.Dot.Seq <= p.after.Seq || s.Dot.Seq > p.end().Seq {
			continue
		}
		switch x := p.places[p.find(s.Dot.Seq)].entry; {
		case x.Why == overlay.WhyVoid:
			return overlay.AbsentVoid
		case x.Why == overlay.WhyGone || x.Why == overlay.WhyExpired:
			return overlay.AbsentExpired
		case x.ID != s.ID:
			return overlay.AbsentNever
		}
		return overlay.AbsentDeleted
	}
	return overlay.AbsentComing
}

// Acked implements gossip.Replica.
func (m *Memory) Acked(log overlay.LogID, durable []overlay.Durable) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.durable[log] = slices.Clone(durable)
	close(m.changed)
	m.changed = make(chan struct{})
}

// Durable is what Acked said last.
func (m *Memory) Durable(log overlay.LogID) []overlay.Durable {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.durable[log])
}

// Wait returns when cond holds, which is looked at after every change, or with
// ctx's error.
func (m *Memory) Wait(ctx context.Context, cond func() bool) error {
	for {
		m.mu.Lock()
		changed := m.changed
		m.mu.Unlock()
		if cond() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Vector is what may be promised of every log's prefix.
func (m *Memory) Vector() overlay.Vector {
	m.mu.Lock()
	defer m.mu.Unlock()
	var v overlay.Vector
	for _, l := range m.logs {
		s := l.published()
		told, _ := s.Told()
		v = append(v, told)
	}
	v.Sort()
	return v
}

// Count is how many records are held.
func (m *Memory) Count() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records)
}

// Get implements gossip.Records.
func (m *Memory) Get(ids []overlay.RecordID, limit int) (records [][]byte, next int, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	size := 0
	for i, id := range ids {
		if r := m.records[id]; r != nil {
			if size > 0 && size+len(r.Raw) > limit {
				return records, i, nil
			}
			records, size = append(records, r.Raw), size+len(r.Raw)
		}
	}
	return records, len(ids), nil
}

// Has implements gossip.Records.
func (m *Memory) Has(ids []overlay.RecordID) ([]bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	has := make([]bool, len(ids))
	for i, id := range ids {
		has[i] = m.records[id] != nil
	}
	return has, nil
}

// Each implements gossip.Records.
func (m *Memory) Each(from uint64, fn func(id overlay.RecordID, created, expires uint64) bool) error {
	m.mu.Lock()
	records := slices.Collect(maps.Values(m.records))
	m.mu.Unlock()
	for _, r := range records {
		if r.Expires >= from && !fn(r.ID, r.Created, r.Expires) {
			break
		}
	}
	return nil
}

// LoadNote implements gossip.Notes.
func (m *Memory) LoadNote(key string) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.notes[key]), nil
}

// SaveNote implements gossip.Notes.
func (m *Memory) SaveNote(ctx context.Context, key string, data []byte) error {
	return m.SaveNotes(ctx, func() ([]overlay.Value, error) { return []overlay.Value{{Key: key, Data: data}}, nil })
}

// SaveNotes implements gossip.Notes.
func (m *Memory) SaveNotes(_ context.Context, notes func() ([]overlay.Value, error)) error {
	m.commit.Lock()
	defer m.commit.Unlock()
	values, err := notes()
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.save(values)
	return nil
}

// save writes notes. m.mu is held.
func (m *Memory) save(notes []overlay.Value) {
	for _, n := range notes {
		if n.Data == nil {
			delete(m.notes, n.Key)
		} else {
			m.notes[n.Key] = slices.Clone(n.Data)
		}
	}
}

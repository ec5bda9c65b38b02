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
// survives Reopen, its process state does not.
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
	notes   map[string][]byte
	durable map[overlay.LogID][]overlay.Durable
	refuse  error         // what Apply returns
	changed chan struct{} // closed at the next change
}

type memoryLog struct {
	state   overlay.LogState
	entries []overlay.BatchEntry
}

// NewMemory returns an empty one of the network.
func NewMemory(network identity.NetworkID, key *identity.PillarKey) *Memory {
	return &Memory{Key: key, Now: time.Now, network: network, verifier: overlay.NewVerifier(network),
		mesh: overlay.NoMesh{},
		logs: map[overlay.LogID]*memoryLog{}, records: map[overlay.RecordID]*overlay.Record{},
		notes: map[string][]byte{}, durable: map[overlay.LogID][]overlay.Durable{}, changed: make(chan struct{})}
}

// Reopen returns a new run over what was durable.
func (m *Memory) Reopen() *Memory {
	m.mu.Lock()
	defer m.mu.Unlock()
	n := NewMemory(m.network, m.Key)
	n.Now = m.Now
	for id, l := range m.logs {
		n.logs[id] = &memoryLog{state: l.state, entries: slices.Clone(l.entries)}
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
	m.records[rec.ID] = rec
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
		m.logs[m.own] = &memoryLog{state: overlay.LogState{Pillar: m.Key.ID(), Nonce: nonce,
			Position: overlay.Position{Log: m.own, Hash: overlay.ChainStart(m.own)}}}
	}
	l := m.logs[m.own]
	entries := make([]overlay.BatchEntry, len(raws))
	for i, raw := range raws {
		entries[i].Raw = raw
	}
	event := m.append(l, entries)
	event.Logs[0].Own = true
	mesh := m.mesh
	m.mu.Unlock()
	mesh.Committed(event)
	return event.Logs[0].State.Position
}

// append adds entries to a log and its records. m.mu is held.
func (m *Memory) append(l *memoryLog, entries []overlay.BatchEntry) *overlay.CommitEvent {
	now := m.Now()
	event := &overlay.CommitEvent{Time: now}
	from := l.state.Seq + 1
	for _, e := range entries {
		raw := e.Raw
		if raw == nil && e.Why == overlay.WhyVoid {
			raw = e.Void
		}
		if raw != nil {
			rec, err := m.verifier.Parse(raw)
			if err == nil && !m.Trusting {
				err = m.verifier.VerifyOne(rec)
			}
			switch {
			case err == nil:
				e = overlay.BatchEntry{Raw: raw, Expires: rec.Expires, ID: rec.ID}
				if m.records[rec.ID] == nil {
					m.records[rec.ID] = rec
					event.New = append(event.New, rec)
				}
			default:
				e = overlay.BatchEntry{Expires: e.Expires, ID: e.ID, Why: overlay.WhyVoid, Void: raw}
			}
		}
		l.entries = append(l.entries, e)
		l.state.Seq++
		l.state.Hash = overlay.Chain(l.state.Hash, e.Expires, e.ID)
		l.state.Dies = max(l.state.Dies, e.Expires)
	}
	event.Logs = []overlay.LogCommit{{State: l.state, From: from, Entries: l.entries[from-1 : l.state.Seq : l.state.Seq]}}
	close(m.changed)
	m.changed = make(chan struct{})
	return event
}

// Logs implements gossip.Replica.
func (m *Memory) Logs() []overlay.LogState {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []overlay.LogState
	for _, l := range m.logs {
		all = append(all, l.state)
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
	m.mu.Lock()
	if err := m.refuse; err != nil {
		defer m.mu.Unlock()
		return overlay.LogState{}, err
	}
	l := m.logs[run.State.Log]
	if l == nil {
		l = &memoryLog{state: run.State}
		l.state.Seq, l.state.Hash, l.state.Dies = 0, overlay.ChainStart(run.State.Log), 0
		m.logs[run.State.Log] = l
	}
	if run.From > l.state.Seq+1 {
		defer m.mu.Unlock()
		return overlay.LogState{}, fmt.Errorf("run starts at %d, the prefix ends at %d", run.From, l.state.Seq)
	}
	skip := l.state.Seq + 1 - run.From
	if skip >= uint64(len(run.Entries)) {
		defer m.mu.Unlock()
		return l.state, nil
	}
	l.state.Head = run.State.Head
	event := m.append(l, run.Entries[skip:])
	state, mesh := l.state, m.mesh
	m.mu.Unlock()
	mesh.Committed(event)
	return state, nil
}

// Read implements gossip.Replica.
func (m *Memory) Read(log overlay.LogID, from uint64, limit int) ([]overlay.BatchEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.logs[log]
	if l == nil || from == 0 || from > l.state.Seq {
		return nil, nil
	}
	var out []overlay.BatchEntry
	for size := 0; from <= l.state.Seq && (size < limit || len(out) == 0); from++ {
		e := l.entries[from-1]
		out = append(out, e)
		size += len(e.Raw) + len(e.Void) + 56
	}
	return out, nil
}

// Links implements gossip.Replica.
func (m *Memory) Links(log overlay.LogID, from, to uint64) ([]overlay.LogEntry, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.logs[log]
	if l == nil || from == 0 || to > l.state.Seq {
		return nil, fmt.Errorf("entries %d to %d of log %s are not held", from, to, log)
	}
	var links []overlay.LogEntry
	for _, e := range l.entries[from-1 : to] {
		links = append(links, overlay.LogEntry{Expires: e.Expires, ID: e.ID, Why: e.Why})
	}
	return links, nil
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
	mesh := m.mesh
	m.mu.Unlock()
	mesh.Committed(event)
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
		rec, err := m.verifier.Parse(raw)
		if err == nil {
			err = m.verifier.VerifyOne(rec)
		}
		if err != nil || rec.Expires <= uint64(event.Time.UnixMilli()) || rec.Kind == overlay.KindPillar || rec.Kind == overlay.KindRevocation {
			continue
		}
		if taken[i] = true; m.records[rec.ID] == nil {
			m.records[rec.ID] = rec
			event.New = append(event.New, rec)
		}
	}
	mesh := m.mesh
	m.mu.Unlock()
	mesh.Committed(event)
	return taken, nil
}

// Near implements gossip.Records.
func (m *Memory) Near(day overlay.Day, prefix []byte, fn func(r overlay.StoredRecord) bool) error {
	m.mu.Lock()
	records := slices.SortedFunc(maps.Values(m.records), func(a, b *overlay.Record) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	m.mu.Unlock()
	for _, r := range records {
		stored := overlay.StoredRecord{ID: r.ID, Created: r.Created, Expires: r.Expires, Received: time.UnixMilli(int64(r.Created)), Raw: r.Raw}
		if r.Day() == day && bytes.HasPrefix(r.ID[:], prefix) && !fn(stored) {
			break
		}
	}
	return nil
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

// Vector is the prefix held of every log.
func (m *Memory) Vector() overlay.Vector {
	m.mu.Lock()
	defer m.mu.Unlock()
	var v overlay.Vector
	for _, l := range m.logs {
		v = append(v, l.state.Position)
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
func (m *Memory) SaveNote(_ context.Context, key string, data []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if data == nil {
		delete(m.notes, key)
	} else {
		m.notes[key] = slices.Clone(data)
	}
	return nil
}

package replicatest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// memoryLog is a log as Memory holds it: with the chain's hash behind every
// entry, so that what a real pillar checks at the joins is checked everywhere.
type memoryLog struct {
	state overlay.LogState // Position and Islands follow parts; without Lacks
	parts []part           // ascending and apart; the first is the prefix, which may be empty
	lacks []overlay.Lack   // ascending; replaced, never changed
}

// part is a stretch of a log without gaps.
type part struct {
	after  overlay.Mark
	places []place // grows at its end, else replaced; never changed
}

// place is an entry. It begins behind the place before it.
type place struct {
	end   uint64 // its last sequence
	hash  overlay.Hash
	entry overlay.BatchEntry // Count of a gone run is not used
	rec   *overlay.Record    // only while a run is being taken
}

func newMemoryLog(log overlay.LogID, pillar identity.PillarID, nonce [overlay.LogNonceLen]byte) *memoryLog {
	start := overlay.ChainStart(log)
	return &memoryLog{
		state: overlay.LogState{Pillar: pillar, Nonce: nonce, Position: overlay.Position{Log: log, Hash: start}},
		parts: []part{{after: overlay.Mark{Hash: start}}},
	}
}

func (l *memoryLog) clone() *memoryLog {
	c := &memoryLog{state: l.state, parts: slices.Clone(l.parts), lacks: l.lacks}
	for i := range c.parts {
		c.parts[i].places = slices.Clip(c.parts[i].places)
	}
	return c
}

// published is the state as others are shown it.
func (l *memoryLog) published() overlay.LogState {
	s := l.state
	s.Lacks = l.lacks
	return s
}

// settle makes the state follow the parts.
func (l *memoryLog) settle() {
	end := l.parts[0].end()
	l.state.Seq, l.state.Hash = end.Seq, end.Hash
	l.state.Base = overlay.Mark{}
	if first := l.parts[0].places; len(first) > 0 && first[0].entry.Why == overlay.WhyGone {
		l.state.Base = overlay.Mark{Seq: first[0].end, Hash: first[0].hash}
	}
	l.state.Islands = nil
	for i := range l.parts[1:] {
		p := &l.parts[i+1]
		l.state.Islands = append(l.state.Islands, overlay.Island{After: p.after, End: p.end()})
	}
}

func (p *part) end() overlay.Mark {
	if n := len(p.places); n > 0 {
		return overlay.Mark{Seq: p.places[n-1].end, Hash: p.places[n-1].hash}
	}
	return p.after
}

// find returns the index of the place that holds seq.
func (p *part) find(seq uint64) int {
	i, _ := slices.BinarySearchFunc(p.places, seq, func(x place, seq uint64) int { return cmp.Compare(x.end, seq) })
	return i
}

// hashAt returns h(seq); false if the part does not know it.
func (p *part) hashAt(seq uint64) (overlay.Hash, bool) {
	if seq == p.after.Seq {
		return p.after.Hash, true
	}
	if i := p.find(seq); i < len(p.places) && p.places[i].end == seq {
		return p.places[i].hash, true
	}
	return overlay.Hash{}, false
}

// slice returns the places of from..to. If that cuts a run of gone entries, h(to)
// is hash.
func (p *part) slice(from, to uint64, hash overlay.Hash) []place {
	if from > to {
		return nil
	}
	i, j := p.find(from), p.find(to)
	out := slices.Clone(p.places[i : j+1])
	// Of a run that is cut the latest expiry is not known: it stays the whole's.
	if last := &out[len(out)-1]; last.end > to {
		last.end, last.hash = to, hash
		last.entry.ID = overlay.RecordID(hash)
	}
	return out
}

// join adds a run to parts. fresh is what of it was not there.
func join(held []part, run part) (joined, fresh []part, err error) {
	if n := len(held) - 1; held[n].end() == run.after { // the usual way: at the very end
		joined = slices.Clone(held)
		joined[n].places = append(joined[n].places, run.places...)
		return joined, []part{run}, nil
	}
	first, last := run.after.Seq, run.end().Seq
	grown, at, placed := part{after: run.after}, first, false
	piece := func(to overlay.Mark) {
		if at < to.Seq {
			p := part{after: grown.end(), places: run.slice(at+1, to.Seq, to.Hash)}
			fresh = append(fresh, p)
			grown.places = append(slices.Clip(grown.places), p.places...)
			at = to.Seq
		}
	}
	for i := range held {
		x := &held[i]
		switch {
		case x.end().Seq < first:
			joined = append(joined, *x)
			continue
		case x.after.Seq > last:
			if !placed {
				piece(run.end())
				joined, placed = append(joined, grown), true
			}
			joined = append(joined, *x)
			continue
		}
		if err := agree(x, &run); err != nil {
			return nil, nil, err
		}
		if x.after.Seq <= first {
			grown = *x
		} else {
			piece(x.after)
			grown.places = append(slices.Clip(grown.places), x.places...)
		}
		at = max(at, x.end().Seq)
	}
	if !placed {
		piece(run.end())
		joined = append(joined, grown)
	}
	return joined, fresh, nil
}

// agree checks that a run and a part are on one chain wherever both know it.
func agree(held, run *part) error {
	check := func(seq uint64, hash overlay.Hash) error {
		if have, ok := held.hashAt(seq); ok && have != hash {
			return fmt.Errorf("%w: at entry %d", overlay.ErrConflict, seq)
		}
		return nil
	}
	if err := check(run.after.Seq, run.after.Hash); err != nil {
		return err
	}
	for i := range run.places {
		if err := check(run.places[i].end, run.places[i].hash); err != nil {
			return err
		}
	}
	return nil
}

// takeRun adds a run to a log with its records. m.commit and m.mu are held.
func (m *Memory) takeRun(l *memoryLog, run *overlay.LogRun) (*overlay.CommitEvent, error) {
	now := m.Now()
	event := &overlay.CommitEvent{Time: now}
	p := part{after: overlay.Mark{Seq: run.From - 1, Hash: run.Before}}
	for i := range run.Entries {
		e, rec := m.judge(&run.Entries[i])
		end := p.end()
		p.places = append(p.places, place{end: end.Seq + e.Len(), hash: overlay.ChainEntry(end.Hash, &e), entry: e, rec: rec})
	}
	if h := run.State.Head; h != nil {
		if hash, ok := p.hashAt(h.Seq); ok && hash != h.Hash {
			return nil, fmt.Errorf("%w: at entry %d", overlay.ErrChain, h.Seq)
		}
	}
	parts, fresh, err := l.parts, []part(nil), error(nil)
	if len(p.places) > 0 {
		if parts, fresh, err = join(l.parts, p); err != nil {
			return nil, err
		}
	}
	if len(parts) > overlay.MaxIslands+1 {
		return nil, overlay.ErrIslands
	}
	records, known := map[overlay.RecordID]bool{}, map[overlay.RecordID]bool{}
	for i := range l.lacks {
		known[l.lacks[i].ID] = true
	}
	for i := range p.places {
		if rec := p.places[i].rec; rec != nil {
			records[rec.ID] = true
		}
	}
	lacks, dies := slices.Clone(l.lacks), l.state.Dies
	for _, f := range fresh {
		before := f.after.Hash
		for i := range f.places {
			x := &f.places[i]
			dies = max(dies, x.entry.Expires)
			if x.rec == nil && x.entry.Why == overlay.WhyTrimmed && x.entry.Expires > uint64(now.UnixMilli()) &&
				m.records[x.entry.ID] == nil && !records[x.entry.ID] {
				lacks = append(lacks, overlay.Lack{Seq: x.end, Before: before, ID: x.entry.ID, Expires: x.entry.Expires})
			}
			before = x.hash
		}
	}
	if len(lacks) > overlay.MaxLacks {
		return nil, overlay.ErrLacks
	}
	slices.SortFunc(lacks, func(a, b overlay.Lack) int { return cmp.Compare(a.Seq, b.Seq) })
	if h := run.State.Head; h != nil && (l.state.Head == nil || h.Seq > l.state.Head.Seq) {
		l.state.Head = h
	}
	l.parts, l.lacks, l.state.Dies = parts, lacks, dies
	l.settle()
	var commits []overlay.LogCommit
	for _, f := range fresh {
		c := overlay.LogCommit{From: f.after.Seq + 1}
		at := f.after.Seq
		for i := range f.places {
			x := &f.places[i]
			if x.rec != nil {
				m.keep(event, x.rec)
			}
			e := x.entry
			if e.Why == overlay.WhyGone {
				e.Count = x.end - at
			} else if rec := m.records[e.ID]; e.Raw == nil && e.Why != overlay.WhyVoid && rec != nil {
				e.Raw, e.Why = rec.Raw, overlay.WhyNone
			}
			at = x.end
			c.Entries = append(c.Entries, e)
		}
		commits = append(commits, c)
	}
	for i := range p.places {
		x := &p.places[i]
		if x.rec != nil && known[x.rec.ID] {
			m.keep(event, x.rec)
		}
		x.rec = nil
	}
	for _, part := range l.parts {
		for i := part.find(run.From); i < len(part.places) && part.places[i].end <= p.end().Seq; i++ {
			part.places[i].rec = nil
		}
	}
	m.fill(event)
	event.Logs = slices.DeleteFunc(event.Logs, func(c overlay.LogCommit) bool {
		return c.State.Log == l.state.Log && len(commits) > 0
	})
	for i := range commits {
		commits[i].State = l.published()
	}
	event.Logs = append(event.Logs, commits...)
	return event, nil
}

// judge decides what is kept of an entry.
func (m *Memory) judge(e *overlay.BatchEntry) (overlay.BatchEntry, *overlay.Record) {
	raw := e.Raw
	if raw == nil {
		raw = e.Void
	}
	if raw == nil {
		kept := *e
		if kept.Why != overlay.WhyGone && kept.Expires > uint64(m.Now().UnixMilli()) {
			kept.Why = overlay.WhyTrimmed
		}
		return kept, nil
	}
	rec, err := m.verify(raw)
	switch {
	case err == nil && (e.Raw != nil || rec.ID == e.ID && rec.Expires == e.Expires):
		return overlay.BatchEntry{Raw: rec.Raw, Expires: rec.Expires, ID: rec.ID}, rec
	case rec != nil && e.Raw == nil && rec.ID != e.ID: // the bytes are of something else
		return overlay.BatchEntry{Expires: e.Expires, ID: e.ID, Why: overlay.WhyTrimmed}, nil
	case rec != nil && errors.Is(err, overlay.ErrSignature), rec == nil && m.verifier.Mendable(raw):
		// Others may hold it as it was signed.
		return overlay.BatchEntry{Expires: e.Expires, ID: e.ID, Why: overlay.WhyTrimmed}, nil
	default:
		return overlay.BatchEntry{Expires: e.Expires, ID: e.ID, Why: overlay.WhyVoid, Void: bytes.Clone(raw)}, nil
	}
}

// verify returns the record even if only its signature is wrong.
func (m *Memory) verify(raw []byte) (*overlay.Record, error) {
	rec, err := m.verifier.Parse(raw)
	if err != nil {
		return nil, err
	}
	if !m.Trusting {
		err = m.verifier.VerifyOne(rec)
	}
	return rec, err
}

// keep stores a record if it is new. m.mu is held.
func (m *Memory) keep(event *overlay.CommitEvent, rec *overlay.Record) {
	if m.records[rec.ID] == nil {
		m.records[rec.ID], m.sorted = rec, nil
		event.New = append(event.New, rec)
	}
}

// fill drops the lacks of what is held now and tells of it. m.mu is held.
func (m *Memory) fill(event *overlay.CommitEvent) {
	if len(event.New) == 0 {
		return
	}
	for _, l := range m.logs {
		n := len(l.lacks)
		l.lacks = slices.DeleteFunc(slices.Clone(l.lacks), func(k overlay.Lack) bool { return m.records[k.ID] != nil })
		if len(l.lacks) < n {
			event.Logs = append(event.Logs, overlay.LogCommit{State: l.published()})
		}
	}
}

// expire drops the lacks that are over at now (Unix ms).
func (l *memoryLog) expire(now uint64) {
	over := func(k overlay.Lack) bool { return k.Expires <= now }
	if slices.ContainsFunc(l.lacks, over) {
		l.lacks = slices.DeleteFunc(slices.Clone(l.lacks), over)
	}
}

// lose notes the lacks of unexpired records that are not held any more. It
// reports whether there are new ones.
func (l *memoryLog) lose(records map[overlay.RecordID]*overlay.Record, now uint64) bool {
	n := len(l.lacks)
	var lacks []overlay.Lack
	for _, p := range l.parts {
		before := p.after.Hash
		for _, x := range p.places {
			if e := &x.entry; e.Why != overlay.WhyGone && e.Why != overlay.WhyVoid && e.Expires > now && records[e.ID] == nil {
				lacks = append(lacks, overlay.Lack{Seq: x.end, Before: before, ID: e.ID, Expires: e.Expires})
			}
			before = x.hash
		}
	}
	for i := range l.parts {
		places := slices.Clone(l.parts[i].places)
		for j := range places {
			if e := &places[j].entry; records[e.ID] == nil && e.Raw != nil {
				e.Raw, e.Why = nil, overlay.WhyTrimmed
			}
		}
		l.parts[i].places = places
	}
	l.lacks = lacks
	return len(lacks) > n
}

// trim replaces from..to by a run of gone entries.
func (l *memoryLog) trim(from, to uint64) {
	for i := range l.parts {
		p := &l.parts[i]
		if from <= p.after.Seq || to > p.end().Seq {
			continue
		}
		run := p.slice(from, to, overlay.Hash{})
		gone := place{end: to, hash: run[len(run)-1].hash}
		gone.entry = overlay.BatchEntry{ID: overlay.RecordID(gone.hash), Why: overlay.WhyGone}
		for _, x := range run {
			gone.entry.Expires = max(gone.entry.Expires, x.entry.Expires)
		}
		places := append(p.slice(p.after.Seq+1, from-1, overlay.Hash{}), gone)
		p.places = append(places, p.slice(to+1, p.end().Seq, overlay.Hash{})...)
	}
	l.lacks = slices.DeleteFunc(slices.Clone(l.lacks), func(k overlay.Lack) bool { return k.Seq >= from && k.Seq <= to })
}

// read returns entries from from on.
func (l *memoryLog) read(from uint64, limit int) (out []overlay.BatchEntry) {
	for _, p := range l.parts {
		if from <= p.after.Seq || from > p.end().Seq {
			continue
		}
		for i, size := p.find(from), 0; i < len(p.places) && (size < limit || len(out) == 0); i++ {
			x := &p.places[i]
			e := x.entry
			if e.Why == overlay.WhyGone {
				e.Count = x.end - from + 1
			}
			out = append(out, e)
			size += len(e.Raw) + len(e.Void) + 56
			from = x.end + 1
		}
		break
	}
	return out
}

// links returns the entries from..to that are held one by one in one part.
func (l *memoryLog) links(from, to uint64) (links []overlay.LogEntry) {
	for _, e := range l.linkable(from, to) {
		if e.entry.Why == overlay.WhyGone {
			return nil
		}
		links = append(links, overlay.LogEntry{Expires: e.entry.Expires, ID: e.entry.ID, Why: e.entry.Why})
	}
	return links
}

func (l *memoryLog) linkable(from, to uint64) []place {
	for _, p := range l.parts {
		if from > p.after.Seq && to <= p.end().Seq {
			return p.slice(from, to, overlay.Hash{})
		}
	}
	return nil
}

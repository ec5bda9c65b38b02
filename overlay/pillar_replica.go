package overlay

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// What replication asks of a pillar: it implements gossip.Replica,
// gossip.Records and gossip.Notes.

// notePrefix begins the value keys that are replication's own.
const notePrefix = "gossip/"

// Bounds of a note in bytes: what a Store takes as a Value.
const (
	maxNoteKey = 64
	maxNote    = 64 << 10
)

// Logs returns the state of every log held, the own one included, ascending.
func (p *Pillar) Logs() []LogState {
	p.mu.Lock()
	all := make([]LogState, 0, len(p.logs))
	for _, s := range p.logs {
		all = append(all, *s)
	}
	p.mu.Unlock()
	slices.SortFunc(all, func(a, b LogState) int { return bytes.Compare(a.Log[:], b.Log[:]) })
	return all
}

// held returns the published state of a log.
func (p *Pillar) held(log LogID) (LogState, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if s := p.logs[log]; s != nil {
		return *s, true
	}
	return LogState{}, false
}

// Read returns entries of a log from sequence from on, see gossip.Replica.
func (p *Pillar) Read(log LogID, from uint64, max int) ([]BatchEntry, error) {
	var before LogState
	for {
		state, ok := p.held(log)
		end, held := state.stretch(from)
		if !ok || !held {
			return nil, nil
		}
		entries, err := p.read(log, from, end, max)
		if err != nil || len(entries) > 0 {
			return entries, err
		}
		// It is not there. If that is because the log changed meanwhile, then it
		// is another state now.
		if before.Log == log && before.Position == state.Position && slices.Equal(before.Islands, state.Islands) {
			return nil, fmt.Errorf("read log %s: entry %d is missing", log, from)
		}
		before = state
	}
}

// stretch returns the end of the prefix or island that holds an entry.
func (s *LogState) stretch(seq uint64) (end uint64, held bool) {
	if seq >= 1 && seq <= s.Seq {
		return s.Seq, true
	}
	for _, i := range s.Islands {
		if seq > i.After.Seq && seq <= i.End.Seq {
			return i.End.Seq, true
		}
	}
	return 0, false
}

// read returns entries from..end as far as max bytes and a Batch go; none if
// the first is not there.
func (p *Pillar) read(log LogID, from, end uint64, max int) ([]BatchEntry, error) {
	// A record with its frame is hardly below 256 bytes.
	limit := min(MaxBatch, 1+max/256)
	view := p.cfg.Store.View()
	defer view.Close()
	var entries []BatchEntry
	next := from
	err := view.Log(log, from, func(seq uint64, e LogEntry) bool {
		if seq > end || seq != next && e.Why != WhyGone {
			return false
		}
		x := BatchEntry{Expires: e.Expires, ID: e.ID, Why: e.Why}
		if e.Why == WhyGone {
			x.Count = seq - next + 1
		}
		next = seq + 1
		entries = append(entries, x)
		return len(entries) < limit
	})
	if err != nil {
		return nil, fmt.Errorf("read log %s: %w", log, err)
	}
	return p.readBodies(view, entries, max)
}

// readBodies fills in the records as far as max bytes go, and cuts entries
// there.
func (p *Pillar) readBodies(view View, entries []BatchEntry, max int) ([]BatchEntry, error) {
	refs := make([]Ref, 0, len(entries))
	index := make([]int, 0, len(entries))
	for i := range entries {
		if e := &entries[i]; e.Why != WhyGone && e.Why != WhyVoid {
			refs = append(refs, Ref{ID: e.ID, Day: DayOf(e.Expires)})
			index = append(index, i)
		}
	}
	now := p.now()
	bytesRead, cut := 0, len(entries)
	err := view.Get(refs, func(k int, r StoredRecord) bool {
		e := &entries[index[k]]
		if r.Expires != e.Expires || !p.intact(&r) {
			return true
		}
		if bytesRead > 0 && bytesRead+len(r.Raw) > max {
			cut = index[k]
			return false
		}
		bytesRead += len(r.Raw)
		e.Raw, e.Why = bytes.Clone(r.Raw), WhyNone
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	entries = entries[:cut]
	for i := range entries {
		if e := &entries[i]; e.Raw == nil && e.Why == WhyNone {
			if e.Why = WhyTrimmed; e.Expires <= now {
				e.Why = WhyExpired
			}
		}
	}
	return entries, nil
}

// intact reports whether a record's bytes are those of its ID. Other pillars are
// served no others: to them, damage would look like a lie. Devices check all that
// they are sent themselves.
func (p *Pillar) intact(r *StoredRecord) bool {
	outer := canon.MakeReader(r.Raw)
	outer.Array(2)
	payload := outer.Bin(MaxRecord)
	outer.Bin(MaxRecord)
	ok := outer.End() == nil && RecordID(identity.Hash(identity.TagRecordID, p.cfg.Network[:], payload)) == r.ID
	if !ok {
		p.metrics.damaged.Inc()
	}
	return ok
}

// Links returns entries without bodies, see gossip.Replica.
func (p *Pillar) Links(log LogID, from, to uint64) ([]LogEntry, error) {
	state, ok := p.held(log)
	if end, held := state.stretch(from); !ok || !held || to > end || from > to {
		return nil, fmt.Errorf("read log %s: entries %d to %d are not held", log, from, to)
	}
	view := p.cfg.Store.View()
	defer view.Close()
	var links []LogEntry
	next := from
	err := view.Log(log, from, func(seq uint64, e LogEntry) bool {
		if seq != next || e.Why == WhyGone {
			return false
		}
		next++
		links = append(links, e)
		return seq < to
	})
	if err != nil {
		return nil, fmt.Errorf("read log %s: %w", log, err)
	}
	if next != to+1 {
		return nil, fmt.Errorf("read log %s: entry %d is not held by itself", log, next)
	}
	return links, nil
}

// Drop forgets logs, see gossip.Replica.
func (p *Pillar) Drop(ctx context.Context, logs ...LogID) error {
	return p.commit(ctx, commitJob{drop: logs, done: make(chan error, 1)})
}

// Take stores records that came by no log, see gossip.Replica. A full pillar
// takes none: the error is CodeFull.
func (p *Pillar) Take(ctx context.Context, via Via, raws [][]byte) ([]bool, error) {
	taken := make([]bool, len(raws))
	for from := 0; from < len(raws); {
		to, size := from, 0
		for ; to < len(raws) && to-from < takeRecords && size < takeBytes; to++ {
			size += len(raws[to])
		}
		if err := p.takeSome(ctx, via, raws[from:to], taken[from:to]); err != nil {
			return nil, err
		}
		from = to
	}
	return taken, nil
}

// What Take judges and commits at once.
const (
	takeRecords = 2048
	takeBytes   = 2 << 20
)

func (p *Pillar) takeSome(ctx context.Context, via Via, raws [][]byte, taken []bool) error {
	switch {
	case p.failure() != nil:
		return p.failure()
	case p.disk.full.Load():
		return errDiskFull
	}
	now := p.now()
	confirmed := p.clock.mayDelete(now)
	p.mu.Lock()
	dropped := p.dropped
	p.mu.Unlock()
	recs := make([]*Record, 0, len(raws))
	refs := make([]Ref, 0, len(raws))
	index := make([]int, 0, len(raws))
	for i, raw := range raws {
		rec, err := p.verifier.Parse(raw)
		if err != nil || rec.Kind == KindPillar || rec.Kind == KindRevocation ||
			confirmed && rec.Expires <= now || rec.Day() < dropped {
			continue
		}
		recs, refs, index = append(recs, rec), append(refs, rec.Ref()), append(index, i)
	}
	view := p.cfg.Store.View()
	known, err := view.Has(refs)
	view.Close()
	if err != nil {
		return fmt.Errorf("has records: %w", err)
	}
	for k := range recs {
		if known[k] {
			recs[k], taken[index[k]] = nil, true
		}
	}
	errs := make([]error, len(recs))
	p.verifier.Verify(recs, errs)
	var arrivals []*Record
	for k, rec := range recs {
		if rec != nil && errs[k] == nil {
			rec.detach()
			taken[index[k]] = true
			arrivals = append(arrivals, rec)
		}
	}
	if len(arrivals) == 0 {
		return nil
	}
	return p.commit(ctx, commitJob{arrivals: arrivals, via: via, done: make(chan error, 1)})
}

// Near calls fn for records by the beginning of their ID, see gossip.Records.
func (p *Pillar) Near(day Day, prefix []byte, fn func(r StoredRecord) bool) error {
	view := p.cfg.Store.View()
	defer view.Close()
	const page = 256
	var refs []Ref
	more := true
	read := func() error {
		err := view.Get(refs, func(_ int, r StoredRecord) bool {
			more = fn(r)
			return more
		})
		refs = refs[:0]
		return err
	}
	var failed error
	err := view.Near(day, prefix, func(r StoredRecord) bool {
		if refs = append(refs, Ref{ID: r.ID, Day: day}); len(refs) == page {
			failed = read()
		}
		return more && failed == nil
	})
	if err == nil && failed == nil && more {
		failed = read()
	}
	return errors.Join(err, failed)
}

// Get returns records by ID, see gossip.Records. Expired ones are hidden.
func (p *Pillar) Get(ids []RecordID, max int) (records [][]byte, next int, err error) {
	now := p.past()
	total, next := 0, len(ids)
	take := func(i int, raw []byte) bool {
		if len(records) > 0 && total+len(raw) > max {
			next = i
			return false
		}
		total += len(raw)
		records = append(records, raw)
		return true
	}
	// Roster records come first where they are asked for: find the IDs that
	// are theirs, and look up the rest between them.
	roster := map[int][]byte{}
	for i := range ids {
		if raw := p.roster.Get(ids[i]); raw != nil {
			roster[i] = raw
		}
	}
	at := 0
	between := func(to int) bool { // the roster records of ids[at:to]
		for ; at < to; at++ {
			if raw := roster[at]; raw != nil && !take(at, raw) {
				return false
			}
		}
		return true
	}
	view := p.cfg.Store.View()
	defer view.Close()
	cut := false
	err = view.Get(refsOf(ids), func(i int, r StoredRecord) bool {
		if cut = !between(i); cut {
			return false
		}
		if f, err := readStored(r.Raw, ""); err != nil || f.expires <= now || !p.intact(&r) {
			return true
		}
		cut = !take(i, bytes.Clone(r.Raw))
		return !cut
	})
	if err != nil {
		return nil, 0, fmt.Errorf("get records: %w", err)
	}
	if !cut {
		between(len(ids))
	}
	return records, next, nil
}

// Has reports which records are held durably.
func (p *Pillar) Has(ids []RecordID) ([]bool, error) {
	view := p.cfg.Store.View()
	defer view.Close()
	has, err := view.Has(refsOf(ids))
	if err != nil {
		return nil, fmt.Errorf("has records: %w", err)
	}
	for i := range ids {
		has[i] = has[i] || p.roster.Get(ids[i]) != nil
	}
	return has, nil
}

// Each calls fn for every record that expires at or after from.
func (p *Pillar) Each(from uint64, fn func(id RecordID, created, expires uint64) bool) error {
	view := p.cfg.Store.View()
	defer view.Close()
	return view.Records(DayOf(from), func(_ Day, r StoredRecord) bool {
		return r.Expires < from || fn(r.ID, r.Created, r.Expires)
	})
}

// LoadNote implements gossip.Notes.
func (p *Pillar) LoadNote(key string) (note []byte, err error) {
	if !strings.HasPrefix(key, notePrefix) {
		return nil, fmt.Errorf("note %q does not start with %s", key, notePrefix)
	}
	view := p.cfg.Store.View()
	defer view.Close()
	err = view.Values(key, func(k string, data []byte) bool {
		if k == key {
			note = append([]byte{}, data...)
		}
		return false // the key itself comes before all that it begins
	})
	return note, err
}

// SaveNote implements gossip.Notes.
func (p *Pillar) SaveNote(ctx context.Context, key string, data []byte) error {
	if err := checkNote(key, data); err != nil {
		return err
	}
	return p.commitValues(ctx, []Value{{Key: key, Data: data}})
}

// SaveNotes implements gossip.Notes.
func (p *Pillar) SaveNotes(ctx context.Context, notes func() ([]Value, error)) error {
	return p.commit(ctx, commitJob{notes: notes, done: make(chan error, 1)})
}

// callNotes returns what notes does, if all of it may be stored.
func callNotes(notes func() ([]Value, error)) ([]Value, error) {
	values, err := notes()
	for i := 0; i < len(values) && err == nil; i++ {
		err = checkNote(values[i].Key, values[i].Data)
	}
	if err != nil {
		return nil, err
	}
	return values, nil
}

func checkNote(key string, data []byte) error {
	if !strings.HasPrefix(key, notePrefix) {
		return fmt.Errorf("note %q does not start with %s", key, notePrefix)
	}
	if len(key) > maxNoteKey || len(data) > maxNote {
		return fmt.Errorf("note %q: key of %d or data of %d bytes is too long", key, len(key), len(data))
	}
	return nil
}

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

// Errors of Apply.
var (
	// ErrGap: a run starts above what is held of its log.
	ErrGap = errors.New("the run leaves a gap")
	// ErrChain: a run ends at a signed head with another hash than the head's.
	ErrChain = errors.New("the run does not lead to its signed head")
	// ErrIslands: the log has MaxIslands islands, and the run would be one more.
	ErrIslands = errors.New("too many islands")
	// ErrLacks: the run would leave the log with more than MaxLacks lacks.
	ErrLacks = errors.New("too many entries without their records")
	// ErrConflict: the run and what is held of the log cannot be on one chain.
	ErrConflict = errors.New("the run is another history of the log than the one held")
)

// notePrefix begins the value keys that are replication's own.
const notePrefix = "gossip/"

// Bounds of a note in bytes: what a Store takes as a Value.
const (
	maxNoteKey = 64
	maxNote    = 64 << 10
)

// followedRun is a run whose entries were judged.
type followedRun struct {
	state   LogState
	from    uint64
	entries []runEntry
	result  LogState // the committer's
}

type runEntry struct {
	LogEntry
	rec *Record // nil if nothing is to be stored
}

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

// Apply takes a run of somebody else's log, see gossip.Replica. A full pillar
// takes none: the error is CodeFull.
func (p *Pillar) Apply(ctx context.Context, run LogRun) (LogState, error) {
	log := run.State.Log
	switch {
	case p.failure() != nil:
		return LogState{}, p.failure()
	case p.disk.full.Load():
		return LogState{}, errDiskFull
	case MakeLogID(p.cfg.Network, run.State.Pillar, run.State.Nonce) != log:
		return LogState{}, fmt.Errorf("log %s is not of pillar %s", log, run.State.Pillar)
	case run.From == 0:
		return LogState{}, fmt.Errorf("log %s: entries start at 1", log)
	}
	if p.ownLogID() == log {
		return LogState{}, fmt.Errorf("log %s is written here", log)
	}
	state, ok := p.held(log)
	if run.From > state.Seq+1 {
		return LogState{}, fmt.Errorf("%w: from entry %d of log %s, which is held up to %d", ErrGap, run.From, log, state.Seq)
	}
	skip := min(state.Seq+1-run.From, uint64(len(run.Entries)))
	if ok && skip == uint64(len(run.Entries)) && (run.State.Head == nil || state.Head != nil && state.Head.Seq >= run.State.Head.Seq) {
		return state, nil
	}
	judged := &followedRun{state: run.State, from: run.From + skip, entries: p.judgeRun(run.Entries[skip:])}
	err := p.commit(ctx, commitJob{run: judged, done: make(chan error, 1)})
	if err != nil {
		return LogState{}, err
	}
	return judged.result, nil
}

// ownLogID returns the log of this run, zero before its first entry.
func (p *Pillar) ownLogID() LogID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ownLog
}

// judgeRun decides for every entry what is stored of it.
func (p *Pillar) judgeRun(entries []BatchEntry) []runEntry {
	now := p.now()
	confirmed := p.clock.mayDelete() // else what looks expired may live, and others count on it being here
	p.mu.Lock()
	dropped := p.dropped
	p.mu.Unlock()
	out := make([]runEntry, len(entries))
	recs := make([]*Record, len(entries))
	errs := make([]error, len(entries))
	for i := range entries {
		e := &entries[i]
		raw := e.Raw
		if raw == nil {
			out[i].LogEntry = LogEntry{Expires: e.Expires, ID: e.ID, Why: e.Why}
			if raw = e.Void; e.Why != WhyVoid || len(raw) == 0 {
				continue
			}
		}
		rec, err := p.verifier.Parse(raw)
		switch {
		case err != nil && e.Raw != nil:
			out[i].LogEntry = voidEntry(p.cfg.Network, raw)
		case err != nil || e.Raw == nil && (rec.ID != e.ID || rec.Expires != e.Expires):
			// It stays what its holder says: void.
		case confirmed && rec.Expires <= now || rec.Day() < dropped:
			out[i].LogEntry = LogEntry{Expires: rec.Expires, ID: rec.ID, Why: WhyExpired}
		default:
			out[i].LogEntry = LogEntry{Expires: rec.Expires, ID: rec.ID}
			recs[i] = rec
		}
	}
	p.verifier.Verify(recs, errs)
	for i, rec := range recs {
		switch {
		case rec == nil:
		case errs[i] != nil || rec.Kind == KindPillar || rec.Kind == KindRevocation:
			out[i].Why = WhyVoid
		default:
			rec.detach()
			out[i].rec = rec
		}
		if out[i].Why == WhyVoid {
			p.metrics.void.Inc()
		}
	}
	return out
}

// voidEntry is the entry of bytes that are no valid record: the ID is of the
// payload, as if it were one; the expiry is what stands in its place, as far as
// the payload can be walked. It is what the log's chain was made of.
func voidEntry(network identity.NetworkID, raw []byte) LogEntry {
	r := canon.MakeReader(raw)
	r.Array(2)
	id := identity.Hash(identity.TagRecordID, network[:], r.Bin(MaxRecord))
	f, _ := readStored(raw, "")
	return LogEntry{Expires: f.expires, ID: RecordID(id), Why: WhyVoid}
}

// Read returns entries of a log from sequence from on, see gossip.Replica.
func (p *Pillar) Read(log LogID, from uint64, max int) ([]BatchEntry, error) {
	state, ok := p.held(log)
	if !ok || from > state.Seq {
		return nil, nil
	}
	// A record with its frame is hardly below 256 bytes.
	limit := min(MaxBatch, 1+max/256)
	view := p.cfg.Store.View()
	defer view.Close()
	var entries []BatchEntry
	var refs []Ref
	next := from
	err := view.Log(log, from, func(seq uint64, e LogEntry) bool {
		if seq != next || seq > state.Seq {
			return false
		}
		next++
		entries = append(entries, BatchEntry{Expires: e.Expires, ID: e.ID, Why: e.Why})
		refs = append(refs, Ref{ID: e.ID, Day: DayOf(e.Expires)})
		return len(entries) < limit
	})
	if err != nil {
		return nil, fmt.Errorf("read log %s: %w", log, err)
	}
	if len(entries) == 0 {
		return nil, fmt.Errorf("read log %s: entry %d is missing", log, from)
	}
	return p.readBodies(view, entries, refs, max)
}

// readBodies fills in the records as far as max bytes go, and cuts entries
// there.
func (p *Pillar) readBodies(view View, entries []BatchEntry, refs []Ref, max int) ([]BatchEntry, error) {
	now := p.now()
	bytesRead, cut := 0, len(entries)
	err := view.Get(refs, func(i int, r StoredRecord) bool {
		if entries[i].Why == WhyVoid || r.Expires != entries[i].Expires {
			return true
		}
		if bytesRead > 0 && bytesRead+len(r.Raw) > max {
			cut = i
			return false
		}
		bytesRead += len(r.Raw)
		entries[i].Raw, entries[i].Why = bytes.Clone(r.Raw), WhyNone
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

// Links returns entries without bodies, see gossip.Replica.
func (p *Pillar) Links(log LogID, from, to uint64) ([]LogEntry, error) {
	view := p.cfg.Store.View()
	defer view.Close()
	var links []LogEntry
	next := from
	err := view.Log(log, from, func(seq uint64, e LogEntry) bool {
		if seq != next || seq > to || e.Why == WhyGone {
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
	return p.commitValues(ctx, nil, logs)
}

// Take stores records that came by no log, see gossip.Replica.
func (p *Pillar) Take(ctx context.Context, via Via, raws [][]byte) ([]bool, error) {
	if p.disk.full.Load() {
		return nil, errDiskFull
	}
	now := p.now()
	recs := make([]*Record, len(raws))
	errs := make([]error, len(raws))
	for i, raw := range raws {
		rec, err := p.verifier.Parse(raw)
		if err == nil && rec.Expires > now && rec.Kind != KindPillar && rec.Kind != KindRevocation {
			recs[i] = rec
		}
	}
	p.verifier.Verify(recs, errs)
	taken := make([]bool, len(raws))
	arrivals := make([]*Record, 0, len(raws))
	for i, rec := range recs {
		if rec != nil && errs[i] == nil {
			rec.detach()
			taken[i] = true
			arrivals = append(arrivals, rec)
		}
	}
	if len(arrivals) == 0 {
		return taken, nil
	}
	err := p.commit(ctx, commitJob{arrivals: arrivals, via: via, done: make(chan error, 1)})
	if err != nil {
		return nil, err
	}
	return taken, nil
}

// Near calls fn for records by the beginning of their ID, see gossip.Records.
func (p *Pillar) Near(day Day, prefix []byte, fn func(r StoredRecord) bool) error {
	view := p.cfg.Store.View()
	defer view.Close()
	return view.Records(day, func(d Day, r StoredRecord) bool {
		if d != day {
			return false
		}
		return !bytes.HasPrefix(r.ID[:], prefix) || fn(r)
	})
}

// Get returns records by ID, see gossip.Records. Expired ones are hidden.
func (p *Pillar) Get(ids []RecordID, max int) (records [][]byte, next int, err error) {
	now := p.now()
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
		if f, err := readStored(r.Raw, ""); err != nil || f.expires <= now {
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
	if !strings.HasPrefix(key, notePrefix) {
		return fmt.Errorf("note %q does not start with %s", key, notePrefix)
	}
	if len(key) > maxNoteKey || len(data) > maxNote {
		return fmt.Errorf("note %q: key of %d or data of %d bytes is too long", key, len(key), len(data))
	}
	return p.commitValues(ctx, []Value{{Key: key, Data: data}}, nil)
}

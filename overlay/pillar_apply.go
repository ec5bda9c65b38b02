package overlay

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/internal/canon"
)

// How a run of somebody else's log is taken: Apply judges its records beside
// the committer, join says what of it is new and whether it can be on one chain
// with what is held, and the committer (pillar_commit_logs.go) does the rest.

// Errors of Apply.
var (
	// ErrChain: a run does not lead to its signed head.
	ErrChain = errors.New("the run does not lead to its signed head")
	// ErrIslands: the log has MaxIslands islands, and the run would be one more.
	ErrIslands = errors.New("too many islands")
	// ErrLacks: the run would leave the log with more than MaxLacks lacks.
	ErrLacks = errors.New("too many entries without their records")
	// ErrConflict: the run and what is held of the log cannot be on one chain.
	ErrConflict = errors.New("the run is another history of the log than the one held")
	// ErrGone: a run calls entries gone that are not expired.
	ErrGone = errors.New("entries that are not expired are called gone")
)

// errStale: the log changed while a run of it was judged.
var errStale = errors.New("the log changed meanwhile")

// followedRun is a run whose entries were judged.
type followedRun struct {
	state   LogState // its Head may be nil
	after   Mark     // what it begins behind
	entries []runEntry
	result  LogState // the committer's
}

// runEntry is an entry of a run.
type runEntry struct {
	LogEntry         // of a gone run, as in the store
	end      uint64  // its last sequence
	hash     Hash    // h(end)
	rec      *Record // nil if nothing is to be stored
	bare     bool    // it came without its record, and is not expired
	unjudged bool    // it was held, so nobody looked at its record
}

// end is where the run ends.
func (r *followedRun) end() Mark {
	if n := len(r.entries); n > 0 {
		return Mark{r.entries[n-1].end, r.entries[n-1].hash}
	}
	return r.after
}

// find returns the index of the entry that holds seq.
func (r *followedRun) find(seq uint64) int {
	return sort.Search(len(r.entries), func(i int) bool { return r.entries[i].end >= seq })
}

// hashAt returns h(seq), false if the run does not say.
func (r *followedRun) hashAt(seq uint64) (Hash, bool) {
	if seq == r.after.Seq {
		return r.after.Hash, true
	}
	if i := r.find(seq); seq > r.after.Seq && i < len(r.entries) && r.entries[i].end == seq {
		return r.entries[i].hash, true
	}
	return Hash{}, false
}

// begin is the last sequence before entry i.
func (r *followedRun) begin(i int) uint64 {
	if i == 0 {
		return r.after.Seq
	}
	return r.entries[i-1].end
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
	case p.ownLogID() == log:
		return LogState{}, fmt.Errorf("log %s is written here", log)
	}
	if run.State.Pillar != p.id {
		if err := p.logBytes.over(run.State.Pillar, p.logShare(), p.now()); err != nil {
			return LogState{}, err
		}
	}
	for range 3 {
		judged, err := p.judgeRun(&run)
		if err == nil {
			err = p.commit(ctx, commitJob{run: judged, notes: run.Notes, done: make(chan error, 1)})
		}
		if err == nil {
			return judged.result, nil
		}
		if !errors.Is(err, errStale) {
			return LogState{}, err
		}
	}
	return LogState{}, errStale
}

// ownLogID returns the log of this run, zero before its first entry.
func (p *Pillar) ownLogID() LogID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.ownLog
}

// judgeRun decides for every entry what is stored of it. Entries that are held
// with their records are only identified.
//
// Void is what nobody can have a valid record of: the ID is the payload's, and the
// payload is wrong. Where only the signature is, whoever served the entry may have
// broken it, and others may hold the record as its author signed it. So that is a
// lack: neither acknowledged nor told of until the record is here, or over.
func (p *Pillar) judgeRun(run *LogRun) (*followedRun, error) {
	held, _ := p.held(run.State.Log)
	now := p.now()
	confirmed := p.clock.mayDelete(now) // else what looks expired may live, and others count on it being here
	p.mu.Lock()
	dropped := p.dropped
	p.mu.Unlock()
	out := &followedRun{state: run.State, after: Mark{run.From - 1, run.Before}, entries: make([]runEntry, len(run.Entries))}
	recs := make([]*Record, len(run.Entries))
	errs := make([]error, len(run.Entries))
	at := out.after.Seq
	for i := range run.Entries {
		e, x := &run.Entries[i], &out.entries[i]
		if n := e.Len(); n == 0 || n > 1<<62 || at > 1<<62 {
			return nil, fmt.Errorf("log %s: a run of %d gone entries behind %d", run.State.Log, n, at)
		}
		at += e.Len()
		x.end = at
		if e.Why == WhyGone && e.Raw == nil {
			if confirmed && e.Expires > now+2*uint64(maxClockOff.Milliseconds()) {
				return nil, fmt.Errorf("%w: of log %s up to %d", ErrGone, run.State.Log, at)
			}
			x.LogEntry = LogEntry{Expires: e.Expires, ID: e.ID, Why: WhyGone}
			continue
		}
		rec, err := x.identify(p.cfg.Network, p.verifier, e)
		switch {
		case rec == nil:
		case held.Holds(at) && !held.lacks(at):
			x.unjudged = true
		case confirmed && rec.Expires <= now || rec.Day() < dropped:
			x.Why = WhyExpired
		default:
			recs[i] = rec
		}
		if rec != nil || err != nil {
			continue
		}
		// There are no bytes to judge it by.
		over := x.Expires <= now
		if !confirmed { // then a holder's word is better
			over = e.Why == WhyExpired
		}
		switch {
		case over || DayOf(x.Expires) < dropped:
			x.Why = WhyExpired
		case confirmed && x.Expires > now+maxRecordLife:
			x.Why = WhyVoid
		default:
			x.Why, x.bare = WhyTrimmed, true
		}
	}
	p.verifier.Verify(recs, errs)
	hash := out.after.Hash
	for i, rec := range recs {
		x := &out.entries[i]
		switch {
		case rec == nil:
		case rec.Kind == KindPillar || rec.Kind == KindRevocation:
			x.Why = WhyVoid
		case errs[i] == errUnsigned:
			p.metrics.void.Inc()
			x.Why, x.bare = WhyTrimmed, true
		case errs[i] != nil:
			x.Why = WhyVoid
		default:
			rec.detach()
			x.rec = rec
		}
		if x.Why == WhyVoid {
			p.metrics.void.Inc()
		}
		if x.Why == WhyGone {
			hash = Hash(x.ID)
		} else {
			hash = Chain(hash, x.Expires, x.ID)
		}
		x.hash = hash
	}
	return out, nil
}

// maxRecordLife is how far from now nothing expires that was honestly
// admitted, in ms: the longest life, and a day for clocks. What claims to live
// longer and comes without its record is taken for void.
const maxRecordLife = 33 * DayMillis

// identify sets what the chain is made of. It returns the entry's record if
// its bytes are one, nil and no error if there are no bytes of it, and an error
// if they are no record: then the entry is void.
func (x *runEntry) identify(network identity.NetworkID, v *Verifier, e *BatchEntry) (*Record, error) {
	x.LogEntry = LogEntry{Expires: e.Expires, ID: e.ID, Why: e.Why}
	raw := e.Raw
	if raw == nil {
		raw = e.Void
	}
	if len(raw) == 0 {
		return nil, nil
	}
	rec, err := v.Parse(raw)
	found := LogEntry{}
	if err != nil {
		found = voidEntry(network, raw)
	} else {
		found = LogEntry{Expires: rec.Expires, ID: rec.ID}
	}
	if e.Raw == nil && (found.ID != e.ID || found.Expires != e.Expires) {
		return nil, nil // they are of something else
	}
	if err != nil && v.Mendable(raw) {
		found.Why = WhyTrimmed
		x.LogEntry = found
		return nil, nil
	}
	x.LogEntry = found
	return rec, err
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

// lacks reports whether an entry is among Lacks.
func (s *LogState) lacks(seq uint64) bool {
	i := sort.Search(len(s.Lacks), func(i int) bool { return s.Lacks[i].Seq >= seq })
	return i < len(s.Lacks) && s.Lacks[i].Seq == seq
}

// piece is a part of a run that was not held: entries after.Seq+1 .. end.Seq.
// Its first and its last entry may be parts of gone runs.
type piece struct {
	after, end Mark
}

// joined is what a log is with a run.
type joined struct {
	end     Mark // of the prefix
	islands []Island
	pieces  []piece
	// doubts are stretches of the run that are held and that no hash says to be
	// the same: (from, to].
	doubts [][2]uint64
}

// join adds a run to what is held of a log. It changes nothing of s.
func (s *LogState) join(run *followedRun) (joined, error) {
	j := joined{end: Mark{s.Seq, s.Hash}}
	first, end := run.after.Seq, run.end()
	grown := Island{run.after, end}
	at, prefix := run.after, false
	add := func(to Mark) {
		if at.Seq < to.Seq {
			j.pieces = append(j.pieces, piece{at, to})
			at = to
		}
	}
	meet := func(x Island) error {
		verified := false
		for _, m := range []Mark{x.After, x.End} {
			hash, ok := run.hashAt(m.Seq)
			if ok && hash != m.Hash {
				return fmt.Errorf("%w: log %s at entry %d", ErrConflict, s.Log, m.Seq)
			}
			verified = ok
		}
		if from, to := max(x.After.Seq, first), min(x.End.Seq, end.Seq); !verified && from < to {
			j.doubts = append(j.doubts, [2]uint64{from, to})
		}
		if x.After.Seq <= first {
			grown.After = x.After
		} else {
			add(x.After)
		}
		if x.End.Seq >= at.Seq {
			at = x.End
		}
		if x.End.Seq > grown.End.Seq {
			grown.End = x.End
		}
		return nil
	}
	if start := (Mark{0, ChainStart(s.Log)}); first <= s.Seq {
		if err := meet(Island{start, j.end}); err != nil {
			return j, err
		}
		prefix = true
	}
	var below, above []Island
	for i, x := range s.Islands {
		switch {
		case x.End.Seq < first:
			below = s.Islands[:i+1]
		case x.After.Seq > end.Seq:
			if above == nil {
				above = s.Islands[i:]
			}
		default:
			if err := meet(x); err != nil {
				return j, err
			}
		}
	}
	add(end)
	if prefix {
		j.end = grown.End
		j.islands = above
	} else {
		j.islands = slices.Concat(below, []Island{grown}, above)
	}
	if len(j.islands) > MaxIslands {
		return j, fmt.Errorf("%w: log %s", ErrIslands, s.Log)
	}
	return j, nil
}

// checkDoubts compares stretches of a run with what the store has of them.
func (r *followedRun) checkDoubts(view View, log LogID, doubts [][2]uint64) error {
	for _, d := range doubts {
		i := r.find(d[0] + 1)
		conflict := false
		err := view.Log(log, d[0]+1, func(seq uint64, e LogEntry) bool {
			for i < len(r.entries) && r.entries[i].end < seq {
				i++
			}
			if i == len(r.entries) || seq > d[1] {
				return false
			}
			x := &r.entries[i]
			same := x.Expires == e.Expires && x.ID == e.ID || (x.Why == WhyGone) != (e.Why == WhyGone)
			conflict = x.end == seq && !same && !(x.Why == WhyGone && x.ID == e.ID)
			return !conflict
		})
		if err != nil {
			return fmt.Errorf("read log %s: %w", log, err)
		}
		if conflict {
			return fmt.Errorf("%w: log %s", ErrConflict, log)
		}
	}
	return nil
}

package overlay

import (
	"bytes"
	"fmt"
	"maps"
	"slices"
	"sort"
)

// What the committer does about logs of others and about lacks. All that is
// known of a log's lacks is in its published state; lacking finds them by ID.

// loadLacks makes lacking of what was loaded.
func (c *committer) loadLacks() {
	for _, s := range c.p.Logs() {
		c.noteLacks(s.Log, s.Lacks)
	}
}

func (c *committer) noteLacks(log LogID, lacks []Lack) {
	for i := range lacks {
		c.lacking[lacks[i].ID] = append(c.lacking[lacks[i].ID], Dot{log, lacks[i].Seq})
	}
}

func (c *committer) forgetLack(id RecordID, dot Dot) {
	dots := slices.DeleteFunc(slices.Clone(c.lacking[id]), func(d Dot) bool { return d == dot })
	if c.lacking[id] = dots; len(dots) == 0 {
		delete(c.lacking, id)
	}
}

// fits reports whether a job can be part of the commit that is being made. A
// run is checked against what the store has of its log, so there is one of a
// log in a commit, and none beside a drop. Nothing is forgotten that submitters
// are told in this commit is here.
func (c *committer) fits(job *commitJob) bool {
	if job.mend || c.mended {
		return len(c.jobs) == 0 && c.weight == 0
	}
	if job.run != nil {
		log := job.run.state.Log
		return c.states[log] == nil && !slices.Contains(c.commit.DropLog, log)
	}
	if job.logFix != nil {
		log := job.logFix.log
		return c.states[log] == nil && !slices.Contains(c.commit.DropLog, log)
	}
	if job.fix != nil {
		return !slices.ContainsFunc(job.fix.forget, func(f Forgotten) bool {
			_, taken := c.batch[f.ID]
			_, known := c.known[f.ID]
			return taken || known
		})
	}
	return !slices.ContainsFunc(job.drop, func(log LogID) bool { return c.states[log] != nil })
}

// takeRun adds a run to its log.
func (c *committer) takeRun(run *followedRun) error {
	log := run.state.Log
	s := c.state(log)
	if s == nil {
		s = &LogState{Pillar: run.state.Pillar, Nonce: run.state.Nonce, Position: Position{Log: log, Hash: ChainStart(log)}}
	}
	next := *s
	if h := run.state.Head; h != nil {
		if hash, ok := run.hashAt(h.Seq); ok && hash != h.Hash {
			return fmt.Errorf("%w: log %s up to entry %d", ErrChain, log, h.Seq)
		}
		if next.Head == nil || h.Seq > next.Head.Seq {
			next.Head = h
		}
	}
	if len(run.entries) == 0 {
		if run.result = next; s.Head != next.Head && s.Top().Seq > 0 {
			c.setState(&next)
		}
		return nil
	}
	j, err := s.join(run)
	if err != nil {
		return err
	}
	if len(j.doubts) > 0 {
		view := c.p.cfg.Store.View()
		err := run.checkDoubts(view, log, j.doubts)
		view.Close()
		if err != nil {
			return err
		}
	}
	taken := make([][]BatchEntry, len(j.pieces))
	var bare []int // entries of the run that may be lacks
	for k := range j.pieces {
		if taken[k], bare, err = run.cut(&j.pieces[k], bare); err != nil {
			return err
		}
	}
	lacks, err := c.findLacks(s, run, bare, j.pieces, taken)
	if err != nil {
		return err
	}
	c.fillFrom(run, s)
	if len(j.pieces) == 0 && next.Head == s.Head {
		run.result = next
		return nil
	}
	next.Seq, next.Hash, next.Islands = j.end.Seq, j.end.Hash, j.islands
	if len(lacks) > 0 {
		next.Lacks = slices.Concat(s.Lacks, lacks)
		slices.SortFunc(next.Lacks, func(a, b Lack) int { return compareSeq(a.Seq, b.Seq) })
		for i := range lacks {
			c.commit.Values = append(c.commit.Values, Value{Key: lackKey(log, lacks[i].Seq), Data: lacks[i].Encode()})
		}
		c.noteLacks(log, lacks)
	}
	for k := range j.pieces {
		c.takePiece(run, &j.pieces[k], taken[k], &next)
	}
	run.result = next
	c.setState(&next)
	for k := range j.pieces {
		c.event = append(c.event, LogCommit{State: next, From: j.pieces[k].after.Seq + 1, Entries: taken[k]})
	}
	return nil
}

func compareSeq(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// cut returns the entries of a piece as others are told of them, and appends to
// bare the indexes of those that came without their record.
func (r *followedRun) cut(p *piece, bare []int) ([]BatchEntry, []int, error) {
	first, last := r.find(p.after.Seq+1), r.find(p.end.Seq)
	entries := make([]BatchEntry, 0, last-first+1)
	for i := first; i <= last; i++ {
		x := &r.entries[i]
		if x.unjudged {
			return nil, bare, errStale
		}
		e := BatchEntry{Expires: x.Expires, ID: x.ID, Why: x.Why}
		switch {
		case x.Why == WhyGone:
			e.Count = min(x.end, p.end.Seq) - max(r.begin(i), p.after.Seq)
			if x.end > p.end.Seq { // its end is where what is held begins
				e.ID = RecordID(p.end.Hash)
			}
		case x.rec != nil:
			e.Raw = x.rec.Raw
		case x.bare:
			bare = append(bare, i)
		}
		entries = append(entries, e)
	}
	return entries, bare, nil
}

// findLacks returns which of the bare entries lack their record here, and fills
// in the records of the others.
func (c *committer) findLacks(s *LogState, run *followedRun, bare []int, pieces []piece, taken [][]BatchEntry) ([]Lack, error) {
	if len(bare) == 0 {
		return nil, nil
	}
	coming := map[RecordID][]byte{}
	for i := range run.entries {
		if rec := run.entries[i].rec; rec != nil {
			coming[rec.ID] = rec.Raw
		}
	}
	refs := make([]Ref, len(bare))
	for k, i := range bare {
		refs[k] = Ref{ID: run.entries[i].ID, Day: DayOf(run.entries[i].Expires)}
		if at, ok := c.batch[refs[k].ID]; ok && c.recs[at] != nil {
			coming[refs[k].ID] = c.recs[at].Raw
		}
	}
	stored := make([]bool, len(bare))
	size := 0
	view := c.p.cfg.Store.View()
	defer view.Close()
	err := view.Get(refs, func(k int, r StoredRecord) bool {
		stored[k] = true
		if size += len(r.Raw); size <= commitBytes {
			coming[r.ID] = bytes.Clone(r.Raw)
		}
		return true
	})
	if err != nil {
		return nil, fmt.Errorf("read records: %w", err)
	}
	var lacks []Lack
	for k, i := range bare {
		x := &run.entries[i]
		raw := coming[x.ID]
		if raw == nil && !stored[k] {
			before := run.after.Hash
			if i > 0 {
				before = run.entries[i-1].hash
			}
			lacks = append(lacks, Lack{Seq: x.end, Before: before, ID: x.ID, Expires: x.Expires})
			continue
		}
		for n := range pieces {
			if first := run.find(pieces[n].after.Seq + 1); raw != nil && i >= first && i < first+len(taken[n]) {
				taken[n][i-first].Raw, taken[n][i-first].Why = raw, WhyNone
			}
		}
	}
	if len(lacks) > 0 && len(lacks) > c.lackRoom(s) {
		return nil, fmt.Errorf("%w: log %s", ErrLacks, s.Log)
	}
	return lacks, nil
}

// Bounds of all lacks: whoever writes many logs of entries without records must
// not fill the memory with them.
const (
	maxLacksOfPillar = 4 * MaxLacks
	maxLacksOfAll    = 64 * MaxLacks
)

// lackRoom is how many more lacks a log may have.
func (c *committer) lackRoom(s *LogState) int {
	mine, all := 0, 0
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	for _, x := range c.p.logs {
		if all += len(x.Lacks); x.Pillar == s.Pillar {
			mine += len(x.Lacks)
		}
	}
	return max(0, min(MaxLacks-len(s.Lacks), maxLacksOfPillar-mine, maxLacksOfAll-all))
}

// fillFrom takes the records of a run for entries that are held and lack them.
func (c *committer) fillFrom(run *followedRun, s *LogState) {
	if len(s.Lacks) == 0 {
		return
	}
	from := sort.Search(len(s.Lacks), func(i int) bool { return s.Lacks[i].Seq > run.after.Seq })
	for _, lack := range s.Lacks[from:] {
		i := run.find(lack.Seq)
		if i == len(run.entries) {
			break
		}
		if x := &run.entries[i]; x.rec != nil && x.ID == lack.ID {
			c.arrive(&Arrival{ID: x.ID, Created: x.rec.Created, Expires: x.rec.Expires, Raw: x.rec.Raw,
				Boxes: BoxesOf(x.rec), Dot: Dot{s.Log, lack.Seq}, Via: ViaFollow}, x.rec)
		}
	}
}

// takePiece writes the entries of a piece and its records.
func (c *committer) takePiece(run *followedRun, p *piece, entries []BatchEntry, next *LogState) {
	log := next.Log
	first := run.find(p.after.Seq + 1)
	appended := LogAppend{Log: log, From: p.after.Seq + 1, Entries: make([]LogEntry, 0, len(entries))}
	at := p.after.Seq
	for k := range entries {
		x, e := &run.entries[first+k], &entries[k]
		next.Dies = max(next.Dies, e.Expires)
		at += e.Len()
		if e.Len() > 1 { // stored at its end: what follows is another append
			c.commit.CutLog = append(c.commit.CutLog, LogCut{log, at - e.Len() + 1, at})
			if len(appended.Entries) > 0 {
				c.commit.Logs = append(c.commit.Logs, appended)
			}
			appended = LogAppend{Log: log, From: at, Entries: make([]LogEntry, 0, len(entries)-k)}
		}
		appended.Entries = append(appended.Entries, LogEntry{Expires: e.Expires, ID: e.ID, Why: x.Why})
		if x.rec == nil {
			c.weight++
			continue
		}
		a := Arrival{ID: e.ID, Created: x.rec.Created, Expires: x.rec.Expires, Raw: x.rec.Raw,
			Boxes: BoxesOf(x.rec), Dot: Dot{log, at}, Via: ViaFollow}
		if !c.arrive(&a, x.rec) && len(c.later) < commitRecords {
			a.Raw, a.Boxes = nil, nil // the store has it by then
			c.later = append(c.later, a)
		}
	}
	c.commit.Logs = append(c.commit.Logs, appended)
	if len(entries) > 0 && entries[0].Why == WhyGone && p.after.Seq <= next.Base.Seq {
		next.Base = Mark{p.after.Seq + entries[0].Len(), Hash(entries[0].ID)}
	}
}

// lapse marks the lacks whose records are expired at now (Unix ms).
func (c *committer) lapse(now uint64) {
	c.p.mu.Lock()
	defer c.p.mu.Unlock()
	for _, s := range c.p.logs {
		for i := range s.Lacks {
			if s.Lacks[i].Expires <= now {
				c.filled = append(c.filled, Dot{s.Log, s.Lacks[i].Seq})
			}
		}
	}
}

// settleLacks removes the lacks that were filled or lapsed from the states.
func (c *committer) settleLacks() {
	if len(c.filled) == 0 {
		return
	}
	byLog := map[LogID]map[uint64]bool{}
	for _, d := range c.filled {
		if byLog[d.Log] == nil {
			byLog[d.Log] = map[uint64]bool{}
		}
		byLog[d.Log][d.Seq] = true
	}
	for log, seqs := range byLog {
		s := c.state(log)
		if s == nil || slices.Contains(c.commit.DropLog, log) {
			continue
		}
		rest := make([]Lack, 0, len(s.Lacks))
		for i := range s.Lacks {
			l := &s.Lacks[i]
			if !seqs[l.Seq] {
				rest = append(rest, *l)
				continue
			}
			c.ended = append(c.ended, endedLack{Dot{log, l.Seq}, l.ID})
			c.commit.Values = append(c.commit.Values, Value{Key: lackKey(log, l.Seq)})
		}
		if s.Lacks = rest; len(rest) == 0 {
			s.Lacks = nil
		}
		c.setState(s)
		if c.own.From > 0 && log == c.p.ownLog {
			continue
		}
		told := false
		for i := range c.event {
			if c.event[i].State.Log == log {
				c.event[i].State, told = *s, true
			}
		}
		if !told {
			c.event = append(c.event, LogCommit{State: *s, Own: log == c.p.ownLog})
		}
	}
}

// endedLack is a lack that is none any more.
type endedLack struct {
	dot Dot
	id  RecordID
}

// takeDrops forgets logs.
func (c *committer) takeDrops(job *commitJob) {
	p := c.p
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, log := range job.drop {
		s := p.logs[log]
		if slices.Contains(c.commit.DropLog, log) || job.stray && s != nil ||
			job.dead > 0 && (s == nil || !p.deadLocked(s, job.dead)) {
			continue
		}
		c.commit.DropLog = append(c.commit.DropLog, log)
		c.commit.Values = append(c.commit.Values, Value{Key: logStatePrefix + string(log[:])})
		if s == nil {
			continue
		}
		c.dropped = append(c.dropped, log)
		for i := range s.Lacks {
			c.commit.Values = append(c.commit.Values, Value{Key: lackKey(log, s.Lacks[i].Seq)})
			c.ended = append(c.ended, endedLack{Dot{log, s.Lacks[i].Seq}, s.Lacks[i].ID})
		}
	}
}

// publishLogs makes what was committed the published states. p.mu is held.
func (c *committer) publishLogs() {
	p := c.p
	if len(c.commit.DropLog) > 0 {
		p.drops++
	}
	for _, log := range c.commit.DropLog {
		delete(p.logs, log)
		delete(p.grown, log)
		if log == p.ownLog {
			p.ownLog = LogID{}
		}
	}
	maps.Copy(p.logs, c.states)
	now := uint64(max(0, c.commit.Time.UnixMilli()))
	for i := range c.event {
		if len(c.event[i].Entries) > 0 {
			p.grown[c.event[i].State.Log] = now
		}
	}
	if len(c.own.Entries) > 0 {
		p.grown[p.ownLog] = now
	}
	for _, e := range c.ended {
		c.forgetLack(e.id, e.dot)
	}
	p.metrics.lacks.Set(float64(len(c.lacking)))
}

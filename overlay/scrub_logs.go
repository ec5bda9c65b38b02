package overlay

import (
	"context"
	"slices"
)

const (
	// trimAfter is how long an entry must be expired to be trimmed, in ms.
	trimAfter = 60 * 60 * 1000
	// trimLeast is how many entries are worth being trimmed.
	trimLeast = 64
)

// logFix is what was found of a log, for the committer.
type logFix struct {
	log   LogID
	drops uint64 // the pillar's when the log was looked at: if logs were dropped since, it may be another
	lacks []Lack // entries whose record is not there
	found []uint64
	gone  []goneRun
	// cut: the stretch that goes on behind it ends there; what follows is not
	// all there, or not what was signed.
	cut *Mark
}

// goneRun is entries from..to.Seq, all expired.
type goneRun struct {
	from    uint64
	to      Mark
	expires uint64 // the latest of them
}

func (f *logFix) empty() bool {
	return len(f.lacks)+len(f.found)+len(f.gone) == 0 && f.cut == nil
}

// takeLogFix is the committer's. What is in a log's store never changes while
// it is held, so what was found is still so.
func (c *committer) takeLogFix(f *logFix) error {
	s := c.state(f.log)
	c.p.mu.Lock()
	dropped := c.p.drops != f.drops || slices.Contains(c.commit.DropLog, f.log)
	c.p.mu.Unlock()
	if s == nil || dropped {
		return nil
	}
	next := *s
	rewritten := false
	for _, seq := range f.found {
		c.filled = append(c.filled, Dot{f.log, seq})
	}
	for i := range f.gone {
		c.takeGone(&next, &f.gone[i])
	}
	lacks, err := c.stillLacking(s, f.lacks)
	if err != nil {
		return err
	}
	cut := f.cut
	if room := c.lackRoom(s); len(lacks) > room {
		// More than can be asked for one by one: followed again from there.
		l := &lacks[room]
		if m := (Mark{l.Seq - 1, l.Before}); cut == nil || m.Seq < cut.Seq {
			cut = &m
		}
		lacks = lacks[:room]
	}
	if len(lacks) > 0 {
		rewritten = true
		next.Lacks = slices.Concat(s.Lacks, lacks)
		slices.SortFunc(next.Lacks, func(a, b Lack) int { return compareSeq(a.Seq, b.Seq) })
		for i := range lacks {
			c.commit.Values = append(c.commit.Values, Value{Key: lackKey(f.log, lacks[i].Seq), Data: lacks[i].Encode()})
		}
		c.noteLacks(f.log, lacks)
	}
	if cut != nil {
		rewritten = c.takeCut(&next, *cut) || rewritten
	}
	c.setState(&next)
	c.event = append(c.event, LogCommit{State: next, Own: f.log == c.p.ownLog, Rewritten: rewritten})
	return nil
}

// stillLacking returns those of lacks that are new and whose record has not
// come meanwhile.
func (c *committer) stillLacking(s *LogState, lacks []Lack) ([]Lack, error) {
	if len(lacks) == 0 {
		return nil, nil
	}
	refs := make([]Ref, len(lacks))
	for i := range lacks {
		refs[i] = Ref{ID: lacks[i].ID, Day: DayOf(lacks[i].Expires)}
	}
	view := c.p.cfg.Store.View()
	defer view.Close()
	has, err := view.Has(refs)
	if err != nil {
		return nil, err
	}
	var out []Lack
	for i := range lacks {
		if _, coming := c.batch[lacks[i].ID]; !coming && !has[i] && s.Holds(lacks[i].Seq) && !s.lacks(lacks[i].Seq) {
			out = append(out, lacks[i])
		}
	}
	return out, nil
}

// takeGone replaces entries by a run.
func (c *committer) takeGone(next *LogState, g *goneRun) {
	end, held := next.stretch(g.from)
	if !held || g.to.Seq > end {
		return
	}
	c.commit.CutLog = append(c.commit.CutLog, LogCut{next.Log, g.from, g.to.Seq})
	c.commit.Logs = append(c.commit.Logs, LogAppend{Log: next.Log, From: g.to.Seq,
		Entries: []LogEntry{{Expires: g.expires, ID: RecordID(g.to.Hash), Why: WhyGone}}})
	for i := range next.Lacks {
		if seq := next.Lacks[i].Seq; seq >= g.from && seq <= g.to.Seq {
			c.filled = append(c.filled, Dot{next.Log, seq})
		}
	}
	if g.from == 1 {
		next.Base = g.to
	}
}

// takeCut ends the stretch that goes on behind m there.
func (c *committer) takeCut(next *LogState, m Mark) bool {
	end, held := next.stretch(m.Seq + 1)
	if !held {
		return false
	}
	c.commit.CutLog = append(c.commit.CutLog, LogCut{next.Log, m.Seq + 1, end})
	for i := range next.Lacks {
		if seq := next.Lacks[i].Seq; seq > m.Seq && seq <= end {
			c.filled = append(c.filled, Dot{next.Log, seq})
		}
	}
	if m.Seq < next.Seq {
		next.Seq, next.Hash = m.Seq, m.Hash
		if next.Base.Seq > next.Seq {
			next.Base = Mark{}
		}
		if next.Log == c.p.ownLog {
			// What was told of it must not be written otherwise: the next
			// submission begins another log.
			c.p.mu.Lock()
			c.p.ownLog = LogID{}
			c.p.mu.Unlock()
		}
		return true
	}
	next.Islands = slices.Clone(next.Islands)
	for i := range next.Islands {
		if x := &next.Islands[i]; x.After.Seq <= m.Seq && m.Seq < x.End.Seq {
			x.End = m
		}
	}
	next.Islands = slices.DeleteFunc(next.Islands, func(x Island) bool { return x.After.Seq == x.End.Seq })
	return true
}

// logs looks through all logs.
func (s *scrubber) logs(ctx context.Context) error {
	p := s.p
	if stray := p.strayLacks; len(stray) > 0 && s.first {
		p.strayLacks = nil
		if err := p.commitValues(ctx, stray); err != nil {
			return err
		}
	}
	held := map[LogID]bool{}
	for _, state := range p.Logs() {
		held[state.Log] = true
		if err := s.log(ctx, state); err != nil {
			return err
		}
	}
	var stray []LogID
	view := p.cfg.Store.View()
	err := view.Parts().Logs(func(log LogID) bool {
		if !held[log] {
			stray = append(stray, log)
		}
		return true
	})
	view.Close()
	if err != nil || len(stray) == 0 {
		return err
	}
	p.metrics.repairs.WithLabelValues("stray").Add(float64(len(stray)))
	return p.commit(ctx, commitJob{drop: stray, stray: true, done: make(chan error, 1)})
}

// log looks through the prefix and the islands of a log.
func (s *scrubber) log(ctx context.Context, state LogState) error {
	s.p.mu.Lock()
	drops := s.p.drops
	same := s.p.logs[state.Log] != nil
	s.p.mu.Unlock()
	if !same {
		return nil
	}
	stretches := append([]Island{{Mark{0, ChainStart(state.Log)}, Mark{state.Seq, state.Hash}}}, state.Islands...)
	for _, x := range stretches {
		scan := logScan{s: s, state: &state, drops: drops, at: x.After, begin: x.After, end: x.End}
		for scan.at.Seq < x.End.Seq {
			fix, n, err := scan.some()
			if err != nil {
				return err
			}
			if !fix.empty() {
				if err := s.commitLog(ctx, fix); err != nil {
					return err
				}
			}
			if fix.cut != nil {
				break
			}
			if err := s.pace(ctx, n); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *scrubber) commitLog(ctx context.Context, f *logFix) error {
	if err := s.p.commit(ctx, commitJob{logFix: f, done: make(chan error, 1)}); err != nil {
		return err
	}
	repairs := s.p.metrics.repairs
	if f.cut != nil {
		repairs.WithLabelValues("hole").Inc()
		s.p.log.Warn("log has a hole: it is followed again from there", "log", f.log, "seq", f.cut.Seq+1)
	}
	if len(f.lacks) > 0 {
		repairs.WithLabelValues("lack").Add(float64(len(f.lacks)))
		s.p.log.Warn("records of a log are missing", "log", f.log, "n", len(f.lacks))
	}
	for i := range f.gone {
		repairs.WithLabelValues("trimmed").Add(float64(f.gone[i].to.Seq - f.gone[i].from + 1))
	}
	return nil
}

// logScan goes through a stretch of a log.
type logScan struct {
	s          *scrubber
	state      *LogState
	drops      uint64
	begin, end Mark
	at         Mark   // looked at up to here
	over       uint64 // up to here signed heads say that everything expired an hour ago

	run goneRun // expired entries up to at; from is 0 if the last one is not
	n   uint64  // entries of run that are stored one by one
}

// some looks at the next entries and returns what is to be repaired.
func (x *logScan) some() (*logFix, int, error) {
	p := x.s.p
	fix := &logFix{log: x.state.Log, drops: x.drops}
	now := p.now()
	confirmed := p.clock.mayDelete(now)
	over := max(now, p.clock.likely(now)) // what expired by then may be gone
	p.mu.Lock()
	dropped := p.dropped
	p.mu.Unlock()
	x.over = p.mesh.Over(x.state.Log, now-min(now, trimAfter))
	view := p.cfg.Store.View()
	defer view.Close()
	n, hole := 0, false
	var lacks []Lack
	var refs []Ref
	err := view.Log(x.state.Log, x.at.Seq+1, func(seq uint64, e LogEntry) bool {
		if hole = seq > x.end.Seq || seq != x.at.Seq+1 && e.Why != WhyGone; hole {
			return false
		}
		n++
		before := x.at
		x.step(seq, &e)
		x.trim(fix, before, &e, confirmed && e.Expires+trimAfter <= now && x.signed(before, seq))
		lives := e.Expires > over && DayOf(e.Expires) >= dropped && (confirmed || e.Why != WhyExpired)
		if lives && e.Why != WhyGone && e.Why != WhyVoid {
			lacks = append(lacks, Lack{Seq: seq, Before: before.Hash, ID: e.ID, Expires: e.Expires})
			refs = append(refs, Ref{ID: e.ID, Day: DayOf(e.Expires)})
		}
		return n < scrubEntries && seq < x.end.Seq
	})
	if err != nil {
		return nil, 0, err
	}
	has, err := view.Has(refs)
	if err != nil {
		return nil, 0, err
	}
	for i := range lacks {
		switch known := x.state.lacks(lacks[i].Seq); {
		case has[i] && known:
			fix.found = append(fix.found, lacks[i].Seq)
		case !has[i] && !known:
			fix.lacks = append(fix.lacks, lacks[i])
		}
	}
	switch {
	case hole || n < scrubEntries && x.at.Seq < x.end.Seq:
		at := x.at
		fix.cut = &at
	case x.at.Seq == x.end.Seq && x.at.Hash != x.end.Hash:
		// An entry is not what it was. Which one, nobody knows.
		return &logFix{log: x.state.Log, drops: x.drops, cut: &x.begin}, n, nil
	}
	if fix.cut != nil || x.at.Seq == x.end.Seq {
		x.flush(fix)
	}
	return fix, n, nil
}

// step continues the chain.
func (x *logScan) step(seq uint64, e *LogEntry) {
	hash := Hash(e.ID)
	if e.Why != WhyGone {
		hash = Chain(x.at.Hash, e.Expires, e.ID)
	}
	x.at = Mark{seq, hash}
}

// signed reports whether others take it that an entry is gone: a head says so, or
// this pillar can sign one that does, for the beginning of its own log.
func (x *logScan) signed(before Mark, seq uint64) bool {
	return seq <= x.over || x.state.Pillar == x.s.p.id && (before.Seq == 0 || x.run.from == 1)
}

// trim adds an entry to the run of expired ones, or ends that.
func (x *logScan) trim(fix *logFix, before Mark, e *LogEntry, over bool) {
	if !over {
		x.flush(fix)
		return
	}
	if x.run.from == 0 {
		x.run = goneRun{from: before.Seq + 1}
	}
	x.run.to, x.run.expires = x.at, max(x.run.expires, e.Expires)
	if e.Why != WhyGone {
		x.n++
	}
}

// flush trims the run that ended, if that is worth it.
func (x *logScan) flush(fix *logFix) {
	if x.run.from > 0 && x.n >= trimLeast {
		fix.gone = append(fix.gone, x.run)
	}
	x.run, x.n = goneRun{}, 0
}

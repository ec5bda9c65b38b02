package gossip

import (
	"slices"

	"github.com/obelisk-network/obelisk/overlay"
)

// Which heads of a log are kept, and what of them is to be stored when.

// additions are the heads that a run brings to those of its log.
type additions struct {
	ends, kept []*overlay.Head
	covers     []cover
}

// keepHeads has the heads of a run of a followed log that was stored kept for
// serving it: all those at which something ends, of the others enough to cut history
// into handy runs, and what vouches for gone entries.
func (l *logs) keepHeads(log overlay.LogID, reached []reachedHead) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil {
		return
	}
	for _, r := range reached {
		end := headLead(log, r.head)
		if r.gone > 0 {
			h.heads.covers.vouch(end, r.gone, true)
			continue
		}
		h.heads.note(end, &h.state)
		l.keep(&h.heads, end, r.spaced)
	}
}

// additionsOf says which heads a run adds to those of its log, and whether it begins
// behind one that they lack.
func (h *heads) additionsOf(run *taken) (add *additions, begins bool) {
	add = &additions{}
	bucket := uint64(0) // of the last one kept
	for _, r := range run.reached {
		seq := r.head.Seq
		if r.gone > 0 {
			add.covers = append(add.covers, cover{headLead(run.State.Log, r.head), r.gone > r.head.BaseSeq, true})
			continue
		}
		if h.lacks(seq, r.spaced) && (r.spaced || seq/headEvery != bucket) {
			add.kept, bucket = append(add.kept, r.head), seq/headEvery
		}
		if len(add.ends) > 1 {
			add.ends = add.ends[:1] // what lies between is no end
		}
		add.ends = append(add.ends, r.head)
	}
	if len(add.ends) == 0 || add.ends[0].Seq >= run.From {
		add.ends = add.ends[max(0, len(add.ends)-1):]
		return add, false
	}
	return add, true
}

// changes are the heads of a log that are to be written with a run of it; nil
// means that what the disk has of them is right.
type changes struct {
	ends, fresh []*lead
	covers      []cover
}

// with returns what is to be written of a log's heads together with a run: all that
// are not in the large notes, as they are with the run. Its newest head stands in
// the log's state, and needs no note if it is all that changes. Heads of runs that
// are being stored are among them: those may be durable before keepHeads has them.
// The run counts as such a one until it is settled.
func (l *logs) with(log overlay.LogID, run *taken) (c changes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := &heads{}
	var newest *overlay.Head
	if held := l.held[log]; held != nil {
		h, newest = &held.heads, held.state.Head
	}
	mine, changed := h.additionsOf(run)
	if n := len(mine.ends); n > 0 && newest != nil && (newest.Seq > mine.ends[n-1].Seq || newest.Seq+1 < run.From) {
		mine.ends, changed = append(mine.ends, newest), true
	}
	if l.coming[log] == nil {
		l.coming[log] = map[*taken]*additions{}
	}
	l.coming[log][run] = mine
	all := l.comingOf(log)
	if changed {
		c.ends = withHeads(log, h.ends, all.ends)
	}
	if len(mine.kept) > 0 {
		c.fresh = withHeads(log, h.fresh, all.kept)
	}
	if len(mine.covers) > 0 {
		c.covers = append(slices.Clone(h.covers.list), all.covers...)
	}
	return c
}

// comingOf joins what the runs of a log that are being stored bring. l.mu is held.
func (l *logs) comingOf(log overlay.LogID) (all additions) {
	for _, a := range l.coming[log] {
		all.ends, all.kept = append(all.ends, a.ends...), append(all.kept, a.kept...)
		all.covers = append(all.covers, a.covers...)
	}
	return all
}

// withHeads returns leads and heads, ascending.
func withHeads(log overlay.LogID, leads []*lead, heads []*overlay.Head) []*lead {
	all := slices.Clone(leads)
	slices.SortFunc(all, func(a, b *lead) int { return markOrder(a, b.pos.Seq) })
	for _, h := range heads {
		if i, found := slices.BinarySearchFunc(all, h.Seq, markOrder); !found {
			all = slices.Insert(all, i, headLead(log, h))
		}
	}
	return all
}

// settled forgets a run that was being stored: keepHeads has its heads, or it was
// not stored.
func (l *logs) settled(log overlay.LogID, run *taken) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if delete(l.coming[log], run); len(l.coming[log]) == 0 {
		delete(l.coming, log)
	}
}

// dueWith returns the heads of the own log that are in none of the large notes, one
// at c's end among them; nil if none is to be kept there.
func (l *logs) dueWith(c *overlay.LogCommit) []*lead {
	l.mu.Lock()
	defer l.mu.Unlock()
	h, since := &heads{}, 0
	if held := l.held[c.State.Log]; held != nil {
		h, since = &held.heads, held.since
	}
	for i := range c.Entries {
		since += entrySize(&c.Entries[i]) + entryMemory
	}
	if l.due = nil; !h.lacks(c.State.Seq, since >= headBytes) {
		return nil
	}
	l.due = &lead{pos: c.State.Position, dies: c.State.Dies, nonce: c.State.Nonce, base: c.State.Base}
	return append(slices.Clone(h.fresh), l.due)
}

// headsOf returns what of a log's heads is to be stored: all that are kept, from
// which of the large notes on, and the ends, fresh ones and covers that belong to
// it. It must be stored, and told to headsStored, before it is asked for again.
func (l *logs) headsOf(log overlay.LogID) (kept []*lead, stored int, c changes) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.held[log]
	if held == nil {
		return nil, 0, c
	}
	h, coming := &held.heads, l.comingOf(log)
	h.writing = len(h.kept)
	c.ends = append([]*lead{}, withHeads(log, h.ends, coming.ends)...)
	c.fresh = append([]*lead{}, withHeads(log, nil, coming.kept)...)
	c.covers = append(slices.Clone(h.covers.list), coming.covers...)
	h.unsaid, h.covers.unsaid = false, false
	return slices.Clone(h.kept), h.stored, c
}

// keep has l kept, if it is to be, and has them stored if many were.
func (l *logs) keep(h *heads, end *lead, forced bool) bool {
	kept := h.keep(end, forced)
	if kept && len(h.fresh) >= maxFresh {
		select {
		case l.full <- struct{}{}:
		default:
		}
	}
	return kept
}

// headsStored notes that the disk has what headsOf returned, or that it has not.
func (l *logs) headsStored(log overlay.LogID, kept []*lead, covers []cover, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	held := l.held[log]
	if held == nil {
		return
	}
	h := &held.heads
	if err != nil {
		h.unsaid, h.covers.unsaid = true, true
		return
	}
	h.stored = min(h.writing, len(h.kept))
	in := make(map[*lead]bool, len(h.fresh))
	for _, l := range kept {
		in[l] = true
	}
	h.fresh = slices.DeleteFunc(h.fresh, func(l *lead) bool { return in[l] })
	h.covers.stored(covers)
}

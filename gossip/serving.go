package gossip

import (
	"cmp"
	"slices"
	"sync"

	"github.com/obelisk-network/obelisk/overlay"
)

// What logs know that serving them takes: what comes next, which signed head it
// leads to, and where hashes are known.

// encodeCache keeps the last encoded batch of a log: followers at one position
// get the same bytes.
type encodeCache struct {
	mu    sync.Mutex
	from  uint64
	end   uint64
	lead  *lead
	bare  bool // without its head
	frame []byte
}

// live returns what the tail has from entry from on; nil entries and ahead true
// if from must be read from the store, ahead false if it is not held.
func (l *logs) live(log overlay.LogID, from uint64) (entries []overlay.BatchEntry, end *lead, ahead bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil || !h.state.Holds(from) {
		return nil, nil, false
	}
	entries, end = h.tail.run(from)
	return entries, end, true
}

// link says how a run read from the store, from entry from on, leads to a signed
// head: at most n entries of it, and the head's lead; 0 if what is held from
// there on ends before one.
func (l *logs) link(log overlay.LogID, from uint64, entries []overlay.BatchEntry) (n int, end *lead) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil {
		return 0, nil
	}
	held, ok := heldSpans(&h.state).find(from)
	if !ok {
		return 0, nil
	}
	top := l.topLead(h)
	// The last head at which an entry ends ends the run; else the first one past
	// it leads on.
	seq := from - 1
	for i := range entries {
		if seq += entries[i].Len(); seq > held.to {
			entries = entries[:i]
			seq = held.to
			break
		}
		if at := h.heads.at(seq); at != nil {
			n, end = i+1, at
		} else if top != nil && top.pos.Seq == seq {
			n, end = i+1, top
		}
	}
	if end != nil {
		return n, end
	}
	if end = h.heads.from(seq + 1); end == nil || end.pos.Seq > held.to {
		if end = top; end == nil || end.pos.Seq <= seq || end.pos.Seq > held.to {
			return 0, nil
		}
	}
	return len(entries), end
}

// cover returns the lead of a head that says that every entry up to seq has
// expired by now; nil if none is known.
func (l *logs) cover(log overlay.LogID, seq, now uint64) *lead {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil {
		return nil
	}
	all := []*lead{h.heads.from(seq), l.topLead(h)}
	for i := range h.heads.covers.list {
		all = append(all, h.heads.covers.list[i].lead)
	}
	if h.state.Head != nil {
		all = append(all, headLead(log, h.state.Head))
	}
	for _, at := range all {
		if at != nil && at.over(seq, now) {
			return at
		}
	}
	return nil
}

// Over implements overlay.Mesh.
func (m *Mesh) Over(log overlay.LogID, now uint64) uint64 {
	m.logs.mu.Lock()
	defer m.logs.mu.Unlock()
	h := m.logs.held[log]
	if h == nil {
		return 0
	}
	if head := h.state.Head; head != nil && head.BaseSeq > 0 { // the next one's may be another
		h.heads.covers.vouch(headLead(log, head), head.BaseSeq, false)
	}
	return h.heads.over(now)
}

// open returns the lead behind which a stream begins whose follower knows no
// hash before entry from: see overlay.Follow. nil if there is none.
func (l *logs) open(log overlay.LogID, from uint64) *lead {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil {
		return nil
	}
	for at := h.heads.from(from - 1); at != nil; at = h.heads.from(at.pos.Seq + 1) {
		if h.state.Holds(at.pos.Seq + 1) {
			return at
		}
	}
	if top := l.topLead(h); top != nil {
		return top
	}
	return h.heads.last(&h.state)
}

// hashAt returns h(seq) if it is known without reading the log; held says
// whether entry seq is held at all.
func (l *logs) hashAt(log overlay.LogID, seq uint64) (hash overlay.Hash, known, held bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil || !h.state.Holds(seq) {
		return hash, false, false
	}
	if seq == h.state.Seq {
		return h.state.Hash, true, true
	}
	for _, i := range h.state.Islands {
		if seq == i.End.Seq {
			return i.End.Hash, true, true
		}
	}
	i, ok := slices.BinarySearchFunc(h.recent, seq, func(m overlay.Mark, seq uint64) int { return cmp.Compare(m.Seq, seq) })
	if ok {
		return h.recent[i].Hash, true, true
	}
	if at := h.heads.at(seq); at != nil {
		return at.pos.Hash, true, true
	}
	return hash, false, true
}

// headFrom returns the first signed head at or past seq that is not past last.
func (l *logs) headFrom(log overlay.LogID, seq, last uint64) *lead {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil {
		return nil
	}
	if at := h.heads.from(seq); at != nil && at.pos.Seq <= last {
		return at
	}
	if top := l.topLead(h); top != nil && top.pos.Seq >= seq && top.pos.Seq <= last {
		return top
	}
	return nil
}

// before returns the last place at or before seq whose hash is known and from
// which the chain is held up to seq; ok is false if nothing holds seq.
func (l *logs) before(log overlay.LogID, seq uint64) (m overlay.Mark, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil {
		return m, false
	}
	s := &h.state
	if seq <= s.Seq {
		m, ok = overlay.Mark{Hash: overlay.ChainStart(log)}, true
	}
	if s.Seq > 0 && seq == s.Seq {
		return overlay.Mark{Seq: s.Seq, Hash: s.Hash}, true
	}
	for _, i := range s.Islands {
		switch {
		case seq == i.End.Seq:
			return i.End, true
		case seq >= i.After.Seq && seq < i.End.Seq:
			m, ok = i.After, true
		}
	}
	if at := h.heads.upTo(seq); ok && at != nil && at.pos.Seq > m.Seq {
		m = overlay.Mark{Seq: at.pos.Seq, Hash: at.pos.Hash}
	}
	return m, ok
}

// after returns the nearest place at or past seq behind which an island begins;
// nil if there is none.
func (l *logs) after(log overlay.LogID, seq uint64) *lead {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil {
		return nil
	}
	for _, i := range h.state.Islands {
		if i.After.Seq < seq {
			continue
		}
		if at := h.heads.at(i.After.Seq); at != nil && at.pos.Hash == i.After.Hash {
			return at
		}
		return &lead{pos: overlay.Position{Log: log, Seq: i.After.Seq, Hash: i.After.Hash}}
	}
	return nil
}

// frame returns the encoded Batch of entries from.., without the head if that was
// sent before; a batch that was just made for another follower is not made again.
func (l *logs) frame(log overlay.LogID, from uint64, entries []overlay.BatchEntry, end *lead, bare bool) ([]byte, error) {
	l.mu.Lock()
	h := l.held[log]
	l.mu.Unlock()
	if h == nil {
		return nil, errNoHead
	}
	last := from - 1
	size := frameRoom
	for i := range entries {
		last += entries[i].Len()
		size += entrySize(&entries[i])
	}
	c := &h.encode
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frame != nil && c.from == from && c.end == last && c.lead == end && c.bare == bare {
		return c.frame, nil
	}
	head := end.get(l.sign)
	if head == nil {
		return nil, errNoHead
	}
	if bare {
		head = nil
	}
	c.frame = overlay.AppendFrame(make([]byte, 0, size), &overlay.Batch{Log: log, From: from, Entries: entries, Head: head})
	c.from, c.end, c.lead, c.bare = from, last, end, bare
	return c.frame, nil
}

package gossip

import (
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// buriedFor is how long it is told that a log is held no more.
const buriedFor = 10 * time.Minute

// maxBuried bounds the logs of which that is told.
const maxBuried = overlay.MaxVector

// logs is what is held of every log: positions, tails for live followers, and
// heads for serving history. It follows the Replica through Committed.
type logs struct {
	self identity.PillarID
	sign func(*lead) *overlay.Head
	full chan struct{} // capacity 1; of heads that are to be stored

	mu      sync.Mutex
	held    map[overlay.LogID]*heldLog              // guarded by mu
	version uint64                                  // guarded by mu; counts changes of what is told
	rewrote uint64                                  // guarded by mu; version at which a log was last lowered
	own     overlay.LogID                           // guarded by mu; this run's own log, zero before its first entry
	bytes   int                                     // guarded by mu; of all tails
	dead    map[overlay.LogID]struct{}              // guarded by mu; forked: never told, served or followed
	buried  map[overlay.LogID]burial                // guarded by mu; logs that were told and are held no more
	litter  map[overlay.LogID]int                   // guarded by mu; logs held no more, and how many heads of them are on disk
	coming  map[overlay.LogID]map[*taken]*additions // guarded by mu; heads of runs that are being stored
	due     *lead                                   // guarded by mu; to be kept of the own log, by the commit that is being made
}

// burial is when a log stopped being held.
type burial struct {
	version uint64
	at      time.Time
}

// heldLog is one log. Its fields are guarded by logs.mu but for encode.
type heldLog struct {
	state   overlay.LogState
	version uint64 // logs.version at its last change
	tail    tail
	heads   heads
	newest  *lead        // at the top, as of when it was last asked for
	since   int          // bytes committed to an own log since the last of heads
	base    overlay.Mark // its wholly gone beginning, which heads signed here say
	grown   time.Time    // when it was appended to in this run
	waiting map[*follower]struct{}
	recent  []overlay.Mark // the newest ends of commits at the top, ascending

	encode encodeCache
}

func newLogs(self identity.PillarID, sign func(*lead) *overlay.Head) *logs {
	return &logs{self: self, sign: sign, full: make(chan struct{}, 1), held: map[overlay.LogID]*heldLog{}, coming: map[overlay.LogID]map[*taken]*additions{},
		dead: map[overlay.LogID]struct{}{}, buried: map[overlay.LogID]burial{}, litter: map[overlay.LogID]int{}}
}

// load takes a log's state as the Replica keeps it, with the heads stored for it.
func (l *logs) load(s overlay.LogState, disk *storedHeads, now uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.get(s.Log)
	h.state, h.base = s, s.Base
	h.heads.load(&s, disk, now)
	l.version++
	h.version = l.version
}

// get returns the entry of a log, a new one if there is none. l.mu is held.
func (l *logs) get(log overlay.LogID) *heldLog {
	h := l.held[log]
	if h == nil {
		h = &heldLog{waiting: map[*follower]struct{}{}}
		l.held[log] = h
		delete(l.buried, log)
	}
	return h
}

// topLead returns the lead at the top of what is held; nil if no head stands
// there and this pillar cannot sign one.
func (l *logs) topLead(h *heldLog) *lead {
	s := &h.state
	top := s.Top()
	if n := h.newest; n != nil && n.pos.Seq == top.Seq && n.pos.Hash == top.Hash {
		return n
	}
	switch {
	case top.Seq == 0:
		h.newest = nil
	case s.Head != nil && s.Head.Seq == top.Seq && s.Head.Hash == top.Hash && (s.Pillar != l.self || s.Head.BaseSeq >= h.base.Seq):
		h.newest = headLead(s.Log, s.Head)
	case s.Pillar == l.self:
		h.newest = &lead{pos: overlay.Position{Log: s.Log, Seq: top.Seq, Hash: top.Hash}, dies: s.Dies, nonce: s.Nonce, base: h.base}
	default:
		h.newest = h.heads.at(top.Seq)
	}
	return h.newest
}

// committed takes a durable change. It returns the peers that follow the log
// here, for the own one.
func (l *logs) committed(c *overlay.LogCommit, now time.Time) map[peer.ID]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.get(c.State.Log)
	switch {
	case c.Own:
		l.own = c.State.Log
	case l.own == c.State.Log: // closed: what it lost comes from others, as of any log
		l.own = overlay.LogID{}
	}
	h.state = c.State
	if h.base != c.State.Base {
		h.base, h.newest = c.State.Base, nil // signed anew
	}
	l.version++
	h.version = l.version
	if c.Rewritten {
		l.rewrote = l.version
		h.recent = nil
		l.bytes -= h.tail.bytes
		h.tail = tail{}
	}
	if len(c.Entries) > 0 {
		h.grown = now
		l.append(h, c, now)
	}
	h.heads.settle(&h.state)
	var peers map[peer.ID]bool
	if c.Own {
		peers = make(map[peer.ID]bool, len(h.waiting))
	}
	for f := range h.waiting {
		if c.Own {
			peers[f.peer] = true
		}
		f.notify()
	}
	return peers
}

// append puts what was committed at a log's top into its tail. History that was
// filled in below it is read from the store. l.mu is held.
func (l *logs) append(h *heldLog, c *overlay.LogCommit, now time.Time) {
	last := c.From - 1
	size, whole := 0, true
	for i := range c.Entries {
		e := &c.Entries[i]
		last += e.Len()
		size += entrySize(e) + entryMemory
		whole = whole && e.Why != overlay.WhyGone
	}
	top := h.state.Top().Seq
	if last != top {
		if n := len(h.tail.segments); n > 0 && h.tail.segments[n-1].last() != top {
			l.bytes -= h.tail.bytes
			h.tail = tail{}
		}
		return
	}
	if h.recent = append(h.recent, h.state.Top()); len(h.recent) >= 2*recentEnds {
		h.recent = slices.Clone(h.recent[recentEnds:])
	}
	if d := l.due; d != nil && d.pos == (overlay.Position{Log: c.State.Log, Seq: top, Hash: h.state.Top().Hash}) {
		h.newest = d // it is on the disk
	}
	end := l.topLead(h)
	if end == nil || !whole {
		l.bytes -= h.tail.bytes
		h.tail = tail{}
		return
	}
	s := &segment{from: c.From, entries: c.Entries, lead: end, at: now, bytes: size}
	l.bytes += h.tail.push(s, min(tailBytes, max(tailBytes/8, tailsBytes/len(l.held))))
	if h.since += size; h.state.Pillar == l.self && l.keep(&h.heads, end, h.since >= headBytes) {
		h.since = 0
	}
}

// state returns a log's state, false if nothing of it is held.
func (l *logs) state(log overlay.LogID) (overlay.LogState, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil || h.state.Top().Seq == 0 {
		return overlay.LogState{}, false
	}
	return h.state, true
}

// ownPosition is the position of this run's own log, zero before its first
// entry.
func (l *logs) ownPosition() overlay.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.held[l.own]; h != nil {
		return h.state.Position
	}
	return overlay.Position{}
}

// vector returns the positions that are told of the logs that live at now (Unix
// ms) and changed after version since, and the version it stands for.
func (l *logs) vector(now, since uint64) (overlay.Vector, uint64) {
	all, _, version := l.told(now, since)
	v := make(overlay.Vector, 0, len(all))
	for i := range all {
		if all[i].Position.Seq > 0 {
			v = append(v, all[i].Position)
		}
	}
	return v[:min(len(v), overlay.MaxVector)], version
}

// toldLog is what is told of one log: all of it.
type toldLog struct {
	overlay.Position
	pillar identity.PillarID // empty of a log that is held no more
	above  []overlay.Span
}

// dies is until when a log lives, as far as is known: its newest head may be past
// what is held.
func dies(s *overlay.LogState) uint64 {
	if s.Head != nil {
		return max(s.Dies, s.Head.Dies)
	}
	return s.Dies
}

// told returns what is promised of the logs that live at now (Unix ms) and
// changed after version since, ascending, and the version it stands for. whole
// says that it is everything: at first, and when a log holds less than before.
func (l *logs) told(now, since uint64) (all []toldLog, whole bool, version uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if whole = since == 0 || l.rewrote > since; whole {
		since = 0
	}
	for id, h := range l.held {
		if _, dead := l.dead[id]; dead || h.version <= since || dies(&h.state) <= now {
			continue
		}
		pos, above := h.state.Told()
		if pos.Seq > 0 || len(above) > 0 {
			all = append(all, toldLog{pos, h.state.Pillar, above})
		}
	}
	if !whole {
		for id, b := range l.buried {
			if b.version > since {
				all = append(all, toldLog{Position: overlay.Position{Log: id, Hash: overlay.ChainStart(id)}})
			}
		}
	}
	slices.SortFunc(all, func(a, b toldLog) int { return slices.Compare(a.Log[:], b.Log[:]) })
	return all, whole, l.version
}

// written returns how many of the logs held are p's.
func (l *logs) written(p identity.PillarID) (n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, h := range l.held {
		if h.state.Pillar == p {
			n++
		}
	}
	return n
}

// listen registers a follower of a log for its commits; the returned function
// undoes it.
func (l *logs) listen(log overlay.LogID, f *follower) func() {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.get(log)
	h.waiting[f] = struct{}{}
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(h.waiting, f)
	}
}

// top is the highest entry held of a log.
func (l *logs) top(log overlay.LogID) uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.held[log]; h != nil {
		return h.state.Top().Seq
	}
	return 0
}

// holdsAny reports whether anything of a log is held.
func (l *logs) holdsAny(log overlay.LogID) bool { return l.top(log) > 0 }

// maintain gives back memory of tails nobody needed for a while and returns the
// logs that have heads to be stored.
func (l *logs) maintain(now time.Time) (dirty []overlay.LogID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, h := range l.held {
		l.bytes -= h.tail.expire(now.Add(-tailKeep))
		if len(h.tail.segments) == 0 && h.encode.mu.TryLock() {
			h.encode.frame, h.encode.lead = nil, nil
			h.encode.mu.Unlock()
		}
		if h.heads.dirty() {
			dirty = append(dirty, id)
		}
	}
	for id, b := range l.buried {
		if now.Sub(b.at) > buriedFor {
			delete(l.buried, id)
		}
	}
	return dirty
}

// forget drops a log that is held no more and ends its followers.
func (l *logs) forget(log overlay.LogID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil {
		return
	}
	for f := range h.waiting {
		f.end()
	}
	l.bytes -= h.tail.bytes
	delete(l.held, log)
	if log == l.own {
		l.own = overlay.LogID{}
	}
	l.version++
	if len(l.buried) < maxBuried {
		l.buried[log] = burial{l.version, time.Now()}
	}
	l.litter[log] = len(h.heads.kept)
}

// takeLitter returns the logs whose heads are to be removed from disk, with how
// many there are.
func (l *logs) takeLitter() map[overlay.LogID]int {
	l.mu.Lock()
	defer l.mu.Unlock()
	litter := l.litter
	l.litter = map[overlay.LogID]int{}
	for log := range litter {
		if l.held[log] != nil {
			delete(litter, log) // it is held again, and its heads with it
		}
	}
	return litter
}

// deadHeld returns the dead logs that are held all the same.
func (l *logs) deadHeld() (held []overlay.LogID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for log := range l.dead {
		if h := l.held[log]; h != nil && h.state.Top().Seq > 0 {
			held = append(held, log)
		}
	}
	return held
}

// kill marks a log as dead; revive forgets that.
func (l *logs) kill(log overlay.LogID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.dead[log] = struct{}{}
	if h := l.held[log]; h != nil {
		for f := range h.waiting {
			f.end()
		}
	}
}

func (l *logs) revive(log overlay.LogID) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.dead, log)
}

// isDead reports whether a log was killed.
func (l *logs) isDead(log overlay.LogID) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, dead := l.dead[log]
	return dead
}

package gossip

import (
	"cmp"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// logs is what is held of every log: positions, tails for live followers, and
// heads for serving history. It follows the Replica through Committed.
type logs struct {
	self identity.PillarID
	sign func(*lead) *overlay.Head

	mu      sync.Mutex
	held    map[overlay.LogID]*heldLog // guarded by mu
	version uint64                     // guarded by mu; counts changes of positions
	own     overlay.LogID              // guarded by mu; this run's own log, zero before its first entry
	bytes   int                        // guarded by mu; of all tails
}

// heldLog is one log. Its fields are guarded by logs.mu but for encode.
type heldLog struct {
	state   overlay.LogState
	version uint64 // logs.version at its last change
	tail    tail
	newest  *lead     // at the prefix's end, or past it; nil if no head is known
	heads   []*lead   // kept for history, ascending
	stored  int       // how many of heads the disk has
	since   int       // bytes committed since the last of heads
	grown   time.Time // when it was appended to in this run
	waiting map[*follower]struct{}

	encode encodeCache
}

// encodeCache keeps the last encoded batch of a log: followers at one position
// get the same bytes.
type encodeCache struct {
	mu    sync.Mutex
	from  uint64
	end   uint64
	lead  *lead
	frame []byte
}

func newLogs(self identity.PillarID, sign func(*lead) *overlay.Head) *logs {
	return &logs{self: self, sign: sign, held: map[overlay.LogID]*heldLog{}}
}

// load takes a log's state as the Replica keeps it, with the heads stored for
// it, ascending.
func (l *logs) load(s overlay.LogState, heads []*overlay.Head) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.get(s.Log)
	h.state = s
	for _, head := range heads {
		h.heads = append(h.heads, &lead{
			pos:  overlay.Position{Log: s.Log, Seq: head.Seq, Hash: head.Hash},
			dies: head.Dies, head: head,
		})
	}
	h.stored = len(h.heads)
	h.newest = l.leadOf(&s)
	l.version++
	h.version = l.version
}

// get returns the entry of a log, a new one if there is none. l.mu is held.
func (l *logs) get(log overlay.LogID) *heldLog {
	h := l.held[log]
	if h == nil {
		h = &heldLog{waiting: map[*follower]struct{}{}}
		l.held[log] = h
	}
	return h
}

// leadOf returns the newest lead of a state; nil if there is no head and this
// pillar cannot sign one.
func (l *logs) leadOf(s *overlay.LogState) *lead {
	own := s.Pillar == l.self
	switch {
	case s.Seq == 0:
		return nil
	case s.Head != nil && (s.Head.Seq >= s.Seq || !own):
		return &lead{pos: s.Position, dies: s.Head.Dies, nonce: s.Nonce, head: s.Head}
	case own:
		return &lead{pos: s.Position, dies: s.Dies, nonce: s.Nonce}
	default:
		return nil
	}
}

// committed takes a durable run. It returns the peers that follow the log here,
// for the own one.
func (l *logs) committed(c *overlay.LogCommit, now time.Time) map[peer.ID]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.get(c.State.Log)
	if c.Own {
		l.own = c.State.Log
	}
	if c.State.Seq <= h.state.Seq {
		return nil
	}
	h.state, h.grown = c.State, now
	end := l.leadOf(&c.State)
	if end != nil {
		h.newest = end
	}
	if len(c.Entries) > 0 && end != nil && c.From+uint64(len(c.Entries))-1 == c.State.Seq && end.seq() >= c.State.Seq {
		s := &segment{from: c.From, entries: c.Entries, lead: end, at: now}
		for i := range c.Entries {
			s.bytes += entrySize(&c.Entries[i]) + entryMemory
		}
		h.since += s.bytes
		l.bytes += h.tail.push(s, min(tailBytes, max(tailBytes/8, tailsBytes/len(l.held))))
		l.keepHead(h, end)
	} else {
		l.bytes -= h.tail.bytes
		h.tail = tail{}
	}
	l.version++
	h.version = l.version
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

// keepHead adds end to the heads kept for history once enough came since the
// last one. l.mu is held.
func (l *logs) keepHead(h *heldLog, end *lead) {
	var last uint64
	if n := len(h.heads); n > 0 {
		last = h.heads[n-1].pos.Seq
	}
	if end.seq() != end.pos.Seq || end.pos.Seq < last+headEvery && h.since < headBytes {
		return
	}
	h.heads = append(h.heads, end)
	h.since = 0
}

// position returns how far a log is held; Seq 0 and the chain's start if it is
// not.
func (l *logs) position(log overlay.LogID) overlay.Position {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.held[log]; h != nil && h.state.Seq > 0 {
		return h.state.Position
	}
	return overlay.Position{Log: log, Hash: overlay.ChainStart(log)}
}

// state returns a log's state, false if it is not held.
func (l *logs) state(log overlay.LogID) (overlay.LogState, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil || h.state.Seq == 0 {
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

// vector returns the positions of the logs that live at now (Unix ms) and
// changed after version since, and the version it stands for.
func (l *logs) vector(now, since uint64) (overlay.Vector, uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	v := make(overlay.Vector, 0, len(l.held))
	for _, h := range l.held {
		if h.state.Seq > 0 && h.state.Dies > now && h.version > since {
			v = append(v, h.state.Position)
		}
	}
	v.Sort()
	if len(v) > overlay.MaxVector {
		v = v[:overlay.MaxVector]
	}
	return v, l.version
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

// live returns what the tail has from entry from on; nil entries and ahead true
// if from lies before the tail and must be read from the store, ahead false if
// it lies past the end.
func (l *logs) live(log overlay.LogID, from uint64) (entries []overlay.BatchEntry, end *lead, ahead bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil || from > h.state.Seq {
		return nil, nil, false
	}
	entries, end = h.tail.run(from)
	return entries, end, true
}

// link says how a run read from the store, entries from..last, leads to a
// signed head: at most n entries of it, and the head's lead; 0 if none reaches
// it.
func (l *logs) link(log overlay.LogID, from, last uint64) (n int, end *lead) {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil {
		return 0, nil
	}
	// The last head inside the run ends it; else the first one past it.
	i, _ := slices.BinarySearchFunc(h.heads, last+1, func(x *lead, seq uint64) int { return cmp.Compare(x.pos.Seq, seq) })
	newest := h.newest
	if newest != nil && newest.seq() <= last && newest.seq() >= from {
		return int(newest.seq() - from + 1), newest
	}
	if i > 0 && h.heads[i-1].pos.Seq >= from {
		return int(h.heads[i-1].pos.Seq - from + 1), h.heads[i-1]
	}
	if i < len(h.heads) {
		return int(last - from + 1), h.heads[i]
	}
	if newest != nil && newest.seq() > last {
		return int(last - from + 1), newest
	}
	return 0, nil
}

// frame returns the encoded Batch of entries from..; a batch that was just made
// for another follower is not made again.
func (l *logs) frame(log overlay.LogID, from uint64, entries []overlay.BatchEntry, end *lead) ([]byte, error) {
	l.mu.Lock()
	h := l.held[log]
	l.mu.Unlock()
	if h == nil {
		return nil, errNoHead
	}
	last := from + uint64(len(entries)) - 1
	c := &h.encode
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.frame != nil && c.from == from && c.end == last && c.lead == end {
		return c.frame, nil
	}
	head := end.get(l.sign)
	if head == nil {
		return nil, errNoHead
	}
	size := frameRoom
	for i := range entries {
		size += entrySize(&entries[i])
	}
	c.frame = overlay.AppendFrame(make([]byte, 0, size), &overlay.Batch{Log: log, From: from, Entries: entries, Head: head})
	c.from, c.end, c.lead = from, last, end
	return c.frame, nil
}

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
		if h.stored < len(h.heads) {
			dirty = append(dirty, id)
		}
	}
	return dirty
}

// forget drops logs that died an hour before now (Unix ms), and did not grow
// since, and returns them with the number of heads they had on disk.
func (l *logs) forget(now uint64) map[overlay.LogID]int {
	const hour = 60 * 60 * 1000
	gone := map[overlay.LogID]int{}
	l.mu.Lock()
	defer l.mu.Unlock()
	for id, h := range l.held {
		if id != l.own && h.state.Seq > 0 && h.state.Dies+hour < now && time.Since(h.grown) > time.Hour && len(h.waiting) == 0 {
			gone[id] = h.stored
			l.bytes -= h.tail.bytes
			delete(l.held, id)
		}
	}
	return gone
}

// headsFrom returns the kept heads of a log from index i on.
func (l *logs) headsFrom(log overlay.LogID, i int) []*lead {
	l.mu.Lock()
	defer l.mu.Unlock()
	h := l.held[log]
	if h == nil || i > len(h.heads) {
		return nil
	}
	return slices.Clone(h.heads[i:])
}

// headsStored returns how many heads of a log the disk has; headsWritten sets
// it.
func (l *logs) headsStored(log overlay.LogID) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.held[log]; h != nil {
		return h.stored
	}
	return 0
}

func (l *logs) headsWritten(log overlay.LogID, n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h := l.held[log]; h != nil {
		h.stored = n
	}
}

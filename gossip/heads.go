package gossip

import (
	"slices"
	"sort"
	"sync"

	"github.com/obelisk-network/obelisk/overlay"
)

// lead is a position of a log that a signed head stands at. For logs of other
// pillars the head came with the entries; for the own ones it is signed when it
// is first needed, once, however many followers need it.
type lead struct {
	pos   overlay.Position
	dies  uint64
	nonce [overlay.LogNonceLen]byte
	base  overlay.Mark

	mu   sync.Mutex
	head *overlay.Head // guarded by mu
}

// headLead is the lead of a head that is signed already.
func headLead(log overlay.LogID, h *overlay.Head) *lead {
	return &lead{pos: overlay.Position{Log: log, Seq: h.Seq, Hash: h.Hash}, dies: h.Dies, nonce: h.Nonce, head: h}
}

// over reports whether the head says that every entry up to seq has expired by
// now.
func (l *lead) over(seq, now uint64) bool {
	h := overlay.Head{Seq: l.pos.Seq, BaseSeq: l.baseSeq(), Dies: l.dies}
	return l.pos.Seq >= seq && h.Over(seq, now)
}

// baseSeq is up to where the head says that everything is gone.
func (l *lead) baseSeq() uint64 {
	if h := l.known(); h != nil {
		return h.BaseSeq
	}
	return l.base.Seq
}

// get returns the head, signed by sign if there is none yet; nil if it cannot
// be.
func (l *lead) get(sign func(l *lead) *overlay.Head) *overlay.Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head == nil {
		l.head = sign(l)
	}
	return l.head
}

// known returns the head if it is signed already.
func (l *lead) known() *overlay.Head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.head
}

// reachedHead is a head that a followed run ended at.
type reachedHead struct {
	head   *overlay.Head
	spaced bool   // enough bytes came since the last one that was kept
	gone   uint64 // not 0: it may be past the run's end, and says that everything up to here has expired
}

// heads are the signed heads of one log: those kept for serving history, one in
// headEvery entries or headBytes bytes, those where the prefix or an island begins
// or ends, which are what a fork is proven with, and those that vouch for what is
// gone.
//
// The disk has each of them since the commit that made it needed: kept ones in a
// note of those that are fresh, and from there in large ones a few seconds later.
type heads struct {
	kept    []*lead // ascending
	stored  int     // how many of kept are in the large notes, unchanged
	writing int     // what stored is when that is written which is being written
	fresh   []*lead // of kept, those that are in none of the large notes
	ends    []*lead // ascending; at the ends of what is held now
	unsaid  bool    // ends changed since they were stored
	covers  covers
}

// storedHeads is what the disk has of a log's heads.
type storedHeads struct {
	kept, fresh, ends []*overlay.Head
	covers            []cover
}

// load takes what the disk has.
func (h *heads) load(s *overlay.LogState, disk *storedHeads, now uint64) {
	for _, head := range disk.kept {
		h.kept = append(h.kept, headLead(s.Log, head))
	}
	h.stored = len(h.kept)
	for _, head := range disk.fresh {
		h.insert(headLead(s.Log, head))
	}
	h.covers.list = disk.covers
	for _, head := range disk.ends {
		// Once covers stood among the ends.
		if l := headLead(s.Log, head); !h.note(l, s) && l.over(l.pos.Seq, now) {
			h.covers.vouch(l, l.pos.Seq, false)
		} else if head.BaseSeq > 0 {
			h.covers.vouch(l, head.BaseSeq, false)
		}
	}
	h.unsaid = false
}

// dirty reports whether something is to be stored.
func (h *heads) dirty() bool {
	return h.stored < len(h.kept) || len(h.fresh) > 0 || h.unsaid || h.covers.unsaid
}

// keep adds l unless one is kept close by; forced if much came since the last.
// Heads are kept at the first place past each multiple of headEvery, so that
// most holders keep the same, and none lacks one for twice as many entries and a
// commit. It reports whether l was added.
func (h *heads) keep(l *lead, forced bool) bool { return h.lacks(l.pos.Seq, forced) && h.insert(l) }

// lacks reports whether a head at seq would be kept.
func (h *heads) lacks(seq uint64, forced bool) bool {
	i, found := slices.BinarySearchFunc(h.kept, seq, markOrder)
	bucket := seq / headEvery
	return !found && (forced || bucket > 0 && (i == 0 || h.kept[i-1].pos.Seq/headEvery != bucket) &&
		(i == len(h.kept) || h.kept[i].pos.Seq/headEvery != bucket))
}

// insert adds l to those kept, if none is kept there.
func (h *heads) insert(l *lead) bool {
	i, found := slices.BinarySearchFunc(h.kept, l.pos.Seq, markOrder)
	if found {
		return false
	}
	h.kept = slices.Insert(h.kept, i, l)
	h.stored, h.writing = min(h.stored, i), min(h.writing, i)
	h.fresh = append(h.fresh, l)
	return true
}

// note remembers l if something ends or begins at it in s, and reports whether it
// does.
func (h *heads) note(l *lead, s *overlay.LogState) bool {
	if !isEnd(s, overlay.Mark{Seq: l.pos.Seq, Hash: l.pos.Hash}) {
		return false
	}
	if i, found := slices.BinarySearchFunc(h.ends, l.pos.Seq, markOrder); !found {
		h.ends = slices.Insert(h.ends, i, l)
		h.unsaid = true
	}
	return true
}

// over is the last entry up to which covers on disk say that everything has expired
// by now. What others say is one of them from now on, so that they will.
func (h *heads) over(now uint64) uint64 {
	for _, list := range [][]*lead{h.kept, h.ends} {
		i := sort.Search(len(list), func(i int) bool { return list[i].dies > now }) // dies grows with a log
		if i > 0 {
			h.covers.vouch(list[i-1], list[i-1].pos.Seq, false)
		}
	}
	return h.covers.over(now)
}

// settle forgets ends at which nothing ends any more, and notes the newest head.
func (h *heads) settle(s *overlay.LogState) {
	if s.Head != nil {
		h.note(headLead(s.Log, s.Head), s)
	}
	was := len(h.ends)
	h.ends = slices.DeleteFunc(h.ends, func(l *lead) bool {
		return !isEnd(s, overlay.Mark{Seq: l.pos.Seq, Hash: l.pos.Hash})
	})
	h.unsaid = h.unsaid || len(h.ends) < was
}

func isEnd(s *overlay.LogState, m overlay.Mark) bool {
	if m.Seq == s.Seq {
		return m.Hash == s.Hash
	}
	for _, i := range s.Islands {
		if m == i.After || m == i.End {
			return true
		}
	}
	return false
}

// at returns the head at seq; nil if there is none.
func (h *heads) at(seq uint64) *lead {
	for _, list := range [][]*lead{h.kept, h.ends} {
		if i, found := slices.BinarySearchFunc(list, seq, markOrder); found {
			return list[i]
		}
	}
	return nil
}

// from returns the first head at or past seq.
func (h *heads) from(seq uint64) (first *lead) {
	for _, list := range [][]*lead{h.kept, h.ends} {
		i, _ := slices.BinarySearchFunc(list, seq, markOrder)
		if i < len(list) && (first == nil || list[i].pos.Seq < first.pos.Seq) {
			first = list[i]
		}
	}
	return first
}

// upTo returns the last head at or before seq.
func (h *heads) upTo(seq uint64) (last *lead) {
	for _, list := range [][]*lead{h.kept, h.ends} {
		i, found := slices.BinarySearchFunc(list, seq, markOrder)
		if found {
			return list[i]
		}
		if i > 0 && (last == nil || list[i-1].pos.Seq > last.pos.Seq) {
			last = list[i-1]
		}
	}
	return last
}

// last returns the newest head that stands at something held.
func (h *heads) last(s *overlay.LogState) *lead {
	for seq := s.Top().Seq; ; {
		l := h.upTo(seq)
		if l == nil || s.Holds(l.pos.Seq) {
			return l
		}
		seq = l.pos.Seq - 1
	}
}

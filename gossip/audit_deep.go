package gossip

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"math/bits"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/gossip/sketch"
	"github.com/obelisk-network/obelisk/overlay"
)

// Sizes of deep rounds.
const (
	maxPartBits  = 12   // at most so many parts, as a power of two
	partDiffers  = 512  // differences of a part aimed at
	partRecords  = 8192 // and records
	partsAtOnce  = 16   // parts decoded and repaired together
	maxQuestions = 64   // questions for cells of the same parts
)

// A deep round names records anew, under a key that both make of a seed just
// drawn, so nobody can have prepared for it; divides them in parts by these
// names; and compares part by part. It copes with differences of any number and
// with records that have equal short IDs. It reads no disk to compare: of each
// record 16 bytes are in memory. For two records to have those in common takes
// 2^64 hashes, if their author knows the short key. So where such a round finds
// nothing though sums differ, and keeps finding nothing once all is counted anew,
// the next one names whole IDs, read from the disk: see ADR 0015.

// deepSet is what one side has in a deep round.
type deepSet struct {
	key     overlay.ShortKey
	bits    uint64
	parts   map[uint64][]deepItem
	differs map[uint64]bool
}

type deepItem struct {
	name uint64
	place
}

// makeDeep names places and divides them.
func makeDeep(key overlay.ShortKey, bits uint64, places []place) (*deepSet, []overlay.AuditPart) {
	sums := make([]overlay.AuditPart, 1<<bits)
	items := make([][]deepItem, 1<<bits)
	for _, p := range places {
		name, term := key.DeepTerms(p.prefix, p.short)
		i := name >> (64 - bits) // 0 if there is one part: Go shifts by 64
		items[i] = append(items[i], deepItem{name, p})
		sums[i].Count++
		sums[i].Digest += term
	}
	d := &deepSet{key: key, bits: bits, parts: map[uint64][]deepItem{}, differs: map[uint64]bool{}}
	parts := sums[:0]
	for i, s := range sums {
		if s.Count > 0 {
			s.Index = uint64(i)
			parts = append(parts, s)
			d.parts[s.Index] = items[i]
		}
	}
	return d, parts
}

// keep forgets the parts that do not differ.
func (d *deepSet) keep(differ []overlay.AuditPart) {
	for _, p := range differ {
		d.differs[p.Index] = true
	}
	for i := range d.parts {
		if !d.differs[i] {
			delete(d.parts, i)
		}
	}
}

// sketch makes the first n cells of a part.
func (d *deepSet) sketch(part uint64, n int) *sketch.Sketch {
	s := sketch.New(sketch.Key(d.key.CellKey()), min(n, overlay.MaxAuditCells))
	names := make([]uint64, len(d.parts[part]))
	for i := range names {
		names[i] = d.parts[part][i].name
	}
	s.Add(names...)
	return s
}

// find returns the places of records by their names.
func (d *deepSet) find(names []uint64) (found []place) {
	wanted := make(map[uint64]bool, len(names))
	parts := map[uint64]bool{}
	for _, n := range names {
		wanted[n], parts[n>>(64-d.bits)] = true, true
	}
	for i := range parts {
		for _, it := range d.parts[i] {
			if wanted[it.name] {
				found = append(found, it.place)
			}
		}
	}
	return found
}

// beginDeep reports whether a deep round with p may be begun; then end must be
// called.
func (a *audit) beginDeep(p peer.ID) (end func(), ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.track(p)
	if !t.deepBegun.IsZero() && time.Since(t.deepBegun) < deepEvery {
		return nil, false
	}
	select {
	case a.begun <- struct{}{}:
	default:
		return nil, false
	}
	t.deepBegun = time.Now()
	return func() { <-a.begun }, true
}

// beginWhole reports whether a deep round with p that is begun is to be one over
// whole IDs.
func (a *audit) beginWhole(p peer.ID) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.track(p)
	if !t.puzzled || !t.wholeBegun.IsZero() && time.Since(t.wholeBegun) < wholeEvery {
		return false
	}
	t.wholeBegun = time.Now()
	return true
}

// puzzle notes whether a deep round with p found nothing where sums differ.
func (a *audit) puzzle(p peer.ID, on bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.track(p).puzzled = on
}

// deepPlaces returns what a deep round compares, and under which key it is named
// in place of the network's; nil if the instants are too far from now's, or the
// key is not key any more.
func (h *holdings) deepPlaces(key overlay.ShortKey, q *overlay.Buckets) ([]place, overlay.ShortKey, error) {
	places, ok := h.allAt(key, q.Settled, q.Front)
	if !ok || !q.Whole {
		return places, key, nil
	}
	under := key.WholeKey(q.Seed)
	places, err := h.whole(under, q.Settled, q.Front)
	return places, under, err
}

// hostDeep reports whether the deep round of p may be joined, and whether it
// may be asked for at all; if joined, a value is in a.joined.
func (a *audit) hostDeep(p peer.ID, whole bool) (joined, allowed bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.track(p)
	if !t.deepHosted.IsZero() && time.Since(t.deepHosted) < deepAllowed {
		return false, false
	}
	if whole && !t.wholeHosted.IsZero() && time.Since(t.wholeHosted) < wholeAllowed {
		return false, false
	}
	select {
	case a.joined <- struct{}{}:
		t.deepHosted = time.Now()
		if whole {
			t.wholeHosted = t.deepHosted
		}
		return true, true
	default:
		return false, true
	}
}

// goDeep goes on with a deep round, unless there was one lately: then the next
// round does.
func (r *round) goDeep(ctx context.Context) error {
	r.Result = overlay.RoundDiffers
	end, ok := r.m.audit.beginDeep(r.s.peer)
	if !ok {
		if r.dry != nil {
			r.dry.later = true
		}
		return nil
	}
	defer end()
	r.m.met.deep.Inc()
	q := &overlay.Buckets{N: r.n, Settled: r.settled, Front: r.front, Whole: r.m.audit.beginWhole(r.s.peer)}
	rand.Read(q.Seed[:])
	places, under, err := r.m.holdings.deepPlaces(r.key, q)
	if err != nil {
		return err
	}
	if places == nil {
		r.Result = r.apartAs()
		return nil
	}
	r.under = under
	q.Bits = partBits(max(len(places), int(min(r.count, 1<<31))), r.guess)
	r.deep, q.Parts = makeDeep(r.key.DeepKey(q.Seed), q.Bits, places)
	reply, err := r.ask(ctx, q)
	if err != nil {
		return err
	}
	msg, ok := reply.(*overlay.Buckets)
	switch {
	case !ok || msg.Seed == q.Seed && (msg.Bits != q.Bits || msg.Whole != q.Whole):
		return r.fault(faultRound, "no Buckets")
	case msg.Seed != q.Seed: // not now
		return nil
	case len(msg.Parts) == 0:
		// What both have in memory is the same, so it is a sum that is wrong; or what
		// differed has come.
		r.Result = overlay.RoundEqual
		if now, ok := r.m.holdings.at(r.key, r.settled, r.front); ok && now == r.sent {
			r.m.audit.puzzle(r.s.peer, !q.Whole)
			r.m.holdings.distrust(0, 0)
		}
		return nil
	}
	r.m.audit.puzzle(r.s.peer, false)
	r.deep.keep(msg.Parts)
	r.await(ctx, true, true, func() bool { return true })
	for part := range slices.Chunk(msg.Parts, partsAtOnce) {
		if err := r.repairParts(ctx, part, r.guess/len(msg.Parts)); err != nil {
			return err
		}
		if r.late() {
			return nil // it differs still
		}
	}
	r.conclude()
	return nil
}

// partBits is in how many parts to divide n records with d differences.
func partBits(n, d int) uint64 {
	parts := max(d/partDiffers, n/partRecords)
	return min(maxPartBits, uint64(bits.Len(uint(parts))))
}

// partState is a part being decoded.
type partState struct {
	overlay.AuditPart // the other side's
	mine              *sketch.Sketch
	d                 *sketch.Decoder
	want              int
	failed            bool
}

// repairParts finds what differs in some parts and repairs it. guess is how
// many differences each may have.
func (r *round) repairParts(ctx context.Context, parts []overlay.AuditPart, guess int) error {
	states, err := r.decodeParts(ctx, parts, guess)
	if err != nil {
		return err
	}
	var push []place
	var wanted []uint64
	for _, s := range states {
		var onlyHere, onlyThere []uint64
		if s.failed {
			here, there, err := r.listPart(ctx, s.Index)
			if err != nil {
				return err
			}
			push, wanted = append(push, here...), append(wanted, there...)
			r.Differences += len(here) + len(there)
			continue
		}
		onlyHere, onlyThere = s.d.Symbols()
		r.Differences += len(onlyHere) + len(onlyThere)
		push, wanted = append(push, r.deep.find(onlyHere)...), append(wanted, onlyThere...)
	}
	if r.skipPush {
		push = nil
	}
	if r.skipFetch {
		wanted = nil
	}
	return r.exchange(ctx, naming{network: r.m.hashing(r.under), deep: &r.deep.key}, push, wanted)
}

// decodeParts asks for cells until each part is decoded, or has failed.
func (r *round) decodeParts(ctx context.Context, parts []overlay.AuditPart, guess int) ([]*partState, error) {
	states := make([]*partState, len(parts))
	open := make([]*partState, len(parts))
	for i, p := range parts {
		here := len(r.deep.parts[p.Index])
		most := min(overlay.MaxAuditCells, 2*sketch.CellsFor(here+int(p.Count)))
		states[i] = &partState{AuditPart: p, mine: r.deep.sketch(p.Index, most),
			d:    sketch.NewDecoder(sketch.Key(r.deep.key.CellKey()), most),
			want: max(firstCells, sketch.CellsFor(max(guess, countsApart(uint64(here), p.Count))))}
		open[i] = states[i]
	}
	for questions := 0; len(open) > 0; questions++ {
		if questions == maxQuestions {
			return nil, r.fault(faultCells, "cells without end")
		}
		q, left := &overlay.Cells{N: r.n}, overlay.MaxAuditCells
		for _, s := range open {
			want := min(s.want, s.mine.Len()-s.d.Len())
			if left -= want; left < 0 && len(q.Runs) > 0 {
				break
			}
			q.Runs = append(q.Runs, overlay.CellRun{Part: s.Index, From: uint64(s.d.Len()), Count: uint64(want)})
		}
		reply, err := r.ask(ctx, q)
		if err != nil {
			return nil, err
		}
		msg, ok := reply.(*overlay.Cells)
		if !ok || len(msg.Runs) == 0 || len(msg.Runs) > len(q.Runs) {
			return nil, r.fault(faultRound, "no cells")
		}
		for i := range msg.Runs {
			run, s := &msg.Runs[i], open[i]
			if run.Part != s.Index || run.From != uint64(s.d.Len()) {
				return nil, r.fault(faultRound, "other cells than asked for")
			}
			diff, err := r.readRun(run, s.mine)
			if err != nil {
				return nil, err
			}
			if err := s.d.Feed(diff); errors.Is(err, sketch.ErrForged) {
				r.m.scores.offend(r.s.peer, faultCells)
			}
			s.failed = !s.d.Done() && (s.d.Failed() || s.d.Len() == s.mine.Len())
			s.want = s.d.Len()/2 + firstCells
		}
		open = slices.DeleteFunc(open, func(s *partState) bool { return s.d.Done() || s.failed })
	}
	return states, nil
}

// listPart compares a part by the list of all that is in it.
func (r *round) listPart(ctx context.Context, part uint64) (here []place, there []uint64, err error) {
	reply, err := r.ask(ctx, &overlay.IDs{N: r.n, Parts: []uint64{part}})
	if err != nil {
		return nil, nil, err
	}
	msg, ok := reply.(*overlay.IDs)
	if !ok {
		return nil, nil, r.fault(faultRound, "no list")
	}
	theirs := map[ledgerItem]bool{}
	for b := msg.Items; len(b) > 0; b = b[overlay.AuditItemLen:] {
		theirs[ledgerItem{prefix: binary.BigEndian.Uint64(b), short: binary.BigEndian.Uint64(b[8:])}] = true
	}
	for _, it := range r.deep.parts[part] {
		if !theirs[it.ledgerItem] {
			here = append(here, it.place)
		}
		delete(theirs, it.ledgerItem)
	}
	names := naming{deep: &r.deep.key}
	for it := range theirs {
		there = append(there, names.item(it.short, it.prefix))
	}
	return here, there, nil
}

// answerBuckets makes the other side's round a deep one.
func (h *host) answerBuckets(msg *overlay.Buckets) overlay.Message {
	if h.deep != nil || msg.Settled != h.settled || msg.Front != h.front {
		h.m.scores.offend(h.s.peer, faultRound)
		return nil
	}
	joined, allowed := h.m.audit.hostDeep(h.s.peer, msg.Whole)
	if !allowed {
		h.m.scores.offend(h.s.peer, faultDeep)
	}
	notNow := &overlay.Buckets{N: h.n, Answer: true, Settled: h.settled, Front: h.front}
	if !joined {
		return notNow
	}
	places, under, err := h.m.holdings.deepPlaces(h.key, msg)
	if err != nil {
		h.m.log.Warn("join in a deep round", "err", err)
	}
	if places == nil {
		<-h.m.audit.joined
		return notNow
	}
	h.under = under
	h.m.met.deep.Inc()
	set, mine := makeDeep(h.key.DeepKey(msg.Seed), msg.Bits, places)
	reply := &overlay.Buckets{N: h.n, Answer: true, Settled: h.settled, Front: h.front, Seed: msg.Seed, Whole: msg.Whole, Bits: msg.Bits,
		Parts: differing(mine, msg.Parts)}
	if len(reply.Parts) == 0 && h.apart {
		h.m.holdings.distrust(0, 0)
	}
	set.keep(reply.Parts)
	h.deep = set
	return reply
}

// differing returns those of mine that are not in theirs as they are, and empty
// ones for what only they have.
func differing(mine, theirs []overlay.AuditPart) (out []overlay.AuditPart) {
	for len(mine) > 0 || len(theirs) > 0 {
		switch {
		case len(theirs) == 0 || len(mine) > 0 && mine[0].Index < theirs[0].Index:
			out, mine = append(out, mine[0]), mine[1:]
		case len(mine) == 0 || theirs[0].Index < mine[0].Index:
			out, theirs = append(out, overlay.AuditPart{Index: theirs[0].Index}), theirs[1:]
		default:
			if mine[0] != theirs[0] {
				out = append(out, mine[0])
			}
			mine, theirs = mine[1:], theirs[1:]
		}
	}
	return out
}

// listParts lists what is in parts that differ; nil if they do not, or if it
// would be too much.
func (h *host) listParts(parts []uint64) []byte {
	list := []byte{}
	for _, i := range parts {
		if h.deep == nil || !h.deep.differs[i] || len(list)/overlay.AuditItemLen+len(h.deep.parts[i]) > overlay.MaxAuditItems {
			return nil
		}
		for _, it := range h.deep.parts[i] {
			list = binary.BigEndian.AppendUint64(list, it.prefix)
			list = binary.BigEndian.AppendUint64(list, it.short)
		}
	}
	return list
}

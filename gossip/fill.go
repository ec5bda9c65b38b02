package gossip

import (
	"context"
	"errors"
	"math"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of filling gaps. A range costs its reader at most maxPendingBytes, and
// usually the few hundred kilobytes of a batch.
const (
	maxFills   = 4        // ranges at once
	maxFillsOf = 2        // from one provider
	fillRange  = 16 << 10 // entries of one
)

// offer is what a connected pillar tells of a log.
type offer struct {
	session *session
	told
	owner bool // the log is its own
}

// wanted is a log of which others tell something: what is held here, and who
// has what.
type wanted struct {
	log    overlay.LogID
	state  overlay.LogState // without a pillar if nothing is held
	held   spans
	offers []offer
	union  spans // of all offers
	most   uint64
}

// view is what all connected pillars tell, without what is dead or written
// here.
type view struct{ logs map[overlay.LogID]*wanted }

// look collects the view.
func (fs *follows) look() view {
	v := view{map[overlay.LogID]*wanted{}}
	own := fs.m.logs.ownPosition().Log
	for _, s := range fs.m.sessions.all() {
		s.eachTold(func(log overlay.LogID, t told) {
			if log == own {
				return
			}
			w := v.logs[log]
			if w == nil {
				w = &wanted{log: log}
				if state, ok := fs.m.logs.state(log); ok {
					w.state, w.held = state, heldSpans(&state)
				} else {
					w.state.Log, w.state.Hash = log, overlay.ChainStart(log)
				}
				v.logs[log] = w
			}
			w.offers = append(w.offers, offer{s, t, w.state.Pillar == s.id && s.id != ""})
			if len(w.offers) == 1 {
				w.union = t.runs
			} else {
				w.union = w.union.plus(t.runs)
			}
			w.most = max(w.most, t.runs.top())
		})
	}
	for log := range v.logs {
		if fs.m.logs.isDead(log) {
			delete(v.logs, log)
		}
	}
	return v
}

// fill starts ranges for what is missing below live follows: at most one more a
// log and round, so that none waits for the others. fs.mu is held.
func (fs *follows) fill(ctx context.Context, v view, now time.Time) {
	from := map[peer.ID]int{}
	for f := range fs.fills {
		from[f.provider.peer]++
	}
	for more := true; more && len(fs.fills) < maxFills; {
		more = false
		for _, w := range v.logs {
			if len(fs.fills) >= maxFills {
				return
			}
			if f := fs.nextFill(w, from, now); f != nil {
				from[f.provider.peer]++
				fs.start(ctx, f, now)
				more = true
			}
		}
	}
}

// gaps returns what ranges have to bring of a log: everything below what a live
// follow brings. fs.mu is held.
func (fs *follows) gaps(w *wanted) spans {
	upTo := max(w.state.Top().Seq, fs.begun[w.log])
	if upTo == 0 {
		return nil
	}
	return spans{{1, upTo}}.minus(w.held)
}

// nextFill returns the next range to fill of a log; nil if there is none, or
// nobody to ask. fs.mu is held.
func (fs *follows) nextFill(w *wanted, from map[peer.ID]int, now time.Time) *follow {
	gaps := fs.gaps(w)
	if len(gaps) == 0 {
		return nil
	}
	var claimed spans
	apart := len(w.state.Islands)
	if fs.active[w.log] != nil {
		apart++ // its own island, maybe still to come
	}
	for f := range fs.fills {
		if f.log == w.log {
			lo, hi := f.claims()
			claimed = claimed.add(lo, hi)
			if _, ok := w.edge(lo); !ok {
				apart++
			}
		}
	}
	for _, gap := range gaps.minus(claimed) {
		for lo := gap.from; lo <= gap.to; {
			before, joined := w.edge(lo)
			if !joined && apart+1 >= overlay.MaxIslands {
				break // it would be an island of its own
			}
			o, hi, next := fs.holder(w, lo, gap.to, from, now)
			if o == nil {
				if next == 0 || next > gap.to {
					break
				}
				lo = next
				continue
			}
			if !joined {
				before = overlay.Hash{}
			}
			if rest := gap.to - hi; rest > 0 && rest < fillRange/4 {
				if run, ok := o.runs.find(lo); ok {
					hi = min(run.to, gap.to)
				}
			}
			return &follow{m: fs.m, log: w.log, provider: o.session,
				ask: overlay.Follow{Log: w.log, From: lo, Before: before, To: hi}}
		}
	}
	return nil
}

// edge returns the hash behind which entry seq follows what is held, or the
// log's start.
func (w *wanted) edge(seq uint64) (overlay.Hash, bool) {
	if seq == w.state.Seq+1 {
		return w.state.Hash, true
	}
	for _, i := range w.state.Islands {
		if seq == i.End.Seq+1 {
			return i.End.Hash, true
		}
	}
	return overlay.Hash{}, false
}

// holder returns whom to ask for entries from lo on, and how far: of those that
// tell entry lo, who serves the fewest ranges, then who was fastest. If nobody
// tells it, who tells entries on both sides of it may have it for the chain at
// least. Else next is where somebody tells something again. fs.mu is held.
func (fs *follows) holder(w *wanted, lo, hi uint64, from map[peer.ID]int, now time.Time) (best *offer, to, next uint64) {
	to = min(hi, lo+fillRange-1)
	better := func(o *offer) bool {
		if from[o.session.peer] >= maxFillsOf || !fs.usable(w.log, o.session.peer, now) {
			return false
		}
		if best == nil {
			return true
		}
		a, b := from[o.session.peer], from[best.session.peer]
		return a < b || a == b && o.session.speed() > best.session.speed()
	}
	told := false
	for i := range w.offers {
		o := &w.offers[i]
		if run, ok := o.runs.find(lo); ok && !fs.isBarren(w.log, o, lo, now) {
			told = true
			if better(o) {
				best = o
				to = min(hi, lo+fillRange-1, run.to)
			}
		}
	}
	if best != nil {
		return best, to, 0
	}
	for _, run := range w.union {
		if run.from > lo {
			next = run.from
			break
		}
	}
	if told {
		return nil, 0, 0 // who has it is busy or not asked now
	}
	if next == 0 {
		return nil, 0, 0
	}
	for i := range w.offers {
		o := &w.offers[i]
		if o.runs.top() >= next && (lo == 1 || o.runs[0].from < lo) && !fs.isBarren(w.log, o, lo, now) && better(o) {
			best, to = o, min(hi, next-1)
		}
	}
	return best, to, next
}

// barren is a part of a log that a pillar was asked for, and of which nothing
// came. claimed says whether it told that it has it.
type barren struct {
	span
	claimed bool
	until   time.Time
}

// Bounds of what is remembered of them.
const (
	barrenFor = 10 * time.Second // then it is asked again
	maxBarren = 4 * overlay.MaxIslands
)

// noteBarren remembers what a range that ended brought nothing of: whoever is
// asked for it again at once has no more to give, and what lies behind it would
// wait. fs.mu is held.
func (fs *follows) noteBarren(f *follow, err error, now time.Time) {
	var busy busyError
	from := max(f.ask.From, f.reached.Load()+1)
	empty := err == nil && f.reached.Load() < max(1, f.begins.Load())
	if empty { // it may have begun behind what was asked for
		from = f.ask.From
	}
	if f.live || f.probes || from > f.ask.To ||
		!empty && !(errors.As(err, &busy) && (busy.refusal.Code == overlay.CodeNotFound || busy.refusal.Code == overlay.CodeUnreachable)) {
		return
	}
	if len(fs.barren) >= maxPenalties {
		clear(fs.barren)
	}
	key := penaltyKey{f.log, f.provider.peer}
	_, claimed := f.provider.told(f.log).runs.find(from)
	list := slices.DeleteFunc(fs.barren[key], func(b barren) bool { return now.After(b.until) })
	fs.barren[key] = append(list[max(0, len(list)-maxBarren+1):], barren{span{from, f.ask.To}, claimed, now.Add(barrenFor)})
}

// isBarren reports whether a pillar has lately given nothing of entry seq, and
// tells no more of it than then. fs.mu is held.
func (fs *follows) isBarren(log overlay.LogID, o *offer, seq uint64, now time.Time) bool {
	_, claims := o.runs.find(seq)
	return slices.ContainsFunc(fs.barren[penaltyKey{log, o.session.peer}], func(b barren) bool {
		return b.from <= seq && seq <= b.to && b.claimed == claims && now.Before(b.until)
	})
}

// speed is how fast ranges from the other side came; who was never asked is
// tried first.
func (s *session) speed() float64 {
	if v := s.rate.get(); v > 0 {
		return v
	}
	return math.MaxFloat64
}

// claims is what a range brings.
func (f *follow) claims() (lo, hi uint64) {
	lo = f.ask.From
	if b := f.begins.Load(); b > 0 {
		lo = b
	}
	return lo, max(lo, f.ask.To, f.reached.Load())
}

// ahead returns the nearest place past entry next that is held, or where another
// range begins, and whose hash is known; nil if there is none.
func (fs *follows) ahead(f *follow, next uint64) (first *lead) {
	first = fs.m.logs.after(f.log, next)
	fs.mu.Lock()
	defer fs.mu.Unlock()
	near := func(g *follow) {
		if at := g.opening.Load(); g != f && g.log == f.log && at != nil && at.pos.Seq >= next &&
			(first == nil || at.pos.Seq < first.pos.Seq) {
			first = at
		}
	}
	for g := range fs.fills {
		near(g)
	}
	if g := fs.active[f.log]; g != nil {
		near(g)
	}
	return first
}

// checkFill ends a range that stalls. fs.mu is held.
func (fs *follows) checkFill(f *follow, now time.Time) {
	moved := time.Unix(0, f.moved.Load())
	switch {
	case fs.m.logs.isDead(f.log):
		f.cancel(errForked)
	case f.reading.Load() && now.Sub(moved) > fillSilent*fs.m.cfg.Silent:
		f.cancel(faulty(faultSilent, "a range stalls at entry %d", f.reached.Load()))
	}
}

// fillSilent is how many times Silent a range may stall: providers put live
// followers first.
const fillSilent = 3

// missing is what a round of the supervisor found out.
type missing struct {
	entries uint64 // told by others and not here
	backlog uint64 // of them, what ranges have to bring
	logs    int    // in which something is missing
}

// measure counts what is missing. fs.mu is held.
func (fs *follows) measure(v view) (n missing) {
	for _, w := range v.logs {
		pos, above := w.state.Told()
		lacking := w.union.minus(makeTold(pos, above).runs)
		if len(lacking) == 0 {
			continue
		}
		n.logs++
		n.entries += lacking.count()
		for _, gap := range fs.gaps(w) {
			n.backlog += lacking.within(gap.from, gap.to).count()
		}
	}
	return n
}

// probe asks a pillar, whose vector has another hash at a place than at, to show
// its history: see doubts.
func (fs *follows) probe(ctx context.Context, s *session, at overlay.Mark, log overlay.LogID) {
	now := time.Now()
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.over || fs.m.logs.isDead(log) || !fs.usable(log, s.peer, now) {
		return
	}
	for f := range fs.fills {
		if f.log == log && f.provides(s.peer) {
			return
		}
	}
	fs.start(ctx, &follow{m: fs.m, log: log, provider: s, probes: true,
		ask: overlay.Follow{Log: log, From: at.Seq + 1, Before: at.Hash, To: at.Seq + 1}}, now)
}

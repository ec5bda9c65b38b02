package gossip

import (
	"cmp"
	"maps"
	"slices"
	"sync"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// maxAckRuns bounds the runs of the own log that are remembered of one pillar:
// a prefix and its islands, and as many that its streams brought.
const maxAckRuns = 4 * overlay.MaxIslands

// acks counts which entries of this run's own log are durable at other pillars,
// and tells the Replica. What a pillar once said stays true while it is away: it
// has the entries on its disk. When it is back it says so again, or that it has
// less.
//
// An ack counts from where its stream began, so that fresh records count for
// the write concern while history is still coming.
type acks struct {
	tell func(overlay.LogID, []overlay.Durable)

	mu    sync.Mutex                  // held while tell runs, so that it is told in order
	log   overlay.LogID               // guarded by mu
	held  uint64                      // guarded by mu; the log's own length
	runs  map[identity.PillarID]spans // guarded by mu; durable at each pillar
	edges []edge                      // guarded by mu; scratch
}

// edge is where a pillar's run begins (+1) or has ended (-1).
type edge struct {
	seq uint64
	by  int
}

func newAcks(tell func(overlay.LogID, []overlay.Durable)) *acks {
	return &acks{tell: tell, runs: map[identity.PillarID]spans{}}
}

// grow notes that the own log is held up to seq.
func (a *acks) grow(log overlay.LogID, seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if log != a.log {
		a.log, a.held = log, 0
		clear(a.runs)
	}
	a.held = max(a.held, seq)
}

// add notes that p holds from..to of log. Claims about other logs, or beyond
// the log's end, count for nothing.
func (a *acks) add(p identity.PillarID, log overlay.LogID, from, to uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if log != a.log || from == 0 || from > to || to > a.held {
		return
	}
	old := a.runs[p]
	if s, ok := old.find(to); ok && s.from <= from {
		return
	}
	grown := old.add(from, to)
	a.runs[p] = grown[max(0, len(grown)-maxAckRuns):]
	a.tellLocked()
}

// state takes what a pillar tells in a vector; whole if it is all that the
// pillar holds of any log, and it may be less than before: its disk may be an
// older one than it was.
func (a *acks) state(p identity.PillarID, log overlay.LogID, held spans, whole bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if log != a.log {
		return
	}
	if held.top() > a.held {
		held = nil // nobody can have what was not written
	}
	before := a.runs[p]
	after := slices.Clone(held) // add changes what is kept here
	if !whole {
		after = before.plus(held)
	}
	after = after[max(0, len(after)-maxAckRuns):]
	if slices.Equal(before, after) {
		return
	}
	if a.runs[p] = after; len(after) == 0 {
		delete(a.runs, p)
	}
	a.tellLocked()
}

// drop forgets the pillars that are none any more: what they hold is no copy.
func (a *acks) drop(none func(identity.PillarID) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before := len(a.runs)
	maps.DeleteFunc(a.runs, func(p identity.PillarID, _ spans) bool { return none(p) })
	if len(a.runs) < before {
		a.tellLocked()
	}
}

// own is the log that is counted.
func (a *acks) own() overlay.LogID {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.log
}

// tellLocked tells the Replica. a.mu is held.
func (a *acks) tellLocked() {
	a.edges = a.edges[:0]
	for _, runs := range a.runs {
		for _, r := range runs {
			a.edges = append(a.edges, edge{r.from, 1}, edge{r.to + 1, -1})
		}
	}
	slices.SortFunc(a.edges, func(x, y edge) int { return cmp.Compare(x.seq, y.seq) })
	var durable []overlay.Durable
	copies := 0
	for i := 0; i < len(a.edges); {
		seq := a.edges[i].seq
		for ; i < len(a.edges) && a.edges[i].seq == seq; i++ {
			copies += a.edges[i].by
		}
		if copies == 0 {
			continue
		}
		to := a.edges[i].seq - 1 // while copies > 0 an end is still to come
		if n := len(durable); n > 0 && durable[n-1].Copies == copies && durable[n-1].To == seq-1 {
			durable[n-1].To = to
		} else {
			durable = append(durable, overlay.Durable{From: seq, To: to, Copies: copies})
		}
	}
	a.tell(a.log, durable)
}

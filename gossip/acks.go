package gossip

import (
	"slices"
	"sync"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// acks counts how far this run's own log is durable at other pillars, and tells
// the Replica. What a pillar once said stays true while it is away: it has the
// entries on its disk. When it is back it says so again, or that it has less.
type acks struct {
	tell func(overlay.LogID, []overlay.Durable)

	mu     sync.Mutex                   // held while tell runs, so that it is told in order
	log    overlay.LogID                // guarded by mu
	held   uint64                       // guarded by mu; the log's own length
	seqs   map[identity.PillarID]uint64 // guarded by mu; durable at each pillar
	sorted []uint64                     // guarded by mu; scratch
}

func newAcks(tell func(overlay.LogID, []overlay.Durable)) *acks {
	return &acks{tell: tell, seqs: map[identity.PillarID]uint64{}}
}

// grow notes that the own log is held up to seq.
func (a *acks) grow(log overlay.LogID, seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if log != a.log {
		a.log, a.held = log, 0
		clear(a.seqs)
	}
	a.held = max(a.held, seq)
}

// set notes that p holds log up to seq. Claims about other logs, or beyond the
// log's end, count for nothing.
func (a *acks) set(p identity.PillarID, log overlay.LogID, seq uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if log != a.log || seq > a.held || seq <= a.seqs[p] {
		return
	}
	a.seqs[p] = seq
	a.tellLocked()
}

// restate takes the whole vector of a pillar that was away: its disk may be an
// older one than it was.
func (a *acks) restate(p identity.PillarID, v overlay.Vector) {
	a.mu.Lock()
	defer a.mu.Unlock()
	pos, _ := v.Find(a.log)
	if pos.Seq >= a.seqs[p] {
		return
	}
	if a.seqs[p] = pos.Seq; pos.Seq == 0 {
		delete(a.seqs, p)
	}
	a.tellLocked()
}

// tellLocked tells the Replica. a.mu is held.
func (a *acks) tellLocked() {
	a.sorted = a.sorted[:0]
	for _, s := range a.seqs {
		a.sorted = append(a.sorted, s)
	}
	slices.Sort(a.sorted)
	durable := make([]overlay.Durable, 0, len(a.sorted))
	from := uint64(1)
	for i, seq := range a.sorted {
		if seq >= from {
			durable = append(durable, overlay.Durable{From: from, To: seq, Copies: len(a.sorted) - i})
			from = seq + 1
		}
	}
	a.tell(a.log, durable)
}

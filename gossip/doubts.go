package gossip

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of comparing histories.
const (
	doubtQueue = 256              // positions waiting to be compared; more are left out, they are told again
	doubtEvery = 30 * time.Second // between two comparisons of one log with one pillar that cost reading it
	maxDoubted = 1 << 16
	recentEnds = 64 // of a log: ends of commits, whose hashes are compared at once
)

// doubts compares the hashes that others tell with those of the own histories.
// Where they differ it asks the pillar for its history: either that shows a
// fork, or the claim was made up and costs its author.
type doubts struct {
	m     *Mesh
	queue chan doubt

	mu   sync.Mutex
	last map[penaltyKey]time.Time // guarded by mu; when a log was compared
}

type doubt struct {
	session *session
	pos     overlay.Position
}

func newDoubts(m *Mesh) *doubts {
	return &doubts{m: m, queue: make(chan doubt, doubtQueue), last: map[penaltyKey]time.Time{}}
}

// told looks at a position that a pillar tells. It never blocks.
func (d *doubts) told(s *session, pos overlay.Position) {
	if pos.Seq == 0 {
		return
	}
	switch hash, known, held := d.m.logs.hashAt(pos.Log, pos.Seq); {
	case known && hash == pos.Hash, !held:
		return
	case !known && !d.due(s.peer, pos.Log):
		return
	}
	select {
	case d.queue <- doubt{s, pos}:
	default:
	}
}

// due reports whether a log may be compared with a pillar at some cost.
func (d *doubts) due(p peer.ID, log overlay.LogID) bool {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	key := penaltyKey{log, p}
	if now.Sub(d.last[key]) < doubtEvery {
		return false
	}
	if len(d.last) >= maxDoubted {
		clear(d.last)
	}
	d.last[key] = now
	return true
}

// run compares until ctx ends.
func (d *doubts) run(ctx context.Context) {
	for {
		select {
		case x := <-d.queue:
			if hash, ok := d.m.hashBefore(x.pos.Log, x.pos.Seq+1); ok && hash != x.pos.Hash {
				d.m.follows.probe(ctx, x.session, overlay.Mark{Seq: x.pos.Seq, Hash: hash}, x.pos.Log)
			}
		case <-ctx.Done():
			return
		}
	}
}

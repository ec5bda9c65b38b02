package gossip

import (
	"sync"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of serving. How many live followers of one log are served is
// Config.MaxFollowers.
const (
	maxLive      = 2048 // live followers of all logs
	maxLiveOf    = 128  // of them, one pillar's
	maxRanges    = 16   // ranges of history at once
	maxRangesOf  = 4    // of them, one pillar's
	historyReads = 2    // batches of history being read from the store at once
)

// budget counts what is being served.
type budget struct {
	perLog int

	mu       sync.Mutex
	live     map[overlay.LogID]map[*follower]struct{} // guarded by mu
	all      int                                      // guarded by mu; live ones
	liveOf   map[peer.ID]int                          // guarded by mu
	ranges   int                                      // guarded by mu
	rangesOf map[peer.ID]int                          // guarded by mu
}

func newBudget(perLog int) *budget {
	return &budget{perLog: perLog, live: map[overlay.LogID]map[*follower]struct{}{},
		liveOf: map[peer.ID]int{}, rangesOf: map[peer.ID]int{}}
}

// take counts f unless that is too many. elsewhere then names a live follower of
// the log that f may follow instead, the one that was named least; empty if
// there is none. Of two live streams of one log to one pillar the older ends.
func (b *budget) take(f *follower) (ok bool, elsewhere peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !f.live {
		if b.ranges >= maxRanges || b.rangesOf[f.peer] >= maxRangesOf {
			return false, ""
		}
		b.ranges++
		b.rangesOf[f.peer]++
		return true, ""
	}
	var least, same *follower
	for g := range b.live[f.log] {
		switch {
		case g.peer == f.peer:
			same = g
		case least == nil || g.named < least.named || g.named == least.named && g.peer < least.peer:
			least = g
		}
	}
	switch {
	case same != nil:
		b.drop(same)
		same.end()
	case len(b.live[f.log]) >= b.perLog && least != nil:
		least.named++
		return false, least.peer
	case len(b.live[f.log]) >= b.perLog || b.all >= maxLive || b.liveOf[f.peer] >= maxLiveOf:
		return false, ""
	}
	if b.live[f.log] == nil {
		b.live[f.log] = map[*follower]struct{}{}
	}
	b.live[f.log][f] = struct{}{}
	b.all++
	b.liveOf[f.peer]++
	return true, ""
}

// give undoes take.
func (b *budget) give(f *follower) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f.live {
		b.drop(f)
		return
	}
	b.ranges--
	if b.rangesOf[f.peer]--; b.rangesOf[f.peer] == 0 {
		delete(b.rangesOf, f.peer)
	}
}

// drop forgets a live follower. b.mu is held.
func (b *budget) drop(f *follower) {
	of := b.live[f.log]
	if _, ok := of[f]; !ok {
		return
	}
	if delete(of, f); len(of) == 0 {
		delete(b.live, f.log)
	}
	b.all--
	if b.liveOf[f.peer]--; b.liveOf[f.peer] == 0 {
		delete(b.liveOf, f.peer)
	}
}

package overlay

import (
	"errors"
	"fmt"

	"github.com/obelisk-network/obelisk/internal/canon"
	"github.com/obelisk-network/obelisk/seal"
)

// ManyEpochs makes n sets of recipients, one in every so many with an epoch, and
// returns how many sets and epochs are kept, and
// how many epochs were erased; stale counts sets that are handed out though they gave
// way.
func ManyEpochs(n, every int, make func() *seal.Epoch) (sets, live, erased, stale int) {
	node := &Node{}
	node.outbox, node.epochs = newNodeOutbox(node), newNodeEpochs(node)
	p := node.epochs
	var all []*epochSet
	var epochs []*seal.Epoch
	for i := range n {
		set := p.lock(fmt.Sprint(i))
		if i%every == 0 {
			e := make()
			set.current = &liveEpoch{epoch: e}
			p.mu.Lock()
			p.live[e.ID()] = set
			p.mu.Unlock()
			epochs = append(epochs, e)
		}
		set.mu.Unlock()
		all = append(all, set)
	}
	for _, e := range epochs {
		if _, err := e.Seal(canon.AppendBinLen(nil, seal.SealedLen(0)), nil); errors.Is(err, seal.ErrErased) {
			erased++
		}
	}
	sets, live = len(p.sets), len(p.live)
	// Who waited for a set while that was evicted gets another.
	for i, set := range all {
		got := p.lock(fmt.Sprint(i))
		if got == set && set.evicted {
			stale++
		}
		got.mu.Unlock()
	}
	return sets, live, erased, stale
}

package obelisk

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// protector tells a host which pillars it works with, so that their connections
// are never among those that are closed when there are too many.
type protector struct {
	protect func(p peer.ID, on bool) // relay.Host.Protect

	mu sync.Mutex
	on map[peer.ID]bool // guarded by mu
}

func newProtector(protect func(peer.ID, bool)) *protector {
	return &protector{protect: protect, on: make(map[peer.ID]bool)}
}

// set makes the protected peers exactly those of list.
func (g *protector) set(list []peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	keep := make(map[peer.ID]bool, len(list))
	for _, p := range list {
		keep[p] = true
		if !g.on[p] {
			g.protect(p, true)
		}
	}
	for p := range g.on {
		if !keep[p] {
			g.protect(p, false)
		}
	}
	g.on = keep
}

// admissionCheck is how often admissions that have ended are looked for.
const admissionCheck = time.Minute

// protectPillars protects the admitted pillars of the roster, as it changes.
func (p *Pillar) protectPillars(ctx context.Context) error {
	changed := make(chan struct{}, 1)
	roster := p.core.Roster()
	roster.Watch(func([]*overlay.Record) {
		select {
		case changed <- struct{}{}:
		default:
		}
	})
	tick := time.NewTicker(admissionCheck)
	defer tick.Stop()
	for {
		now := uint64(time.Now().UnixMilli())
		var list []peer.ID
		for _, e := range roster.Entries() {
			if e.Pillar != p.ID() && roster.Admitted(e.Pillar, now) {
				list = append(list, peer.ID(e.Pillar))
			}
		}
		p.protected.set(list)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-tick.C:
		}
	}
}

package gossip

import (
	"context"
	"math/rand/v2"
	"sync"

	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of fetching roster records.
const (
	maxWanted = 256 // records wanted at a time; more are dropped
	fetchFrom = 3   // pillars asked for one record
)

// fetcher gets roster records that are known by ID only, from memberlist.
type fetcher struct {
	m    *Mesh
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	wanted map[overlay.RecordID]struct{} // guarded by mu
}

func newFetcher(m *Mesh) *fetcher {
	return &fetcher{m: m, wake: make(chan struct{}, 1), wanted: map[overlay.RecordID]struct{}{}}
}

// want notes a record. It never blocks.
func (f *fetcher) want(id overlay.RecordID) {
	f.mu.Lock()
	if len(f.wanted) < maxWanted {
		f.wanted[id] = struct{}{}
	}
	f.mu.Unlock()
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// run fetches what is wanted until ctx ends. What nobody has is forgotten: the
// next who mentions it makes it wanted again.
func (f *fetcher) run(ctx context.Context) {
	for {
		select {
		case <-f.wake:
		case <-ctx.Done():
			return
		}
		f.mu.Lock()
		ids := make([]overlay.RecordID, 0, len(f.wanted))
		for id := range f.wanted {
			if f.m.cfg.Roster.Get(id) == nil {
				ids = append(ids, id)
			}
		}
		clear(f.wanted)
		f.mu.Unlock()
		f.fetch(ctx, ids)
	}
}

func (f *fetcher) fetch(ctx context.Context, ids []overlay.RecordID) {
	all := f.m.sessions.all()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	for _, s := range all[:min(len(all), fetchFrom)] {
		if len(ids) == 0 || ctx.Err() != nil {
			return
		}
		records, err := s.get(ctx, ids)
		if err != nil {
			continue
		}
		if _, err := f.m.cfg.Roster.Add(f.m.now(), s.local, records...); err != nil {
			f.m.met.forged.WithLabelValues("roster").Inc()
		}
		missing := ids[:0]
		for _, id := range ids {
			if f.m.cfg.Roster.Get(id) == nil {
				missing = append(missing, id)
			}
		}
		ids = missing
	}
}

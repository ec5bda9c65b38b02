package gossip

import (
	"context"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// Rules of the want list.
const (
	maxWants    = 65_536           // records wanted at a time; more wait until some have come
	wantsEvery  = time.Minute      // how often everybody connected is asked again
	wantsGather = time.Second      // for more to be wanted, before asking
	wantsTimed  = 30 * time.Second // for asking one pillar
)

// wants gets the records of entries that are held for the chain only (lacks),
// from any pillar that has them: when they become wanted, when somebody
// connects, and now and then. What expires is forgotten.
type wants struct {
	m    *Mesh
	wake chan struct{} // capacity 1

	mu     sync.Mutex
	lacks  map[overlay.LogID][]overlay.Lack // guarded by mu
	listed int                              // guarded by mu; lacks of all logs
	asked  map[peer.ID]*session             // guarded by mu; who was asked for all of it
}

func newWants(m *Mesh) *wants {
	w := &wants{m: m, wake: make(chan struct{}, 1), lacks: map[overlay.LogID][]overlay.Lack{}, asked: map[peer.ID]*session{}}
	for _, s := range m.cfg.Replica.Logs() {
		w.note(&s)
	}
	return w
}

// committed takes the lacks of logs that changed.
func (w *wants) committed(c *overlay.CommitEvent) {
	for i := range c.Logs {
		w.note(&c.Logs[i].State)
	}
	if len(c.Dropped) == 0 {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, log := range c.Dropped {
		w.listed -= len(w.lacks[log])
		delete(w.lacks, log)
	}
	w.m.met.wanted.Set(float64(w.listed))
}

// note takes the lacks of a log as they are now.
func (w *wants) note(s *overlay.LogState) {
	w.mu.Lock()
	defer w.mu.Unlock()
	old := w.lacks[s.Log]
	if len(old) == 0 && len(s.Lacks) == 0 {
		return
	}
	w.listed += len(s.Lacks) - len(old)
	if len(s.Lacks) == 0 {
		delete(w.lacks, s.Log)
	} else {
		w.lacks[s.Log] = s.Lacks
	}
	w.m.met.wanted.Set(float64(w.listed))
	if n := len(s.Lacks); n > len(old) || n > 0 && s.Lacks[n-1].Seq > old[len(old)-1].Seq {
		clear(w.asked) // there are new ones
		w.poke()
	}
}

func (w *wants) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// count is how many records are wanted.
func (w *wants) count() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.listed
}

// list returns what is wanted and has not expired, every record once.
func (w *wants) list() (ids []overlay.RecordID) {
	now := w.m.now()
	seen := map[overlay.RecordID]bool{}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, lacks := range w.lacks {
		for i := range lacks {
			if id := lacks[i].ID; lacks[i].Expires > now && !seen[id] && len(ids) < maxWants {
				seen[id] = true
				ids = append(ids, id)
			}
		}
	}
	return ids
}

// next returns a session that was not asked for what is wanted, nil if there is
// none.
func (w *wants) next() *session {
	all := w.m.sessions.all()
	rand.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, s := range all {
		if w.asked[s.peer] != s {
			w.asked[s.peer] = s
			return s
		}
	}
	return nil
}

// run asks until ctx ends.
func (w *wants) run(ctx context.Context) {
	again := time.NewTicker(wantsEvery)
	defer again.Stop()
	for {
		select {
		case <-w.wake:
			gather := time.NewTimer(wantsGather)
			select {
			case <-gather.C:
			case <-ctx.Done():
				gather.Stop()
				return
			}
		case <-again.C:
			w.mu.Lock()
			clear(w.asked)
			w.mu.Unlock()
		case <-ctx.Done():
			return
		}
		for ids := w.list(); len(ids) > 0 && ctx.Err() == nil; ids = w.list() {
			s := w.next()
			if s == nil {
				break
			}
			w.ask(ctx, s, ids)
		}
	}
}

// ask gets what s has of ids, a message at a time.
func (w *wants) ask(ctx context.Context, s *session, ids []overlay.RecordID) {
	ctx, cancel := context.WithTimeout(ctx, wantsTimed)
	defer cancel()
	wanted := make(map[overlay.RecordID]bool, len(ids))
	for _, id := range ids {
		wanted[id] = true
	}
	for len(ids) > 0 {
		part := ids[:min(len(ids), overlay.MaxIDs)]
		records, next, err := s.getSome(ctx, part)
		if err != nil || next == 0 {
			return
		}
		keep := records[:0]
		for _, raw := range records {
			rec, err := overlay.ParseRecord(w.m.cfg.Network, raw)
			if err != nil || !wanted[rec.ID] {
				w.m.scores.offend(s.peer, faultGarbage)
				continue
			}
			keep = append(keep, raw)
		}
		if _, err := w.m.take(ctx, s, keep); err != nil {
			return
		}
		ids = ids[next:]
	}
}

package gossip

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// settleTime is how young a session is when a second one with the same pillar
// is taken for both sides having opened at once. An older one is replaced: the
// other side opens only if it has none.
const settleTime = 5 * time.Second

// sessions are the open sessions, one a pillar.
type sessions struct {
	m *Mesh

	mu      sync.Mutex
	open    map[peer.ID]*session            // guarded by mu
	seen    map[identity.PillarID]time.Time // guarded by mu; when a session ended
	changed chan struct{}                   // guarded by mu; closed at the next change
	refused map[peer.ID]time.Time           // guarded by mu; who was refused, and when that was logged
}

func newSessions(m *Mesh) *sessions {
	return &sessions{m: m, open: map[peer.ID]*session{}, seen: map[identity.PillarID]time.Time{},
		changed: make(chan struct{}), refused: map[peer.ID]time.Time{}}
}

// add takes a greeted session. Of two that were opened at once, both sides keep
// the one that the smaller ID opened; add reports whether s stays.
func (t *sessions) add(s *session) bool {
	t.mu.Lock()
	old := t.open[s.peer]
	if old != nil && time.Since(old.since) < settleTime && old.opener != s.opener &&
		old.opener == min(peer.ID(t.m.self), s.peer) {
		t.mu.Unlock()
		return false
	}
	t.open[s.peer] = s
	t.m.met.sessions.Set(float64(len(t.open)))
	t.change()
	t.mu.Unlock()
	if old != nil {
		old.close()
	}
	t.m.follows.poke()
	t.m.wants.poke()
	t.m.member.poke()
	return true
}

// remove forgets a session that ended.
func (t *sessions) remove(s *session) {
	t.mu.Lock()
	if t.open[s.peer] == s {
		delete(t.open, s.peer)
		t.seen[s.id] = t.m.cfg.Now()
		t.m.met.sessions.Set(float64(len(t.open)))
		t.change()
	}
	t.mu.Unlock()
	t.m.remember(s)
	t.m.follows.poke()
}

// change wakes everybody in await. t.mu is held.
func (t *sessions) change() {
	close(t.changed)
	t.changed = make(chan struct{})
}

// get returns the session with p, nil if there is none.
func (t *sessions) get(p peer.ID) *session {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.open[p]
}

// all returns the open sessions, ascending by peer.
func (t *sessions) all() []*session {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := make([]*session, 0, len(t.open))
	for _, s := range t.open {
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b *session) int {
		if a.peer < b.peer {
			return -1
		}
		return 1
	})
	return all
}

// await returns the session with p as soon as there is one, nil if ctx ends
// before.
func (t *sessions) await(ctx context.Context, p peer.ID) *session {
	for {
		t.mu.Lock()
		s, changed := t.open[p], t.changed
		t.mu.Unlock()
		if s != nil {
			return s
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

// awaitSession waits a moment for the session that a stream of p belongs to;
// nil if there is none.
func (m *Mesh) awaitSession(ctx context.Context, p peer.ID) *session {
	ctx, cancel := context.WithTimeout(ctx, sessionWait)
	defer cancel()
	return m.sessions.await(ctx, p)
}

// announce makes those pillars learn the own log's position soon that do not
// follow it.
func (t *sessions) announce(following map[peer.ID]bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for p, s := range t.open {
		if !following[p] {
			select {
			case s.kick <- struct{}{}:
			default:
			}
		}
	}
}

// spread tells every connected pillar what is new in the roster.
func (t *sessions) spread(added []*overlay.Record) {
	records := make([][]byte, len(added))
	for i, r := range added {
		records[i] = r.Raw
	}
	for _, s := range t.all() {
		for part := range slices.Chunk(records, rosterChunk) {
			if !s.post(&overlay.RosterMsg{Records: part}) {
				s.mu.Lock()
				s.resend = true
				s.mu.Unlock()
			}
		}
	}
}

// spreadFork tells every connected pillar but from that a log was forked.
func (t *sessions) spreadFork(proof *overlay.Forked, from *session) {
	for _, s := range t.all() {
		if s != from && !s.post(proof) {
			s.mu.Lock()
			s.untold = true
			s.mu.Unlock()
		}
	}
}

// Refusals of peers that knock are logged once a minute and peer, and for so
// many peers a minute.
const (
	mentionEvery = time.Minute
	maxMentions  = 64
)

// mention reports whether the refusal of a peer should be logged.
func (t *sessions) mention(p peer.ID) bool {
	now := time.Now()
	t.mu.Lock()
	defer t.mu.Unlock()
	for q, at := range t.refused {
		if now.Sub(at) > mentionEvery {
			delete(t.refused, q)
		}
	}
	if _, lately := t.refused[p]; lately || len(t.refused) >= maxMentions {
		return false
	}
	t.refused[p] = now
	return true
}

// lastSeen is when p was last heard of; zero if never in this run.
func (t *sessions) lastSeen(p identity.PillarID) time.Time {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.seen[p]
}

package gossip

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Rules of asking who is connected to whom.
const (
	linksWait  = 2 * time.Second // for all pillars to answer
	linksFresh = 3 * time.Second // for so long what they said is not asked again
	linksAsked = 256             // pillars asked in one round; the rest count as silent
	// linksBurst and linksRate bound the questions of one session: several times
	// what linksFresh lets an honest pillar ask.
	linksBurst, linksRate = 8, 1
)

// faultLinks: connections asked for too often, or itself named among its own.
const faultLinks = "links"

// linkRounds are the rounds in which all pillars are asked who they are
// connected to. Whoever wants to know while one runs waits for that one.
type linkRounds struct {
	m *Mesh

	mu      sync.Mutex
	last    *overlay.LinkMap // guarded by mu; nil before the first
	running chan struct{}    // guarded by mu; closed when the round ends; nil: none runs
}

func newLinkRounds(m *Mesh) *linkRounds { return &linkRounds{m: m} }

// Links asks every connected pillar who it is connected to and returns within
// two seconds what they said, as far as it is about pillars of the roster. What
// was said in the last three seconds is not asked again. The map is shared and
// must not be modified. An error: ctx ended, or the Mesh does not run.
func (m *Mesh) Links(ctx context.Context) (*overlay.LinkMap, error) {
	t := m.links
	t.mu.Lock()
	if t.last != nil && time.Since(t.last.At) < linksFresh {
		defer t.mu.Unlock()
		return t.last, nil
	}
	running := t.running
	if running == nil {
		running = make(chan struct{})
		// The round is nobody's in particular: it goes on when its asker is gone.
		if !m.spawn(func(ctx context.Context) { t.run(ctx, running) }) {
			t.mu.Unlock()
			return nil, fmt.Errorf("gossip: links: %w", errStopped)
		}
		t.running = running
	}
	t.mu.Unlock()
	select {
	case <-running:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.last, nil
}

// run does a round.
func (t *linkRounds) run(ctx context.Context, running chan struct{}) {
	last := t.m.askLinks(ctx)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last, t.running = last, nil
	close(running)
}

// askLinks asks all pillars at once.
func (m *Mesh) askLinks(ctx context.Context) *overlay.LinkMap {
	ctx, cancel := context.WithTimeout(ctx, linksWait)
	defer cancel()
	begun := time.Now()
	reports := []overlay.LinkReport{{Pillar: m.self, Answered: true, Links: m.linksHere()}}
	known := map[identity.PillarID]bool{}
	entries := m.cfg.Roster.Entries()
	place := map[identity.PillarID]int{}
	for i := range entries {
		p := entries[i].Pillar
		known[p] = true
		if p != m.self && !entries[i].Info.Left {
			place[p] = len(reports)
			reports = append(reports, overlay.LinkReport{Pillar: p})
		}
	}
	var work sync.WaitGroup
	for asked, s := range m.sessions.all() {
		i, ok := place[s.id]
		if !ok || asked >= linksAsked {
			continue
		}
		work.Go(func() {
			links, err := s.askLinks(ctx)
			if err != nil {
				return
			}
			// Whom this pillar does not know it does not tell of.
			links = slices.DeleteFunc(links, func(l overlay.PillarLink) bool { return !known[l.With] })
			for j := range links {
				if l := &links[j]; !known[l.Through] {
					l.Through = ""
				}
			}
			reports[i].Answered, reports[i].Links = true, slices.Clone(links) // nobody else writes to i; a long list is let go
		})
	}
	work.Wait()
	return &overlay.LinkMap{At: time.Now(), Took: time.Since(begun), Reports: reports}
}

// askLinks asks the other side. What is returned is about anybody but itself.
func (s *session) askLinks(ctx context.Context) ([]overlay.PillarLink, error) {
	msg, err := s.ask(ctx, func(n uint64) overlay.Message { return &overlay.LinksMsg{N: n} })
	if err != nil {
		return nil, err
	}
	linked, ok := msg.(*overlay.LinkedMsg)
	if !ok {
		return nil, fmt.Errorf("%w: the answer to Links", overlay.ErrFrame)
	}
	for i := range linked.Links {
		if linked.Links[i].With == s.id {
			s.m.scores.offend(s.peer, faultLinks)
			return nil, fmt.Errorf("pillar %s is connected to itself", s.id)
		}
	}
	return linked.Links, nil
}

// linksHere are this pillar's connections with pillars that it has a session
// with, ascending.
func (m *Mesh) linksHere() []overlay.PillarLink {
	now := time.Now()
	var links []overlay.PillarLink
	for _, s := range m.sessions.all() {
		if info, ok := m.cfg.Peers.Info(s.peer); ok && len(links) < overlay.MaxPillarLinks {
			links = append(links, overlay.LinkOf(&info, now))
		}
	}
	return links
}

// tellLinks answers the other side. Only the reader calls it.
func (s *session) tellLinks(q *overlay.LinksMsg) {
	if s.links.Take(time.Now(), linksBurst, linksRate) > 0 {
		s.m.scores.offend(s.peer, faultLinks)
		return
	}
	// Without room the answer is lost, and the asker takes it for silence.
	s.post(&overlay.LinkedMsg{N: q.N, Links: s.m.linksHere()})
}

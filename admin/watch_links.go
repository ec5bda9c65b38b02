package admin

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

const (
	// linksEvery is how often pillars are asked for their connections while somebody
	// reads events.
	linksEvery = 5 * time.Second
	// linksStale is how old what they said may be to be shown.
	linksStale = 30 * time.Second
)

// LinksEvent: connections between pillars came, went, or run in another way.
// Round trips alone are no event.
type LinksEvent struct {
	Version uint64 `json:"version"` // counts the changes
	Links   int    `json:"links"`   // connections that are named
	Relayed int    `json:"relayed"` // of them
	Denied  int    `json:"denied"`  // named by one end, and denied by the other
	Silent  int    `json:"silent"`  // pillars that did not answer
}

// linkSight is what pillars said of their connections in one round. It is not
// changed once it is there.
type linkSight struct {
	round *overlay.LinkMap
	edges []overlay.LinkEdge
	sums  map[identity.PillarID]linkSum
	event LinksEvent
}

// linkSum is how many connections a pillar has.
type linkSum struct{ links, relayed int }

func newLinkSight(m *overlay.LinkMap, before *linkSight) *linkSight {
	s := &linkSight{round: m, edges: m.Edges(), sums: map[identity.PillarID]linkSum{}}
	s.event.Links = len(s.edges)
	for i := range s.edges {
		e := &s.edges[i]
		relayed := 0
		if e.Path == overlay.PathRelayed {
			relayed = 1
		}
		s.event.Relayed += relayed
		for _, p := range []identity.PillarID{e.A, e.B} {
			sum := s.sums[p]
			s.sums[p] = linkSum{sum.links + 1, sum.relayed + relayed}
		}
		if e.Word == overlay.LinkDenied {
			s.event.Denied++
		}
	}
	for i := range m.Reports {
		if !m.Reports[i].Answered {
			s.event.Silent++
		}
	}
	s.event.Version = 1
	if before != nil {
		s.event.Version = before.event.Version
		if !s.like(before) {
			s.event.Version++
		}
	}
	return s
}

// like reports whether the same connections are named in the same way.
func (s *linkSight) like(t *linkSight) bool {
	return slices.EqualFunc(s.edges, t.edges, func(a, b overlay.LinkEdge) bool {
		return a.A == b.A && a.B == b.B && a.Word == b.Word && a.Path == b.Path && a.Through == b.Through && a.Transport == b.Transport
	}) && slices.EqualFunc(s.round.Reports, t.round.Reports, func(a, b overlay.LinkReport) bool {
		return a.Pillar == b.Pillar && a.Answered == b.Answered
	})
}

// linkAsker asks pillars for their connections on behalf of one Run of a Watch,
// a round at a time.
type linkAsker struct {
	p      PillarLinks
	heard  chan *overlay.LinkMap
	asking bool
	at     time.Time // the last round began
	work   sync.WaitGroup
}

func newLinkAsker(p PillarLinks) *linkAsker {
	return &linkAsker{p: p, heard: make(chan *overlay.LinkMap)}
}

// ask begins a round, unless one runs or the last is young. What was heard, nil
// if nothing, is sent to heard.
func (a *linkAsker) ask(ctx context.Context) {
	if a.asking || !a.at.IsZero() && time.Since(a.at) < linksEvery {
		return
	}
	a.asking, a.at = true, time.Now()
	a.work.Go(func() {
		m, err := a.p.Links(ctx)
		if err != nil {
			m = nil // the pillar is about to end
		}
		select {
		case a.heard <- m:
		case <-ctx.Done():
		}
	})
}

// wantLinks has the pillars asked once for somebody who looks and reads no
// events. It does not wait.
func (w *Watch) wantLinks() {
	w.mu.Lock()
	w.wanted = true
	w.mu.Unlock()
	w.rouse()
}

// takeWanted reports whether wantLinks was called since it was last asked.
func (w *Watch) takeWanted() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.wanted
	w.wanted = false
	return was
}

// noteLinks takes what pillars said.
func (w *Watch) noteLinks(m *overlay.LinkMap) {
	if m == nil {
		return
	}
	w.mu.Lock()
	before := w.links
	w.mu.Unlock()
	s := newLinkSight(m, before)
	w.mu.Lock()
	w.links = s
	w.mu.Unlock()
}

// linkSight returns what pillars said lately of their connections, nil if they
// were not asked for a while; then, and when it is some seconds old, they are
// asked again meanwhile.
func (w *Watch) linkSight(now time.Time) *linkSight {
	if w == nil {
		return nil
	}
	w.mu.Lock()
	s := w.links
	w.mu.Unlock()
	if s == nil || now.Sub(s.round.At) >= linksEvery {
		w.wantLinks()
	}
	if s == nil || now.Sub(s.round.At) >= linksStale {
		return nil
	}
	return s
}

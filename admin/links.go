package admin

import (
	"context"
	"net/http"
	"time"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// PillarLinks is how pillars are connected.
type PillarLinks interface {
	// Links asks every connected pillar who it is connected to and returns within
	// two seconds. What was said a few seconds ago is not asked again, and those
	// who ask at once share the answers, which must not be modified.
	Links(ctx context.Context) (*overlay.LinkMap, error)
}

// LinksAnswer is GET /v1/links: who is connected to whom, as pillars say.
type LinksAnswer struct {
	At     time.Time `json:"at"` // when they were asked, some seconds ago at most
	TookMS float64   `json:"took_ms"`
	// Pillars are this one first and all others of the network that have not left.
	Pillars []LinksPillar `json:"pillars"`
	Links   []LinkEntry   `json:"links"`
}

// LinksPillar is a pillar that was asked.
type LinksPillar struct {
	Pillar   identity.PillarID `json:"pillar"`
	Answered bool              `json:"answered"`
	Links    int               `json:"links"` // how many it named, of pillars that are known here
}

// LinkEntry is a connection between two pillars. Where its ends do not say the
// same the worse counts: relayed, the longer round trip, the younger connection.
type LinkEntry struct {
	A identity.PillarID `json:"a"`
	B identity.PillarID `json:"b"`
	// Word says whose word it stands on: both; one, the other end was not heard;
	// denied, the other end says that there is none.
	Word overlay.LinkWord `json:"word"`
	LinkSide
	AsA *LinkSide `json:"as_a"` // what A says; null: nothing
	AsB *LinkSide `json:"as_b"`
}

// LinkSide is a connection as one end sees it.
type LinkSide struct {
	Path      overlay.Path       `json:"path"`    // direct or relayed
	Through   *identity.PillarID `json:"through"` // who relays; null: nobody, or it is not known
	Transport string             `json:"transport"`
	RTTMS     float64            `json:"rtt_ms"` // 0: not known
	Since     time.Time          `json:"since"`
}

// newLinksAnswer gives a round its JSON shape.
func newLinksAnswer(m *overlay.LinkMap) LinksAnswer {
	a := LinksAnswer{At: m.At.UTC(), TookMS: tookMS(m.Took), Pillars: make([]LinksPillar, len(m.Reports))}
	for i := range m.Reports {
		r := &m.Reports[i]
		a.Pillars[i] = LinksPillar{Pillar: r.Pillar, Answered: r.Answered, Links: len(r.Links)}
	}
	edges := m.Edges()
	a.Links = make([]LinkEntry, len(edges))
	for i := range edges {
		e := &edges[i]
		a.Links[i] = LinkEntry{A: e.A, B: e.B, Word: e.Word, LinkSide: newLinkSide(&e.PillarLink, m.At)}
		for _, side := range []struct {
			link *overlay.PillarLink
			to   **LinkSide
		}{{e.AsA, &a.Links[i].AsA}, {e.AsB, &a.Links[i].AsB}} {
			if side.link != nil {
				s := newLinkSide(side.link, m.At)
				*side.to = &s
			}
		}
	}
	return a
}

func newLinkSide(l *overlay.PillarLink, at time.Time) LinkSide {
	s := LinkSide{Path: l.Path, Transport: l.Transport.String(), RTTMS: tookMS(l.RTT), Since: at.Add(-l.Age).UTC().Truncate(time.Millisecond)}
	if l.Through != "" {
		s.Through = &l.Through
	}
	return s
}

// linksTime bounds a request for the connections: the round it waits for takes
// two seconds.
const linksTime = 5 * time.Second

// handleLinks registers GET /v1/links.
func handleLinks(m *mux, p PillarLinks) {
	m.handle("GET", "/v1/links", answer(func(r *http.Request) (LinksAnswer, error) {
		ctx, cancel := context.WithTimeout(r.Context(), linksTime)
		defer cancel()
		links, err := p.Links(ctx)
		if err != nil {
			return LinksAnswer{}, err
		}
		return newLinksAnswer(links), nil
	}))
}

package overlay

import (
	"cmp"
	"slices"
	"time"

	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
)

// Transport is what a connection between pillars runs on, as a number on the wire.
// Of a circuit it is that of the connection with the relay.
type Transport uint8

// Transports of a connection.
const (
	LinkOther Transport = iota // none of these, or not known
	LinkQUIC
	LinkTCP
	LinkWebSocket
)

// String returns a word for people and JSON: quic, tcp, ws or other.
func (t Transport) String() string {
	switch t {
	case LinkQUIC:
		return TransportQUIC
	case LinkTCP:
		return TransportTCP
	case LinkWebSocket:
		return TransportWebSocket
	default:
		return "other"
	}
}

// transportOf is the last transport in a before a circuit.
func transportOf(a multiaddr.Multiaddr) Transport {
	t := LinkOther
	for i := range a {
		switch a[i].Protocol().Code {
		case multiaddr.P_TCP:
			t = LinkTCP
		case multiaddr.P_QUIC_V1:
			t = LinkQUIC
		case multiaddr.P_WS, multiaddr.P_WSS:
			t = LinkWebSocket
		case multiaddr.P_CIRCUIT:
			return t
		}
	}
	return t
}

// PillarLink is a pillar's connection with another one, as it sees it.
type PillarLink struct {
	With      identity.PillarID
	Path      Path              // direct or relayed
	Through   identity.PillarID // the pillar that relays; "" if none does, or it is not known
	Transport Transport
	RTT       time.Duration // 0: not known
	Age       time.Duration // since it was made
}

// LinkOf describes the connection with a pillar.
func LinkOf(info *PeerInfo, now time.Time) PillarLink {
	l := PillarLink{With: identity.PillarID(info.Peer), Path: info.Path, Transport: transportOf(info.Remote),
		RTT: info.RTT, Age: max(0, now.Sub(info.Since))}
	if l.Path == PathRelayed {
		if relay, ok := RelayOf(info.Remote); ok {
			l.Through = relay.Pillar
		}
	}
	return l
}

// LinkReport is what one pillar says of its connections with others. Nothing of
// it is proven: a pillar can name connections that it does not have and be
// silent about others.
type LinkReport struct {
	Pillar   identity.PillarID
	Answered bool
	Links    []PillarLink // ascending by With, each of the roster and none twice
}

// LinkMap is who is connected to whom, as pillars said at about one time. It is
// shared and must not be modified.
type LinkMap struct {
	At      time.Time     // when the last had answered, or was not waited for longer
	Took    time.Duration // to ask them
	Reports []LinkReport  // the asker's first, then by pillar, ascending; those that did not answer, too
}

// LinkWord says whose word a connection between two pillars stands on.
type LinkWord string

// Words for a connection.
const (
	LinkBoth   LinkWord = "both"   // both ends say so
	LinkOne    LinkWord = "one"    // one end says so, and the other was not heard
	LinkDenied LinkWord = "denied" // one end says so, and the other says that there is none
)

// LinkEdge is a connection between two pillars. Where its ends do not say the
// same the worse counts: relayed, the longer round trip, the younger connection.
type LinkEdge struct {
	A, B       identity.PillarID // A < B
	Word       LinkWord
	AsA, AsB   *PillarLink // what each end says; at least one of them
	PillarLink             // what counts; With is B
}

// Edges joins what both ends of each connection say, in the order of A and B. A
// connection is denied while its one end has closed it and the other has not
// noticed, or was asked before it was made; one that stays so is a fault of a
// network, or a lie.
func (m *LinkMap) Edges() []LinkEdge {
	type pair struct{ a, b identity.PillarID }
	answered := make(map[identity.PillarID]bool, len(m.Reports))
	edges := map[pair]*LinkEdge{}
	for i := range m.Reports {
		r := &m.Reports[i]
		answered[r.Pillar] = r.Answered
		for j := range r.Links {
			l := &r.Links[j]
			p := pair{min(r.Pillar, l.With), max(r.Pillar, l.With)}
			e := edges[p]
			if e == nil {
				e = &LinkEdge{A: p.a, B: p.b}
				edges[p] = e
			}
			if r.Pillar == p.a {
				e.AsA = l
			} else {
				e.AsB = l
			}
		}
	}
	out := make([]LinkEdge, 0, len(edges))
	for _, e := range edges {
		switch {
		case e.AsA != nil && e.AsB != nil:
			e.Word, e.PillarLink = LinkBoth, worse(e.AsA, e.AsB)
		case e.AsA != nil:
			e.Word, e.PillarLink = wordOf(answered[e.B]), *e.AsA
		default:
			e.Word, e.PillarLink = wordOf(answered[e.A]), *e.AsB
		}
		e.With = e.B
		out = append(out, *e)
	}
	slices.SortFunc(out, func(x, y LinkEdge) int { return cmp.Or(cmp.Compare(x.A, y.A), cmp.Compare(x.B, y.B)) })
	return out
}

// wordOf is the word for a connection that one end does not name.
func wordOf(answered bool) LinkWord {
	if answered {
		return LinkDenied
	}
	return LinkOne
}

// worse is what counts of what two ends say.
func worse(a, b *PillarLink) PillarLink {
	l := *a
	if b.Path == PathRelayed && (l.Path != PathRelayed || l.Through == "") {
		l = *b
	}
	l.RTT, l.Age = max(a.RTT, b.RTT), min(a.Age, b.Age)
	return l
}

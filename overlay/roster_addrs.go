package overlay

import (
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/obelisk-network/obelisk/identity"
)

// DialAddrs returns at most MaxAddrs addresses at which p may be dialled, without
// /p2p: those of its record, except private ones, unless the record was learned
// over such a connection or given by hand, or trust says that p was.
//
// Circuits of a home pillar come last, and only through pillars of the roster
// that are public themselves, at the addresses that those may be dialled at: a
// record makes nobody dial third parties. They are newer than those that the
// home pillar knew, too.
func (r *Roster) DialAddrs(p identity.PillarID, trust bool) []multiaddr.Multiaddr {
	r.mu.Lock()
	defer r.mu.Unlock()
	e := r.pillars[p]
	if e == nil {
		return nil
	}
	addrs := e.direct(trust)
	var relays []identity.PillarID
	seen := map[identity.PillarID]bool{p: true}
	for _, a := range e.Info.Addrs {
		if relay, ok := RelayOf(a); ok && !seen[relay.Pillar] {
			seen[relay.Pillar] = true
			relays = append(relays, relay.Pillar)
		}
	}
	return append(addrs, r.circuits(MaxAddrs-len(addrs), relays, func(e *RosterEntry) []multiaddr.Multiaddr {
		return e.direct(false)
	})...)
}

// Circuits returns at most limit addresses, without /p2p, of whoever holds
// reservations at relays: what a home pillar tells others. Of a relay's
// addresses they take those that most can reach; all relays come before the
// second address of one.
func (r *Roster) Circuits(limit int, relays []identity.PillarID) []multiaddr.Multiaddr {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.circuits(limit, relays, func(e *RosterEntry) []multiaddr.Multiaddr {
		return widest(e.direct(true))
	})
}

// circuits is Circuits by addresses of the caller's choice. r.mu is held.
func (r *Roster) circuits(limit int, relays []identity.PillarID, of func(*RosterEntry) []multiaddr.Multiaddr) (out []multiaddr.Multiaddr) {
	type relay struct {
		id    identity.PillarID
		addrs []multiaddr.Multiaddr
	}
	var usable []relay
	for _, id := range relays {
		if e := r.pillars[id]; r.relays(e) {
			usable = append(usable, relay{id, of(e)})
		}
	}
	for i := 0; i < MaxAddrs; i++ {
		for _, u := range usable {
			if i < len(u.addrs) && len(out) < limit {
				out = append(out, Circuit(PillarAddr{Pillar: u.id, Addr: u.addrs[i]}))
			}
		}
	}
	return out
}

// relays reports whether circuits may lead through a pillar: a public one that
// is not known to be none any more. r.mu is held.
func (r *Roster) relays(e *RosterEntry) bool {
	return e != nil && !e.Info.Home && !e.Info.Left && !r.revoked(e.Pillar, e.Info.Admission.Serial)
}

// direct returns the addresses of e that may be dialled and are no circuits.
func (e *RosterEntry) direct(trust bool) (addrs []multiaddr.Multiaddr) {
	for _, a := range e.Info.Addrs {
		if !IsCircuit(a) && (e.Local || trust || !IsPrivateAddr(a)) {
			addrs = append(addrs, a)
		}
	}
	return addrs
}

// widest returns those of addrs that can be reached from furthest away: from
// everywhere, from the same network, from the same machine.
func widest(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	var public, private, loopback []multiaddr.Multiaddr
	for _, a := range addrs {
		switch {
		case manet.IsIPLoopback(a):
			loopback = append(loopback, a)
		case IsPrivateAddr(a):
			private = append(private, a)
		default:
			public = append(public, a)
		}
	}
	switch {
	case len(public) > 0:
		return public
	case len(private) > 0:
		return private
	default:
		return loopback
	}
}

package relay

import (
	"net/netip"
	"slices"

	"github.com/obelisk-network/obelisk/overlay"
)

// What follows from what was seen of a NAT, in the words of RFC 4787. Nothing is
// said that was not seen: too little makes overlay.NATUnknown.

// A mapped socket is where one of this host's listening sockets was seen.
type mapped struct {
	local, seen netip.AddrPort // the IP of local may be unspecified
	by          netip.AddrPort // to whom
}

// A knocked socket is whether somebody reached it.
type knocked struct {
	// called: this host had sent something to the IP address that knocked, though
	// never to the port.
	called  bool
	reached bool
}

// mappingOf says how the sockets are mapped (RFC 4787, section 4.1). own are the
// machine's addresses.
//
// Dependent mapping counts as address and port-dependent, unless one pillar with
// two ports shows that it is not: nearly all such NATs are, and it makes no
// difference to who wants to be reached.
func mappingOf(all []mapped, own []netip.Addr) overlay.NATBehaviour {
	verdict := overlay.NATUnknown
	perPort, perAddr := false, false // does it differ by port of one address, by address
	samePort := false                // two ports of one address were seen, with one mapping
	for i, a := range all {
		if slices.Contains(own, a.seen.Addr()) && a.seen.Port() == a.local.Port() {
			return overlay.NATNone
		}
		for _, b := range all[:i] {
			if a.local.Port() != b.local.Port() || a.seen.Addr().Is4() != b.seen.Addr().Is4() || a.by == b.by {
				continue
			}
			switch sameAddr, same := a.by.Addr() == b.by.Addr(), a.seen == b.seen; {
			case sameAddr && same:
				samePort = true
			case sameAddr:
				perPort = true
			case same:
				verdict = overlay.NATEndpointIndependent
			default:
				perAddr = true
			}
		}
	}
	switch {
	case perPort:
		return overlay.NATPortDependent
	case perAddr && samePort:
		return overlay.NATAddressDependent
	case perAddr:
		return overlay.NATPortDependent
	}
	return verdict
}

// filteringOf says who is let in (RFC 4787, section 5).
func filteringOf(all []knocked) overlay.NATBehaviour {
	var otherPort, otherAddr, portTried, addrTried bool
	for _, k := range all {
		if k.called {
			portTried = true
			otherPort = otherPort || k.reached
		} else {
			addrTried = true
			otherAddr = otherAddr || k.reached
		}
	}
	switch {
	case otherAddr:
		return overlay.NATEndpointIndependent
	case portTried && !otherPort:
		return overlay.NATPortDependent
	case portTried && addrTried:
		return overlay.NATAddressDependent
	}
	return overlay.NATUnknown
}

// Reachabilities.
const (
	reachPublic  = "public"
	reachPrivate = "private"
	reachUnknown = "unknown"
)

// reachabilityOf says whether others can connect without being called first.
func reachabilityOf(mapping, filtering overlay.NATBehaviour, all []knocked) string {
	switch filtering {
	case overlay.NATEndpointIndependent:
		return reachPublic
	case overlay.NATPortDependent, overlay.NATAddressDependent:
		return reachPrivate
	}
	// Without a NAT a firewall that lets in other ports of who was called lets in
	// everybody: nothing else is built.
	for _, k := range all {
		if mapping == overlay.NATNone && k.reached {
			return reachPublic
		}
	}
	return reachUnknown
}

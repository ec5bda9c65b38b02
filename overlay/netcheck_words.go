package overlay

import (
	"fmt"
	"strings"
)

// HolePunching words of a Netcheck.
const (
	PunchingWorks    = "works"    // it has, in this run
	PunchingLikely   = "likely"   // with most others
	PunchingUnlikely = "unlikely" // with most others
	PunchingUnknown  = "unknown"
)

// WhySilent says of a contact that there is a connection with it, and that nothing
// answers there: the path is given as none.
const WhySilent = "it does not answer any more: messages go through the pillars"

// transports that did something with at least one pillar.
type netcheckTransports struct {
	tried, ok map[string]bool
	text      map[string]string // an address that failed, by transport
}

func (c *Netcheck) transports() netcheckTransports {
	t := netcheckTransports{tried: make(map[string]bool), ok: make(map[string]bool), text: make(map[string]string)}
	for _, p := range c.Pillars {
		for _, x := range p.Transports {
			t.tried[x.Transport] = true
			if x.OK {
				t.ok[x.Transport] = true
			} else if t.text[x.Transport] == "" {
				t.text[x.Transport] = x.Addr
			}
		}
	}
	return t
}

// Conclude fills in HolePunching, Why, Warnings, and why contacts are not reached
// directly, from everything else. tcp is the mapping of TCP; punched says that
// a hole was punched in this run.
func (c *Netcheck) Conclude(tcp NATBehaviour, punched bool) {
	t := c.transports()
	udpBlocked := t.tried["quic"] && !t.ok["quic"] && (t.ok["tcp"] || t.ok["ws"])
	webOnly := udpBlocked && t.tried["tcp"] && !t.ok["tcp"]
	c.HolePunching, c.Why = c.punching(tcp, punched, udpBlocked, webOnly)
	c.Warnings = []string{}
	warn := func(format string, args ...any) { c.Warnings = append(c.Warnings, fmt.Sprintf(format, args...)) }
	connected, reserved := 0, 0
	for _, p := range c.Pillars {
		if p.Path != PathNone {
			connected++
		}
		if p.Reserved {
			reserved++
		}
	}
	switch {
	case len(c.Pillars) == 0:
		warn("no pillar is known: join a network with obelisk pillar add LINK")
	case len(t.ok) == 0 && connected == 0:
		text := "no pillar answers: check that this machine is on the internet, and that its firewall lets out UDP and TCP to the pillars' ports"
		if !t.tried["ws"] {
			text += "; where that is not yours to change, a pillar that listens on TCP port 443 as WebSocket is needed"
		}
		warn("%s", text)
	case webOnly:
		warn("this network lets out neither UDP nor TCP except to web ports, so everything goes through pillars: where that is yours to change, let out UDP and TCP to the pillars' ports (%s, %s)", t.text["quic"], t.text["tcp"])
	case udpBlocked:
		warn("UDP does not get through, so TCP is used, which is slower on bad lines: where the firewall is yours to change, let out UDP (to %s and the other pillars)", t.text["quic"])
	}
	if c.Mapping == NATPortDependent || c.Mapping == NATAddressDependent {
		warn("the NAT gives every destination another port (it is symmetric), so most others cannot connect directly and messages go through pillars' relays: " +
			"if the router is yours, look for \"full cone\" or \"endpoint-independent\" NAT, forward a UDP port and listen on it (--listen), or use IPv6")
	}
	if connected == 1 && len(c.Pillars) > 1 {
		warn("only one pillar is connected: when it goes, messages wait until another one is")
	}
	if connected > 0 && reserved == 0 && c.Reachability != "public" {
		warn("no pillar holds a place at its relay for this node, so others do not reach it directly or by a circuit; messages still come through the pillars")
	}
	for i := range c.Contacts {
		x := &c.Contacts[i]
		switch {
		case x.Path == PathDirect:
			x.Why = ""
		case x.Path == PathNone && x.Why == WhySilent:
		case x.Path == PathNone:
			x.Why = "not connected: messages go through the pillars"
		case c.HolePunching == PunchingUnlikely:
			x.Why = "by a circuit through a pillar: " + c.Why
		default:
			x.Why = "by a circuit through a pillar: no attempt at a direct connection has succeeded yet; if it stays so, the other side's NAT is in the way"
		}
	}
}

func (c *Netcheck) punching(tcp NATBehaviour, punched, udpBlocked, webOnly bool) (word, why string) {
	switch {
	case punched:
		return PunchingWorks, "a direct connection through the NATs was made since this node started"
	case webOnly:
		return PunchingUnlikely, "neither UDP nor TCP is let out, except to web ports"
	case c.Mapping == NATNone && c.Reachability == "public":
		return PunchingLikely, "there is no NAT here and others reach this node uncalled: no hole has to be punched on this side"
	case c.Mapping == NATNone:
		return PunchingLikely, "there is no NAT here, at most a firewall, which lets in who was called"
	case c.Mapping == NATEndpointIndependent:
		return PunchingLikely, "the NAT keeps one public port whatever the destination, so others can be told where to connect"
	case tcp == NATNone || tcp == NATEndpointIndependent:
		if udpBlocked {
			return PunchingLikely, "UDP does not get through, but over TCP the NAT keeps one public port whatever the destination"
		}
		return PunchingLikely, "over TCP the NAT keeps one public port whatever the destination"
	case c.Mapping == NATAddressDependent || c.Mapping == NATPortDependent:
		return PunchingUnlikely, "the NAT takes another public port for every destination, so nobody can be told where to connect"
	case udpBlocked && (tcp == NATPortDependent || tcp == NATAddressDependent):
		return PunchingUnlikely, "UDP does not get through, and over TCP the NAT takes another public port for every destination"
	case udpBlocked:
		return PunchingUnknown, "UDP does not get through, and too few pillars were reached over TCP to tell"
	}
	return PunchingUnknown, "too few pillars at different addresses answered to tell how the NAT maps"
}

// Words for people, after RFC 4787's.
var natWords = map[NATBehaviour]string{
	NATUnknown:             "unknown",
	NATNone:                "none",
	NATEndpointIndependent: "endpoint-independent",
	NATAddressDependent:    "address-dependent",
	NATPortDependent:       "address and port-dependent",
}

// Words spells b as RFC 4787 does.
func (b NATBehaviour) Words() string {
	if w, ok := natWords[b]; ok {
		return w
	}
	return strings.ReplaceAll(string(b), "_", " ")
}

// NATKind is the usual name of a NAT that maps and filters like that: a "cone",
// a "symmetric" one.
func NATKind(mapping, filtering NATBehaviour) string {
	switch mapping {
	case NATNone:
		switch filtering {
		case NATPortDependent, NATAddressDependent:
			return "no NAT, a firewall that lets in only who was called"
		}
		return "no NAT"
	case NATAddressDependent, NATPortDependent:
		return "symmetric NAT"
	case NATEndpointIndependent:
		switch filtering {
		case NATEndpointIndependent:
			return "full cone NAT"
		case NATAddressDependent:
			return "restricted cone NAT"
		case NATPortDependent:
			return "port-restricted cone NAT"
		}
		return "cone NAT"
	}
	return "unknown"
}

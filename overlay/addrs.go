package overlay

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/obelisk-network/obelisk/identity"
)

// IsPrivateAddr reports whether a leads into a private, link-local or loopback
// network: addresses that mean another machine wherever they are dialled from.
// DNS names count as public. Of a circuit it is the address of the relay that
// counts.
func IsPrivateAddr(a multiaddr.Multiaddr) bool {
	return manet.IsPrivateAddr(a) || manet.IsIPLoopback(a) || manet.IsIPUnspecified(a) || manet.IsIP6LinkLocal(a)
}

// IsNear reports whether a connection over a runs within a private network or
// within this machine, so that private addresses told over it mean the same at
// both ends. Over a circuit they do not: the relay may be near and the other end
// anywhere.
func IsNear(a multiaddr.Multiaddr) bool { return !IsCircuit(a) && IsPrivateAddr(a) }

// IsCircuit reports whether a leads through a relay.
func IsCircuit(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_CIRCUIT)
	return err == nil
}

// Circuit is the address, without /p2p, of whoever holds a reservation at the
// pillar of relay: /…/p2p/<relay>/p2p-circuit.
func Circuit(relay PillarAddr) multiaddr.Multiaddr {
	return multiaddr.Join(relay.Addr, multiaddr.StringCast("/p2p/"+relay.Pillar.String()+"/p2p-circuit"))
}

// RelayOf takes a circuit's address, without the /p2p of whom it leads to,
// apart: it returns the pillar in between and where that is reached. ok is
// false for everything that Circuit does not make: several relays in a row,
// none with an address, something after the circuit.
func RelayOf(a multiaddr.Multiaddr) (relay PillarAddr, ok bool) {
	n := len(a) - 2
	if n < 1 || a[n+1].Protocol().Code != multiaddr.P_CIRCUIT || a[n].Protocol().Code != multiaddr.P_P2P {
		return PillarAddr{}, false
	}
	for _, c := range a[:n] {
		if code := c.Protocol().Code; code == multiaddr.P_P2P || code == multiaddr.P_CIRCUIT {
			return PillarAddr{}, false
		}
	}
	p, err := identity.PillarFromBytes(a[n].RawValue())
	if err != nil {
		return PillarAddr{}, false
	}
	return PillarAddr{Pillar: p, Addr: a[:n:n]}, true
}

// Invitation is where to find a network: what a join link or a bare multiaddr
// says.
type Invitation struct {
	Network identity.NetworkID // zero: a bare multiaddr, to be learned from the pillar
	Pillars []PillarAddr
}

// PillarAddr is an address of a pillar that is known by its ID.
type PillarAddr struct {
	Pillar identity.PillarID
	Addr   multiaddr.Multiaddr // without /p2p at the end
}

const (
	joinScheme    = "obelisk://join/"
	contactScheme = "obelisk://contact/"
)

// ParseInvitation reads what --join, --pillar and pillar add take: a multiaddr
// that ends in /p2p/<pillar>, or a join link
// obelisk://join/<network id>?p=<multiaddr>&p=….
func ParseInvitation(s string) (Invitation, error) {
	var inv Invitation
	s = strings.TrimSpace(s)
	if len(s) > 16<<10 {
		return inv, Refuse(CodeBadRequest, "a join link of %d bytes", len(s))
	}
	if !strings.HasPrefix(s, joinScheme) {
		a, err := ParsePillarAddr(s)
		if err != nil {
			return inv, err
		}
		inv.Pillars = []PillarAddr{a}
		return inv, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return inv, Refuse(CodeBadRequest, "join link: %v", err)
	}
	if inv.Network, err = identity.ParseNetwork(strings.Trim(u.Path, "/")); err != nil {
		return inv, Refuse(CodeBadRequest, "join link: %v", err)
	}
	for _, p := range u.Query()["p"] {
		a, err := ParsePillarAddr(p)
		if err != nil {
			return inv, err
		}
		inv.Pillars = append(inv.Pillars, a)
	}
	if len(inv.Pillars) == 0 {
		return inv, Refuse(CodeBadRequest, "the join link names no pillar: it needs ?p=<multiaddr>")
	}
	return inv, nil
}

// ParsePillarAddr reads a multiaddr that ends in /p2p/<pillar>. That of a home
// pillar may lead through another: /…/p2p/<public>/p2p-circuit/p2p/<home>.
func ParsePillarAddr(s string) (PillarAddr, error) {
	m, err := multiaddr.NewMultiaddr(s)
	if err != nil {
		return PillarAddr{}, Refuse(CodeBadRequest, "%q is no multiaddr: want /ip4/203.0.113.7/tcp/4001/p2p/<pillar id> or a join link", s)
	}
	addr, id := peer.SplitAddr(m)
	if id == "" || addr == nil {
		return PillarAddr{}, Refuse(CodeBadRequest, "%q does not end in /p2p/<pillar id> after an address", s)
	}
	p, err := identity.PillarFromBytes([]byte(id))
	if err != nil {
		return PillarAddr{}, Refuse(CodeBadRequest, "%q: %v", s, err)
	}
	if IsCircuit(addr) {
		if relay, ok := RelayOf(addr); !ok || relay.Pillar == p {
			return PillarAddr{}, Refuse(CodeBadRequest, "%q: a pillar behind another is /ip4/203.0.113.7/tcp/4001/p2p/<public pillar>/p2p-circuit/p2p/<pillar id>", s)
		}
	}
	return PillarAddr{Pillar: p, Addr: addr}, nil
}

// String returns the multiaddr with /p2p/<pillar>.
func (a PillarAddr) String() string { return fmt.Sprintf("%s/p2p/%s", a.Addr, a.Pillar) }

// JoinLink returns the link that pins a network and names addresses of pillars.
func JoinLink(network identity.NetworkID, pillars ...PillarAddr) string {
	var b strings.Builder
	b.WriteString(joinScheme + network.String())
	for i, p := range pillars {
		b.WriteByte("?&"[min(i, 1)])
		b.WriteString("p=" + strings.ReplaceAll(url.QueryEscape(p.String()), "%2F", "/"))
	}
	return b.String()
}

// ContactLink returns the link that names an account to others. The name is
// the account's claim.
func ContactLink(a identity.AccountID, name string) string {
	link := contactScheme + a.String()
	if name != "" {
		link += "?name=" + url.QueryEscape(name)
	}
	return link
}

// ParseContactLink reads a contact link; ok is false if s is none.
func ParseContactLink(s string) (a identity.AccountID, name string, ok bool, err error) {
	if !strings.HasPrefix(s, contactScheme) {
		return "", "", false, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return "", "", true, Refuse(CodeBadRequest, "contact link: %v", err)
	}
	a, err = identity.ParseAccount(strings.Trim(u.Path, "/"))
	if err != nil {
		return "", "", true, Refuse(CodeBadRequest, "contact link: %v", err)
	}
	name = u.Query().Get("name")
	return a, name, true, CheckName(name)
}

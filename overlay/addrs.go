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
// DNS names count as public.
func IsPrivateAddr(a multiaddr.Multiaddr) bool {
	return manet.IsPrivateAddr(a) || manet.IsIPLoopback(a) || manet.IsIPUnspecified(a) || manet.IsIP6LinkLocal(a)
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
	Addr   multiaddr.Multiaddr // without /p2p
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

// ParsePillarAddr reads a multiaddr that ends in /p2p/<pillar>.
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

package relay

import (
	"context"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/obelisk-network/obelisk/overlay"
)

// Observed is the address that a connected peer sees this host at.
type Observed struct {
	Peer peer.ID
	// Transport is quic, tcp or ws.
	Transport string
	Addr      multiaddr.Multiaddr
	// Remote is where the peer was dialled.
	Remote multiaddr.Multiaddr
	// Local is the host's own end of the same connection: where its IP address
	// and port are Addr's, nothing translates them.
	Local multiaddr.Multiaddr
	// Listening: the connection leaves from a port that the host listens on, so
	// Addr is what a peer would have to dial.
	Listening bool
	Since     time.Time
}

// observations are what peers said in identify about connections that this host
// made and that are open. Nobody else's word is kept: only pillars are dialled.
type observations struct {
	mu  sync.Mutex
	all []observation // guarded by mu; oldest first
}

type observation struct {
	Observed
	conn network.Conn
}

// observe reads what identify finds out until ctx ends.
func (h *Host) observe(ctx context.Context, sub event.Subscription) {
	defer sub.Close()
	for {
		select {
		case <-ctx.Done():
			return
		case e, ok := <-sub.Out():
			if !ok {
				return
			}
			if done, ok := e.(event.EvtPeerIdentificationCompleted); ok && h.observed.add(h, done) {
				h.upgrades.moved()
			}
		}
	}
}

// add takes what identify found out; true if it may be news.
func (o *observations) add(h *Host, e event.EvtPeerIdentificationCompleted) bool {
	c := e.Conn
	if c == nil || e.ObservedAddr == nil || c.Stat().Direction != network.DirOutbound || isCircuit(c.RemoteMultiaddr()) {
		return false
	}
	ip, ok := ipOf(e.ObservedAddr)
	if !ok || ip.IsUnspecified() || ip.IsMulticast() {
		return false
	}
	seen := observation{conn: c, Observed: Observed{
		Peer: e.Peer, Transport: overlay.TransportOf(c.RemoteMultiaddr()), Addr: e.ObservedAddr, Remote: c.RemoteMultiaddr(), Local: c.LocalMultiaddr(),
		Listening: h.listensAt(c.LocalMultiaddr()), Since: time.Now(),
	}}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = slices.DeleteFunc(o.all, func(x observation) bool { return x.conn == c || x.conn.IsClosed() })
	o.all = append(o.all, seen)
	return true
}

// list is what trusted peers see, oldest first.
func (o *observations) list(trusts func(peer.ID) bool) []Observed {
	all := o.trusted(trusts)
	out := make([]Observed, 0, len(all))
	for _, x := range all {
		out = append(out, x.Observed)
	}
	return out
}

// Observed is where the connected pillars see this host, by connection, in the
// order in which they said so. A pillar can say anything; others' word does not
// count.
func (h *Host) Observed() []Observed { return h.observed.list(h.gate.trusts) }

// listensAt reports whether the host listens on the port of its own address a.
func (h *Host) listensAt(a multiaddr.Multiaddr) bool {
	want := port(a)
	for _, l := range h.swarm.ListenAddresses() {
		if !isCircuit(l) && !isWebSocket(l) && port(l) == want {
			return true
		}
	}
	return false
}

// Vicinity implements overlay.Traversal.
func (h *Host) Vicinity() overlay.Vicinity {
	var v overlay.Vicinity
	for _, o := range h.Observed() {
		if ip, ok := ipOf(o.Addr); ok && !slices.Contains(v.Public, ip) {
			v.Public = append(v.Public, ip)
		}
	}
	for _, a := range h.Addrs() {
		if ip, ok := ipOf(a); ok && isNear(ip) && punchTransport(a) && len(v.Near) < overlay.MaxNear {
			v.Near = append(v.Near, a)
		}
	}
	return v
}

// publicAddrs are where a peer may dial this host at the end of a hole punch:
// what pillars see, and the machine's own public addresses.
func (h *Host) publicAddrs() []multiaddr.Multiaddr {
	var out []multiaddr.Multiaddr
	for _, o := range h.Observed() {
		if o.Listening {
			out = append(out, o.Addr)
		}
	}
	out = append(out, h.Addrs()...)
	return h.punchable(out)
}

// punchable are the first maxPunchAddrs of addrs, without repetition, that may
// be told to a peer or dialled on its word: public IP addresses, and no port
// that a system's services have. A peer must not have us knock where it likes.
func (h *Host) punchable(addrs []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	var out []multiaddr.Multiaddr
	for _, a := range addrs {
		if len(out) == maxPunchAddrs {
			break
		}
		if !punchTransport(a) || !manet.IsPublicAddr(a) && !(h.cfg.punchLoopback && manet.IsIPLoopback(a)) {
			continue
		}
		if !slices.ContainsFunc(out, a.Equal) {
			out = append(out, a)
		}
	}
	return out
}

// punchTransport accepts /ip…/udp/PORT/quic-v1 and /ip…/tcp/PORT alone, with a
// port that takes no privileges.
func punchTransport(a multiaddr.Multiaddr) bool {
	if len(a) < 2 || len(a) > 3 {
		return false
	}
	if c := a[0].Protocol().Code; c != multiaddr.P_IP4 && c != multiaddr.P_IP6 {
		return false
	}
	raw := a[1].RawValue()
	if len(raw) != 2 || int(raw[0])<<8|int(raw[1]) < minPort {
		return false
	}
	switch a[1].Protocol().Code {
	case multiaddr.P_TCP:
		return len(a) == 2
	case multiaddr.P_UDP:
		return len(a) == 3 && a[2].Protocol().Code == multiaddr.P_QUIC_V1
	}
	return false
}

const (
	maxPunchAddrs = 8
	minPort       = 1024
)

func ipOf(a multiaddr.Multiaddr) (netip.Addr, bool) {
	ip, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	out, ok := netip.AddrFromSlice(ip)
	return out.Unmap(), ok
}

// isNear: an address inside a network of private addresses.
func isNear(ip netip.Addr) bool {
	return ip.IsPrivate() && !ip.IsLoopback() && !ip.IsLinkLocalUnicast()
}

// onLink are the private networks that this machine has an interface in.
func onLink() ([]netip.Prefix, error) {
	ifaces, err := net.Interfaces()
	if err != nil {
		return nil, err
	}
	var out []netip.Prefix
	for _, i := range ifaces {
		if i.Flags&net.FlagUp == 0 || i.Flags&net.FlagLoopback != 0 {
			continue
		}
		addrs, err := i.Addrs()
		if err != nil {
			continue // it went away
		}
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && isNear(p.Addr().Unmap()) {
				out = append(out, p.Masked())
			}
		}
	}
	return out, nil
}

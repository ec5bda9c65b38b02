package relay

import (
	"context"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
)

// RankDials is rankDials, for its test.
var RankDials = rankDials

// FaultOf is faultOf, for what loopback cannot show.
var FaultOf = faultOf

// PunchLoopback has holes punched to loopback addresses, where tests live.
func PunchLoopback(c *Config) { c.punchLoopback = true }

// Simulate has a host made with options of its own, after all others.
func Simulate(c *Config, opts ...libp2p.Option) { c.simulated = opts }

// PatientDials has no dial end by itself within an hour, and, if the first is
// known to work, none begin after it: however slow the machine, what is first in
// the order is what connects.
func PatientDials(c *Config, firstWorks bool) {
	opts := []swarm.Option{swarm.WithDialTimeout(time.Hour), swarm.WithDialTimeoutLocal(time.Hour), swarm.WithDialRanker(rankDials)}
	if firstWorks {
		opts = append(opts, swarm.WithDialRanker(func(addrs []multiaddr.Multiaddr) []network.AddrDelay {
			ranked := rankDials(addrs)
			for i := range ranked {
				if ranked[i].Delay > 0 {
					ranked[i].Delay = time.Hour
				}
			}
			return ranked
		}))
	}
	c.simulated = append(c.simulated, libp2p.SwarmOpts(opts...))
}

// ReservePoll has KeepReserved look at its list by itself every d only.
func ReservePoll(c *Config, d time.Duration) { c.reservePoll = d }

// BorrowFor has borrowed connections kept for d.
func BorrowFor(c *Config, d time.Duration) { c.borrowFor = d }

// Circuits is how many circuits h has with p.
func Circuits(h *Host, p peer.ID) (n int) {
	for _, c := range h.swarm.ConnsToPeer(p) {
		if isCircuit(c.RemoteMultiaddr()) {
			n++
		}
	}
	return n
}

// LearnedAddrs is how many addresses h was told by p itself: those that this
// host dialled are not counted.
func LearnedAddrs(h *Host, p peer.ID) (n int) {
	h.gate.mu.Lock()
	defer h.gate.mu.Unlock()
	known := h.gate.known[p]
	for _, a := range h.host.Peerstore().Addrs(p) {
		if !isCircuit(a) && (known == nil || !known.addrs[string(a.Bytes())]) {
			n++
		}
	}
	return n
}

// Upgrade makes a direct connection to p, which may be connected by a circuit
// already.
func Upgrade(ctx context.Context, h *Host, p peer.ID, addrs []multiaddr.Multiaddr) error {
	h.swarm.Backoff().Clear(p)
	return h.dialAt(network.WithForceDirectDial(ctx, "upgrade"), p, addrs)
}

// Punching reports whether h dials p as one end of a hole punch now.
func Punching(h *Host, p peer.ID) bool {
	h.punches.mu.Lock()
	defer h.punches.mu.Unlock()
	return len(h.punches.dials[p]) > 0
}

// HasPunched reports whether h says that it punched a hole.
func HasPunched(h *Host) bool { return h.hasPunched.Load() }

// OfferedBy is how many circuits p has open to h, unmade ones included.
func OfferedBy(h *Host, p peer.ID) int {
	h.stops.mu.Lock()
	defer h.stops.mu.Unlock()
	return h.stops.open[p]
}

// MaxOffered is how many one relay may have.
const MaxOffered = maxStops

// StopTimeout is how long h waits for a relay that offers a circuit.
func StopTimeout(h *Host, d time.Duration) { h.stops.timeout = d }

// ServeStop has h take an offer, with next instead of libp2p's client.
func ServeStop(h *Host, s network.Stream, next network.StreamHandler) { h.stops.serve(s, next) }

// ResourceManager is what counts connections for cfg.
func ResourceManager(cfg Config) (network.ResourceManager, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	return resourceManager(cfg)
}

// MappingOf, FilteringOf and Reachability are what a survey concludes from where
// local sockets were seen, by whom (mapped: local, seen, by), and from knocks.
func MappingOf(own []netip.Addr, sockets ...[3]string) overlay.NATBehaviour {
	var all []mapped
	for _, s := range sockets {
		all = append(all, mapped{netip.MustParseAddrPort(s[0]), netip.MustParseAddrPort(s[1]), netip.MustParseAddrPort(s[2])})
	}
	return mappingOf(all, own)
}

// Knock is how one knock ended: the host had called the address or not, and was
// reached or not.
type Knock struct{ Called, Reached bool }

// FilteringOf concludes from knocks.
func FilteringOf(mapping overlay.NATBehaviour, knocks ...Knock) (overlay.NATBehaviour, string) {
	var all []knocked
	for _, k := range knocks {
		all = append(all, knocked{called: k.Called, reached: k.Reached})
	}
	filtering := filteringOf(all)
	return filtering, reachabilityOf(mapping, filtering, all)
}

// KnockAt is knock.
func KnockAt(ctx context.Context, to netip.AddrPort) (bool, error) {
	return knock(ctx, netip.Addr{}, to)
}

// Telling is which of the addresses a host is seen at count.
func Telling(seen ...string) (out []string) {
	out = append(out, telling(seen, netip.MustParseAddr)...)
	return out
}

// Native is the libp2p stream below s.
func Native(s overlay.Stream) network.Stream { return s.(stream).s }

// Retirer is a peer whose circuits a direct connection has replaced, long ago.
type Retirer struct{ x pair }

// Retire is retire.
func (r *Retirer) Retire(h *Host, circuits ...network.Conn) {
	now := time.Now()
	r.x.direct = now.Add(-2 * lingerMax)
	h.retire(&r.x, circuits, now)
}

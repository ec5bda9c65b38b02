package relay

import (
	"math"
	"net/netip"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/protocol"
	rcmgr "github.com/libp2p/go-libp2p/p2p/host/resource-manager"
	"github.com/libp2p/go-libp2p/p2p/net/connmgr"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	relayv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/libp2p/go-libp2p/x/rate"
	"github.com/multiformats/go-multiaddr"
)

// libp2p's own limits suit a client: 8 connections and 8 reservations from one
// IPv4 address, about 250 inbound connections whatever the memory is spent on,
// trimming at 160. Here everything follows from MaxPeers and PerIP.

const (
	// streamsPerPeer bounds what a peer may have open, circuits through us
	// included; memoryPerPeer what libp2p may buffer for it, of which a stream on
	// TCP takes 256 KiB at once.
	streamsPerPeer = 128
	memoryPerPeer  = 128 << 20
	// The same for a protected peer: a pillar follows every living log of another
	// in a stream of its own.
	streamsPerPillar = 4096 + 256
	memoryPerPillar  = 2 << 30
	// connsPerPeer leaves room for simultaneous dials over several transports.
	connsPerPeer = 16
	// grace is how long a new connection is not trimmed.
	grace = 2 * time.Minute
)

// resourceManager returns libp2p's accountant with limits for cfg.
func resourceManager(cfg Config) (network.ResourceManager, error) {
	var (
		peers   = cfg.MaxPeers
		conns   = rcmgr.LimitVal(2*peers + 32)
		streams = rcmgr.LimitVal(min(32*peers+8192, math.MaxInt32))
		many    = rcmgr.ResourceLimits{
			Streams: streams, StreamsInbound: streams, StreamsOutbound: streams,
			Memory: rcmgr.Unlimited64,
		}
		// What a peer may do with one protocol is bounded by what it may do at all.
		perPeerProtocol = rcmgr.ResourceLimits{
			Streams: streamsPerPillar, StreamsInbound: streamsPerPillar, StreamsOutbound: streamsPerPillar,
			Memory: memoryPerPillar,
		}
		perPeer = peerLimits(false).ToResourceLimits()
		// Everybody does identify and ping at once after a restart.
		burst = rcmgr.LimitVal(peers + 256)
		once  = rcmgr.ResourceLimits{
			Streams: 2 * burst, StreamsInbound: burst, StreamsOutbound: burst,
		}
		// Memory is not limited for all together: what is reserved for idle streams
		// is mostly not used, and the counts bound it.
		system = many
	)
	system.Conns, system.ConnsInbound, system.ConnsOutbound = conns, conns, conns
	partial := rcmgr.PartialLimitConfig{
		System: system,
		Transient: rcmgr.ResourceLimits{
			Conns: burst, ConnsInbound: burst, ConnsOutbound: burst,
			Streams: 2 * burst, StreamsInbound: burst, StreamsOutbound: burst,
		},
		ServiceDefault:      many,
		ServicePeerDefault:  perPeerProtocol,
		ProtocolDefault:     many,
		ProtocolPeerDefault: perPeerProtocol,
		PeerDefault:         perPeer,
		Service: map[string]rcmgr.ResourceLimits{
			identify.ServiceName: once,
			ping.ServiceName:     once,
			relayv2.ServiceName:  many,
		},
		Protocol: map[protocol.ID]rcmgr.ResourceLimits{
			identify.ID:         once,
			identify.IDPush:     once,
			ping.ID:             once,
			proto.ProtoIDv2Hop:  many,
			proto.ProtoIDv2Stop: many,
		},
	}
	scaling := rcmgr.DefaultLimits
	libp2p.SetDefaultServiceLimits(&scaling)
	opts := []rcmgr.Option{
		rcmgr.WithLimitPerSubnet(
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: cfg.PerIP}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: cfg.PerIP}, {PrefixLength: 48, ConnCount: 8 * cfg.PerIP}},
		),
		rcmgr.WithConnRateLimiters(connRate(cfg.PerIP)),
	}
	if cfg.Registerer == nil {
		opts = append(opts, rcmgr.WithMetricsDisabled())
	}
	return rcmgr.NewResourceManager(rcmgr.NewFixedLimiter(partial.Build(scaling.AutoScale())), opts...)
}

// peerLimits are the limits of one peer.
func peerLimits(protected bool) rcmgr.BaseLimit {
	streams, memory := streamsPerPeer, int64(memoryPerPeer)
	if protected {
		streams, memory = streamsPerPillar, memoryPerPillar
	}
	return rcmgr.BaseLimit{
		Streams: streams, StreamsInbound: streams, StreamsOutbound: streams,
		Conns: connsPerPeer, ConnsInbound: connsPerPeer, ConnsOutbound: connsPerPeer,
		FD:     connsPerPeer,
		Memory: memory,
	}
}

// Protect says whether p is a pillar this host works with: its connections are
// never trimmed, it may have thousands of streams instead of 128, it may connect
// to a node, and its word on addresses is taken. Both ends have to say so. It can be called at any time, connected or not.
func (h *Host) Protect(p peer.ID, on bool) {
	h.gate.protect(p, on)
	h.upgrades.moved() // what it sees counts from now on, or no longer
	if on {
		h.host.ConnManager().Protect(p, protectTag)
	} else {
		h.host.ConnManager().Unprotect(p, protectTag)
	}
	limits := peerLimits(on)
	err := h.swarm.ResourceManager().ViewPeer(p, func(s network.PeerScope) error {
		if l, ok := s.(rcmgr.ResourceScopeLimiter); ok {
			l.SetLimit(&limits)
		}
		return nil
	})
	if err != nil {
		h.log.Warn("stream limit not changed", "peer", p, "err", err)
	}
}

const protectTag = "obelisk"

// connRate lets an address make all its connections at once, and then a tenth
// of them every second. Loopback is free.
func connRate(perIP int) *rate.Limiter {
	limit := rate.Limit{RPS: max(1, float64(perIP)/10), Burst: perIP}
	wide := rate.Limit{RPS: 4 * limit.RPS, Burst: 8 * perIP}
	return &rate.Limiter{
		NetworkPrefixLimits: []rate.PrefixLimit{
			{Prefix: netip.MustParsePrefix("127.0.0.0/8")},
			{Prefix: netip.MustParsePrefix("::1/128")},
		},
		SubnetRateLimiter: rate.SubnetLimiter{
			IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: limit}},
			IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: limit}, {PrefixLength: 48, Limit: wide}},
			GracePeriod:      time.Minute,
		},
	}
}

// connManager trims the least useful connections above MaxPeers + 1/8.
func connManager(cfg Config) (*connmgr.BasicConnMgr, error) {
	return connmgr.NewConnManager(cfg.MaxPeers, cfg.MaxPeers+cfg.MaxPeers/8+1, connmgr.WithGracePeriod(grace))
}

// Limits of one circuit through a pillar. A circuit carries messages until the
// two ends have a direct connection, or for good if they never get one, and
// its ends open a new one when it ends.
const (
	CircuitDuration = 30 * time.Minute
	CircuitBytes    = 64 << 20 // in each direction
	circuitsPerPeer = 64
)

// relayResources are the relay service's limits for cfg.
func relayResources(cfg Config) relayv2.Resources {
	rc := relayv2.DefaultResources()
	rc.Limit = &relayv2.RelayLimit{Duration: CircuitDuration, Data: CircuitBytes}
	rc.MaxReservations = cfg.MaxPeers
	// The service knows no loopback; a whole test network may live there.
	rc.MaxReservationsPerIP = cfg.PerIP
	rc.MaxReservationsPerASN = cfg.MaxPeers
	rc.MaxCircuits = circuitsPerPeer
	return rc
}

// acl asks AllowRelay about everybody who wants to use the relay service.
type acl func(peer.ID) bool

var _ relayv2.ACLFilter = acl(nil)

func (f acl) AllowReserve(p peer.ID, _ multiaddr.Multiaddr) bool { return f == nil || f(p) }

func (f acl) AllowConnect(src peer.ID, _ multiaddr.Multiaddr, _ peer.ID) bool {
	return f == nil || f(src)
}

package relay

import (
	"fmt"
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
	// Pings that a host takes from a peer at once, and how many it sends it: more,
	// since the other end may not have seen the end of the last ones.
	pingsTaken = 4
	pingsSent  = 16
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
		pings = rcmgr.ResourceLimits{
			Streams: pingsTaken + pingsSent, StreamsInbound: pingsTaken, StreamsOutbound: pingsSent,
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
		ServicePeer:  map[string]rcmgr.ResourceLimits{ping.ServiceName: pings},
		ProtocolPeer: map[protocol.ID]rcmgr.ResourceLimits{ping.ID: pings},
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
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 32, ConnCount: cfg.PerIP}, {PrefixLength: 24, ConnCount: cfg.PerSubnet}},
			[]rcmgr.ConnLimitPerSubnet{{PrefixLength: 56, ConnCount: cfg.PerIP}, {PrefixLength: 48, ConnCount: cfg.PerSubnet}},
		),
		rcmgr.WithConnRateLimiters(connRate(cfg.PerIP, cfg.PerSubnet)),
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

// connRate lets an address, and a subnet, make all its connections at once, and
// then a tenth of them every second. Loopback is free.
func connRate(perIP, perSubnet int) *rate.Limiter {
	limit := rate.Limit{RPS: max(1, float64(perIP)/10), Burst: perIP}
	wide := rate.Limit{RPS: max(1, float64(perSubnet)/10), Burst: perSubnet}
	return &rate.Limiter{
		NetworkPrefixLimits: []rate.PrefixLimit{
			{Prefix: netip.MustParsePrefix("127.0.0.0/8")},
			{Prefix: netip.MustParsePrefix("::1/128")},
		},
		SubnetRateLimiter: rate.SubnetLimiter{
			IPv4SubnetLimits: []rate.SubnetLimit{{PrefixLength: 32, Limit: limit}, {PrefixLength: 24, Limit: wide}},
			IPv6SubnetLimits: []rate.SubnetLimit{{PrefixLength: 56, Limit: limit}, {PrefixLength: 48, Limit: wide}},
			GracePeriod:      time.Minute,
		},
	}
}

// connManager trims the least useful connections above MaxPeers + 1/8.
func connManager(cfg Config) (*connmgr.BasicConnMgr, error) {
	return connmgr.NewConnManager(cfg.MaxPeers, cfg.MaxPeers+cfg.MaxPeers/8+1, connmgr.WithGracePeriod(grace))
}

// RelayLimits bound what a pillar relays. A circuit carries messages until its
// ends have a direct connection, or for good if they never get one; they make a
// new one when it ends. Zero fields get the defaults.
type RelayLimits struct {
	// Reservations is how many peers may be reachable through the pillar, and
	// ReservationsPerIP how many of them from one IP address, loopback too.
	// Default MaxPeers and PerIP of the Config.
	Reservations, ReservationsPerIP int
	// Circuits is how many circuits may be open at once, CircuitsPerPeer how many
	// at one peer, at either end, and CircuitsPerIP how many asked for from one
	// IPv4 address or IPv6 /56. Defaults 4096, 64 and 1024.
	Circuits, CircuitsPerPeer, CircuitsPerIP int
	// Data is how many bytes one circuit carries in each direction, and Duration
	// how long it lives at most. Then it is cut. Defaults 16 MiB and 30 minutes.
	Data     int64
	Duration time.Duration
	// Every circuit is charged with Data when it is made, to the account that
	// asks for it and to its IPv4 address or IPv6 /56. An account may take
	// AccountBytes at once and AccountRate bytes a second after that; addresses
	// PrefixBytes and PrefixRate; all together TotalBytes and TotalRate. Defaults
	// 1 GiB and 1 MiB/s; 16 GiB and 16 MiB/s; 64 GiB and 128 MiB/s.
	AccountBytes, AccountRate int64
	PrefixBytes, PrefixRate   int64
	TotalBytes, TotalRate     int64
	// StrangerBytes and StrangerRate are for circuits to home pillars from
	// addresses of nobody the pillar knows. Defaults 512 MiB and 4 MiB/s.
	StrangerBytes, StrangerRate int64
}

// withDefaults checks l and fills in what is left out.
func (l RelayLimits) withDefaults(cfg Config) (RelayLimits, error) {
	for _, f := range []struct {
		v *int
		d int
	}{
		{&l.Reservations, cfg.MaxPeers}, {&l.ReservationsPerIP, cfg.PerIP},
		{&l.Circuits, 4096}, {&l.CircuitsPerPeer, 64}, {&l.CircuitsPerIP, 1024},
	} {
		if *f.v == 0 {
			*f.v = f.d
		}
		if *f.v < 0 {
			return l, fmt.Errorf("%w: negative relay limit", ErrConfig)
		}
	}
	const mib = 1 << 20
	for _, f := range []struct {
		v *int64
		d int64
	}{
		{&l.Data, 16 * mib},
		{&l.AccountBytes, 1024 * mib}, {&l.AccountRate, mib},
		{&l.PrefixBytes, 16 * 1024 * mib}, {&l.PrefixRate, 16 * mib},
		{&l.TotalBytes, 64 * 1024 * mib}, {&l.TotalRate, 128 * mib},
		{&l.StrangerBytes, 512 * mib}, {&l.StrangerRate, 4 * mib},
	} {
		if *f.v == 0 {
			*f.v = f.d
		}
		if *f.v < 0 {
			return l, fmt.Errorf("%w: negative relay limit", ErrConfig)
		}
	}
	if l.Duration == 0 {
		l.Duration = 30 * time.Minute
	}
	if l.Duration < time.Second {
		return l, fmt.Errorf("%w: circuits of %v", ErrConfig, l.Duration)
	}
	for _, b := range []int64{l.AccountBytes, l.PrefixBytes, l.TotalBytes, l.StrangerBytes} {
		if b < l.Data {
			return l, fmt.Errorf("%w: a budget of %d bytes is below one circuit's %d", ErrConfig, b, l.Data)
		}
	}
	return l, nil
}

// resources are what libp2p's relay holds to itself.
func (l RelayLimits) resources() relayv2.Resources {
	rc := relayv2.DefaultResources()
	rc.Limit = &relayv2.RelayLimit{Duration: l.Duration, Data: l.Data}
	rc.MaxReservations = l.Reservations
	rc.MaxReservationsPerIP = l.ReservationsPerIP
	rc.MaxReservationsPerASN = l.Reservations
	rc.MaxCircuits = l.CircuitsPerPeer
	return rc
}

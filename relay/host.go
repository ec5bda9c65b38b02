// Package relay reaches identities: its Host is a libp2p host that implements
// overlay.Links, overlay.Packets and overlay.Peers over QUIC, TCP and
// WebSocket, directly or by a circuit through a pillar. It knows nothing of
// records and networks, and it decides nothing about whom to connect.
//
//	h, err := relay.New(relay.Config{Key: key, Role: relay.RolePillar, Listen: addrs})
//	…
//	h.Handle(overlay.Protocol("/obelisk/node/1"), serve)
//	err = h.Listen()
//	…
//	defer h.Shutdown()
//
// It is the only package that imports a libp2p host.
package relay

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/event"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/host/eventbus"
	"github.com/libp2p/go-libp2p/p2p/muxer/yamux"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	circuitclient "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	circuitproto "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/security/noise"
	libp2ptls "github.com/libp2p/go-libp2p/p2p/security/tls"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/libp2p/go-libp2p/p2p/transport/websocket"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"
	"go.uber.org/fx"

	"github.com/obelisk-network/obelisk/overlay"
)

// Host implements overlay.Links, overlay.Packets, overlay.Peers and
// overlay.Traversal. All its methods may be called from many goroutines.
//
// Goroutines that it owns: one per stream handler; for each peer that packets
// are sent to a packet writer and one that reads the answer on its stream; for
// each that packets come from over QUIC one that reads its datagrams; one that
// measures round-trip times; one that upgrades circuits, and at most sixteen
// attempts of it; one that reads what identify finds out; after an attempt that
// failed two for each of a few pillars, which ask it where it sees the host; one
// that closes borrowed connections. Shutdown waits for all of them.
type Host struct {
	cfg     Config
	log     *slog.Logger
	host    host.Host
	swarm   *swarm.Swarm
	service *relayService // nil where it does not relay for others
	stops   *stopDoor
	table   overlay.PeerTable
	metrics *metrics
	gate    *gate

	packets    packets
	rtts       rtts
	slots      slots
	choose     chan struct{} // 1 deep: KeepReserved looks at its list
	observed   observations
	reobserved reobserving
	upgrades   upgrades
	punches    punches
	near       nearDials
	borrowed   borrowed
	surveyor   *surveyor // nil where it answers no questions about NATs
	called     called
	hasPunched atomic.Bool

	stop func()          // ends done
	done <-chan struct{} // closed by Shutdown
	work sync.WaitGroup  // added to through start and enter only

	mu     sync.Mutex
	closed bool // guarded by mu
}

var (
	_ overlay.Links     = (*Host)(nil)
	_ overlay.Packets   = (*Host)(nil)
	_ overlay.Peers     = (*Host)(nil)
	_ overlay.Traversal = (*Host)(nil)
)

// New makes a host that can dial but accepts no connection before Listen, so
// that handlers are in place when the first peer comes.
func New(cfg Config) (*Host, error) {
	cfg, err := cfg.withDefaults()
	if err != nil {
		return nil, err
	}
	resources, err := resourceManager(cfg)
	if err != nil {
		return nil, fmt.Errorf("relay: resource limits: %w", err)
	}
	trimmer, err := connManager(cfg)
	if err != nil {
		_ = resources.Close()
		return nil, fmt.Errorf("relay: connection limits: %w", err)
	}
	boundHops()
	counters := newMetrics(cfg.Registerer)
	gate, stops := newGate(cfg.Role == RolePillar, counters), newStopDoor(counters)
	opts := []libp2p.Option{
		libp2p.Identity(cfg.Key),
		libp2p.UserAgent(cfg.UserAgent),
		libp2p.NoListenAddrs,
		libp2p.Transport(quic.NewTransport),
		libp2p.Transport(tcp.NewTCPTransport),
		libp2p.Transport(websocket.New),
		libp2p.Security(libp2ptls.ID, libp2ptls.New),
		libp2p.Security(noise.ID, noise.New),
		libp2p.Muxer(yamux.ID, yamux.DefaultTransport),
		libp2p.ResourceManager(resources),
		libp2p.ConnectionManager(trimmer),
		libp2p.ConnectionGater(gate),
		libp2p.SwarmOpts(swarm.WithDialRanker(rankDials)),
		// The client's side, to dial and accept circuits, is added with a door.
		libp2p.DisableRelay(),
		libp2p.WithFxOption(fx.Invoke(func(h host.Host, u transport.Upgrader) error {
			return circuitclient.AddTransport(doorHost{h, circuitproto.ProtoIDv2Stop, stops.serve}, u)
		})),
		libp2p.WithDialTimeout(addrTimeout),
		// A hundred failed dials, an outage of all known pillars, must not make the
		// host give up on UDP or IPv6: the next pillar may be reachable by no
		// other way.
		libp2p.UDPBlackHoleSuccessCounter(nil),
		libp2p.IPv6BlackHoleSuccessCounter(nil),
	}
	// Nobody has to find out whether a host is reachable: the operator of a
	// pillar said so, and nodes are treated as if they were not.
	if cfg.public() {
		opts = append(opts, libp2p.ForceReachabilityPublic())
	} else {
		opts = append(opts, libp2p.ForceReachabilityPrivate())
	}
	if len(cfg.Announce) > 0 {
		opts = append(opts, libp2p.AddrsFactory(func([]multiaddr.Multiaddr) []multiaddr.Multiaddr {
			return slices.Clone(cfg.Announce)
		}))
	}
	if sharesPort(cfg.Listen) {
		opts = append(opts, libp2p.ShareTCPListener())
	}
	if cfg.Registerer == nil {
		opts = append(opts, libp2p.DisableMetrics())
	} else {
		opts = append(opts, libp2p.PrometheusRegisterer(cfg.Registerer))
	}
	lh, err := libp2p.New(append(opts, cfg.simulated...)...)
	if err != nil {
		_ = resources.Close()
		_ = trimmer.Close()
		return nil, fmt.Errorf("relay: %w", err)
	}
	sw, ok := lh.Network().(*swarm.Swarm)
	if !ok {
		_ = lh.Close()
		return nil, fmt.Errorf("relay: libp2p network is a %T", lh.Network())
	}
	ctx, cancel := context.WithCancel(context.Background())
	h := &Host{
		cfg:     cfg,
		log:     cfg.Logger,
		host:    lh,
		swarm:   sw,
		metrics: counters,
		gate:    gate,
		stops:   stops,
		stop:    cancel,
		done:    ctx.Done(),
		choose:  make(chan struct{}, 1),
	}
	gate.dialling = h.called.noteAddr
	gate.connected = func(p peer.ID) bool { return sw.Connectedness(p) != network.NotConnected }
	stops.expects = h.slots.expect
	h.packets.init()
	h.rtts.init()
	h.upgrades.init()
	h.punches.init()
	identified, err := lh.EventBus().Subscribe(new(event.EvtPeerIdentificationCompleted), eventbus.BufSize(64), eventbus.Name("obelisk"))
	if err != nil {
		cancel()
		_ = lh.Close()
		return nil, fmt.Errorf("relay: %w", err)
	}
	if cfg.public() {
		if h.service, err = newRelayService(lh, cfg, counters); err != nil {
			cancel()
			_ = lh.Close()
			return nil, fmt.Errorf("relay: %w", err)
		}
	}
	sw.Notify(&network.NotifyBundle{ConnectedF: h.connected, DisconnectedF: h.disconnected})
	h.Handle(packetProtocol, h.readPackets)
	lh.SetStreamHandler(holepunch.Protocol, func(s network.Stream) { h.answerPunch(ctx, s) })
	if cfg.public() {
		h.surveyor = newSurveyor()
		h.Handle(overlay.ProtoProbe, func(s overlay.Stream) { h.serveProbe(ctx, s) })
	}
	h.start(func() { h.measure(ctx) })
	h.start(func() { h.observe(ctx, identified) })
	h.start(func() { h.upgrade(ctx) })
	h.start(func() { h.giveBack(ctx) })
	return h, nil
}

// Listen begins to accept connections at the addresses of Config.Listen. It is
// called once, after Handle and Receive. An error names every address that
// could not be used; the others are.
func (h *Host) Listen() error {
	var errs []error
	ours := make(map[string]bool)
	for _, a := range h.cfg.Listen {
		err := checkFree(a, ours)
		if err == nil {
			err = h.swarm.Listen(a)
		}
		if _, v6 := a.ValueForProtocol(multiaddr.P_IP6); err != nil && v6 == nil && h.cfg.optionalIPv6 {
			h.log.Info("not listening", "address", a, "err", err)
		} else if err != nil {
			errs = append(errs, fmt.Errorf("listen on %s: %w", a, err))
		}
	}
	if len(errs) == 0 {
		return nil
	}
	return fmt.Errorf("relay: %w", errors.Join(errs...))
}

// checkFree fails if somebody listens on a TCP port already. libp2p sets
// SO_REUSEPORT on its sockets, which hole punching needs, so two pillars on one
// port would both start and get half of the connections each. ours collects the
// ports of this host, on which TCP and WebSocket may share a listener.
func checkFree(a multiaddr.Multiaddr, ours map[string]bool) error {
	network, address, err := manet.DialArgs(a)
	if err != nil || !strings.HasPrefix(network, "tcp") {
		return nil // UDP sockets are not shared
	}
	if _, port, err := net.SplitHostPort(address); err != nil || port == "0" || ours[network+address] {
		return nil
	}
	ours[network+address] = true
	l, err := net.Listen(network, address)
	if err != nil {
		return err
	}
	return l.Close()
}

// Self implements overlay.Peers.
func (h *Host) Self() peer.ID { return h.host.ID() }

// ID is Self.
func (h *Host) ID() peer.ID { return h.host.ID() }

// Addrs is where others are told to reach the host, without /p2p: Announce, or
// else every address it listens on with wildcards resolved to the machine's
// addresses. It is empty before Listen.
func (h *Host) Addrs() []multiaddr.Multiaddr {
	if len(h.cfg.Announce) > 0 {
		return slices.Clone(h.cfg.Announce)
	}
	all, err := h.swarm.InterfaceListenAddresses()
	if err != nil {
		h.log.Warn("machine's addresses unknown", "err", err)
		all = h.swarm.ListenAddresses()
	}
	out := all[:0:0]
	for _, a := range all {
		if !isCircuit(a) {
			out = append(out, a)
		}
	}
	return out
}

// Connect implements overlay.Links. Addresses are tried in the order of
// rankDials, whatever their order here, even if they failed a moment ago.
func (h *Host) Connect(ctx context.Context, p peer.ID, addrs []multiaddr.Multiaddr) error {
	if err := h.dialable(p); err != nil {
		return fmt.Errorf("connect to %w", err)
	}
	bare := make([]multiaddr.Multiaddr, 0, len(addrs))
	for _, a := range addrs {
		a, id := peer.SplitAddr(a)
		if id != "" && id != p {
			return fmt.Errorf("connect to %s: %w: the address names %s", p, overlay.ErrWrongPeer, id)
		}
		if a != nil {
			bare = append(bare, a)
		}
	}
	if h.swarm.Connectedness(p) != network.NotConnected {
		return nil
	}
	if len(bare) > 0 {
		h.swarm.Backoff().Clear(p)
		h.gate.know(p, bare)
	}
	h.host.Peerstore().AddAddrs(p, bare, peerstore.AddressTTL)
	if err := h.dial(ctx, p, bare...); err != nil {
		return fmt.Errorf("connect to %s: %w", p, err)
	}
	return nil
}

// dial connects to p, by whatever its addresses in the peerstore allow, asked
// among them, and waits until both sides have identified themselves: a peer to whom this host
// is a stranger hangs up only then, when for this end the handshake is over.
func (h *Host) dial(ctx context.Context, p peer.ID, asked ...multiaddr.Multiaddr) error {
	_ = h.host.Peerstore().SetProtocols(p) // what an earlier connection spoke
	if err := h.host.Connect(allowLimited(ctx), peer.AddrInfo{ID: p}); err != nil {
		h.forgetWrong(p, err)
		return h.dialError(err, asked...)
	}
	// Identify fails on a pillar with too much to do, which is no harm, and on a
	// connection that is ending, which shows a moment later.
	spoken, _ := h.host.Peerstore().GetProtocols(p)
	for wait := time.Duration(0); len(spoken) == 0 && wait < hangUpWait && best(h.swarm.ConnsToPeer(p)) != nil; wait += hangUpWait / 10 {
		select {
		case <-ctx.Done():
			wait = hangUpWait
		case <-time.After(hangUpWait / 10):
		}
	}
	if best(h.swarm.ConnsToPeer(p)) == nil {
		return &overlay.DialError{Cause: errHungUp}
	}
	return nil
}

// addrTimeout bounds the attempt at one address. It is less than a node gives a
// pillar: an attempt that ends with the caller's context says nothing of any
// address.
const addrTimeout = 8 * time.Second

// hangUpWait is how long a connection may take to end after identify failed.
const hangUpWait = 200 * time.Millisecond

// Open implements overlay.Links. Without a deadline in ctx it gives up after
// ten seconds.
func (h *Host) Open(ctx context.Context, p peer.ID, proto overlay.Protocol) (overlay.Stream, error) {
	s, err := h.newStream(ctx, p, proto)
	if err != nil {
		h.forgetWrong(p, err)
		return nil, fmt.Errorf("open %s to %s: %w", proto, p, h.dialError(err))
	}
	return stream{s}, nil
}

// newStream is the only place that opens streams: every one of them may run
// over a circuit, which libp2p does not allow by default.
func (h *Host) newStream(ctx context.Context, p peer.ID, proto overlay.Protocol) (network.Stream, error) {
	return h.host.NewStream(allowLimited(ctx), p, protocol.ID(proto))
}

func allowLimited(ctx context.Context) context.Context {
	return network.WithAllowLimitedConn(ctx, "obelisk")
}

// Handle implements overlay.Links.
func (h *Host) Handle(proto overlay.Protocol, fn func(overlay.Stream)) {
	if fn == nil {
		h.host.RemoveStreamHandler(protocol.ID(proto))
		return
	}
	h.host.SetStreamHandler(protocol.ID(proto), func(s network.Stream) {
		if !h.enter() {
			_ = s.Reset()
			return
		}
		defer h.work.Done()
		fn(stream{s})
	})
}

// Close implements overlay.Links: it drops the connections to p. See Shutdown
// for the host itself.
func (h *Host) Close(p peer.ID) error {
	if err := h.swarm.ClosePeer(p); err != nil {
		return fmt.Errorf("close connections to %s: %w", p, err)
	}
	return nil
}

// Shutdown stops listening, drops all connections and waits for every handler
// to return, so none may call it. Further calls do nothing.
func (h *Host) Shutdown() error {
	h.mu.Lock()
	if h.closed {
		h.mu.Unlock()
		return nil
	}
	h.closed = true
	h.mu.Unlock()
	h.stop()
	if h.service != nil {
		_ = h.service.relay.Close()
	}
	err := h.host.Close()
	h.work.Wait()
	if err != nil {
		return fmt.Errorf("relay: shutdown: %w", err)
	}
	return nil
}

// enter adds the calling goroutine to work, false once the host is closed.
func (h *Host) enter() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		return false
	}
	h.work.Add(1)
	return true
}

// start runs fn in a goroutine that Shutdown waits for.
func (h *Host) start(fn func()) bool {
	if !h.enter() {
		return false
	}
	go func() {
		defer h.work.Done()
		fn()
	}()
	return true
}

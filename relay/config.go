package relay

import (
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/crypto"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
)

// Role is what the host's owner is, which decides limits and services.
type Role uint8

// The roles.
const (
	RoleNode   Role = iota + 1 // a few connections, behind a NAT as a rule
	RolePillar                 // thousands of connections, relays for others
)

// Defaults of Config.
const (
	DefaultPillarPeers = 8192
	DefaultNodePeers   = 256
	DefaultPillarPerIP = 1024
	DefaultNodePerIP   = 256
)

// Config describes a Host. Key and Role are required.
type Config struct {
	// Key is the host's key pair: a pillar's or a device's. Its peer ID is the
	// host's identity.
	Key crypto.PrivKey
	// Role decides the defaults below and whether the host relays for others.
	Role Role
	// Home says that a pillar is behind a NAT: it does not relay for others and
	// is reached like a node.
	Home bool
	// Listen is where Listen accepts connections: QUIC (/udp/…/quic-v1), TCP, and
	// WebSocket (/tcp/…/ws, on the port of a TCP address or its own), without
	// /p2p. Default: for a pillar UDP and TCP port 4001, for a node any port, on
	// all addresses of IPv4 and, where the machine has it, IPv6.
	Listen []multiaddr.Multiaddr
	// Announce is what others are told instead of the listen addresses, without
	// /p2p. Default: what it listens on.
	Announce []multiaddr.Multiaddr
	// MaxPeers is about how many peers may be connected; above it the least
	// useful connections are closed, well above it new ones are refused. An idle
	// peer costs a pillar about 70 KB of memory. Default DefaultPillarPeers or
	// DefaultNodePeers.
	MaxPeers int
	// PerIP is how many connections one IPv4 address or IPv6 /56 may have, and
	// PerSubnet how many an IPv4 /24 or IPv6 /48; as many at once, and then a
	// tenth of them every second. Loopback may have any number. Behind one address
	// of a carrier's NAT there may be hundreds of nodes. A circuit counts for the
	// relay's address. Default DefaultPillarPerIP or DefaultNodePerIP, and four
	// times PerIP.
	PerIP, PerSubnet int
	// RelayUser says what somebody is to a pillar that relays, which decides
	// whether it may reserve there and open circuits. It is called from many
	// goroutines and must not block. Default: everybody is a RelayNode.
	RelayUser func(peer.ID) RelayUser
	// Relay bounds what a pillar relays.
	Relay RelayLimits
	// UserAgent is told to every peer. Default "obelisk".
	UserAgent string
	// Logger gets what an operator acts on. Default: discarded.
	Logger *slog.Logger
	// Registerer gets the metrics of this package and of libp2p; nil means none.
	// Hosts that share one also share the counters.
	Registerer prometheus.Registerer

	optionalIPv6  bool // Listen is the default: IPv6 may be missing
	punchLoopback bool // for tests: holes are punched to loopback addresses too
	borrowFor     time.Duration
	reservePoll   time.Duration
	// simulated are options for tests, after all others: another network.
	simulated []libp2p.Option
}

// Listen addresses where Config has none.
var (
	defaultPillarListen = []string{
		"/ip4/0.0.0.0/udp/4001/quic-v1", "/ip4/0.0.0.0/tcp/4001",
		"/ip6/::/udp/4001/quic-v1", "/ip6/::/tcp/4001",
	}
	defaultNodeListen = []string{
		"/ip4/0.0.0.0/udp/0/quic-v1", "/ip4/0.0.0.0/tcp/0",
		"/ip6/::/udp/0/quic-v1", "/ip6/::/tcp/0",
	}
)

// ErrConfig is wrapped by every error about a Config.
var ErrConfig = errors.New("wrong relay configuration")

// ParseAddrs reads listen or announce addresses from text: multiaddrs of a
// transport the host speaks, without /p2p.
func ParseAddrs(texts []string) ([]multiaddr.Multiaddr, error) {
	var out []multiaddr.Multiaddr
	for _, t := range texts {
		a, err := multiaddr.NewMultiaddr(t)
		if err != nil {
			return nil, fmt.Errorf("%w: address %q: %w", ErrConfig, t, err)
		}
		if err := checkAddr(a); err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// checkAddr accepts IP or DNS addresses of QUIC, TCP and WebSocket.
func checkAddr(a multiaddr.Multiaddr) error {
	var host, tcp, udp, quic, other bool
	multiaddr.ForEach(a, func(c multiaddr.Component) bool {
		switch c.Protocol().Code {
		case multiaddr.P_IP4, multiaddr.P_IP6, multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6:
			host = true
		case multiaddr.P_TCP:
			tcp = true
		case multiaddr.P_UDP:
			udp = true
		case multiaddr.P_QUIC_V1:
			quic = true
		case multiaddr.P_WS, multiaddr.P_WSS, multiaddr.P_TLS, multiaddr.P_SNI, multiaddr.P_IP6ZONE:
		case multiaddr.P_P2P:
			other = true
			return false
		default:
			other = true
		}
		return true
	})
	if other || !host || tcp == udp || udp != quic {
		return fmt.Errorf("%w: address %s: want /ip4/… or /ip6/… with /udp/PORT/quic-v1, /tcp/PORT or /tcp/PORT/ws, without /p2p", ErrConfig, a)
	}
	return nil
}

// public reports whether the host is a pillar that everybody can dial, and that
// therefore relays for others.
func (c Config) public() bool { return c.Role == RolePillar && !c.Home }

// withDefaults checks c and fills in what is left out.
func (c Config) withDefaults() (Config, error) {
	if c.Key == nil {
		return c, fmt.Errorf("%w: no key", ErrConfig)
	}
	listen, peers, perIP := defaultNodeListen, DefaultNodePeers, DefaultNodePerIP
	switch c.Role {
	case RoleNode:
		if c.Home {
			return c, fmt.Errorf("%w: only a pillar can be a home pillar", ErrConfig)
		}
	case RolePillar:
		listen, peers, perIP = defaultPillarListen, DefaultPillarPeers, DefaultPillarPerIP
	default:
		return c, fmt.Errorf("%w: no role", ErrConfig)
	}
	if c.MaxPeers < 0 || c.PerIP < 0 || c.PerSubnet < 0 {
		return c, fmt.Errorf("%w: negative limit", ErrConfig)
	}
	c.Listen, c.Announce = slices.Clone(c.Listen), slices.Clone(c.Announce)
	for _, a := range slices.Concat(c.Listen, c.Announce) {
		if a == nil {
			return c, fmt.Errorf("%w: empty address", ErrConfig)
		}
		if err := checkAddr(a); err != nil {
			return c, err
		}
	}
	if len(c.Listen) == 0 {
		c.optionalIPv6 = true
		var err error
		if c.Listen, err = ParseAddrs(listen); err != nil {
			return c, err
		}
	}
	if c.MaxPeers == 0 {
		c.MaxPeers = peers
	}
	if c.PerIP == 0 {
		c.PerIP = perIP
	}
	if c.PerSubnet == 0 {
		c.PerSubnet = 4 * c.PerIP
	}
	var err error
	if c.Relay, err = c.Relay.withDefaults(c); err != nil {
		return c, err
	}
	if c.RelayUser == nil {
		c.RelayUser = func(peer.ID) RelayUser { return RelayUser{Class: RelayNode} }
	}
	if c.borrowFor == 0 {
		c.borrowFor = borrowFor
	}
	if c.reservePoll == 0 {
		c.reservePoll = reservePoll
	}
	if c.UserAgent == "" {
		c.UserAgent = "obelisk"
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	c.Logger = c.Logger.With("component", "relay")
	return c, nil
}

// sharesPort reports whether a WebSocket address is on a TCP address's port,
// which needs a listener that tells the two apart.
func sharesPort(addrs []multiaddr.Multiaddr) bool {
	tcp, ws := make(map[string]bool), make(map[string]bool)
	for _, a := range addrs {
		port, err := a.ValueForProtocol(multiaddr.P_TCP)
		if err != nil || port == "0" {
			continue
		}
		if isWebSocket(a) {
			ws[port] = true
		} else {
			tcp[port] = true
		}
	}
	for p := range ws {
		if tcp[p] {
			return true
		}
	}
	return false
}

func isWebSocket(a multiaddr.Multiaddr) bool {
	for _, code := range []int{multiaddr.P_WS, multiaddr.P_WSS} {
		if _, err := a.ValueForProtocol(code); err == nil {
			return true
		}
	}
	return false
}

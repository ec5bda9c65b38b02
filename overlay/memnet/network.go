// Package memnet is a network in memory: hosts that implement overlay.Links,
// overlay.Packets, overlay.Peers and overlay.Traversal like relay.Host does,
// without sockets. It is for tests. Everything that waits is a channel, a condition or a timer, so
// it works inside a testing/synctest bubble, in virtual time; Network and
// hosts must be made inside the bubble then.
//
//	n := memnet.New(memnet.WithLatency(20 * time.Millisecond))
//	a, b := n.Host(idA, ""), n.Host(idB, "/ip4/10.0.0.2/tcp/4001")
//	b.Handle(proto, serve)
//	err := a.Connect(ctx, b.Self(), b.Addrs())
//	…
//	n.Cut(a.Self(), b.Self())
//
// Of NATs it imitates what Traversal shows of them: that a circuit through a
// third host comes first and a direct connection some time later, or never. It
// does not imitate bandwidth.
package memnet

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
)

// Defaults of New.
const (
	// DefaultBuffer is how many bytes fit between a stream's writer and reader.
	DefaultBuffer = 256 << 10
	// packetQueue is how many packets wait at a receiver; more are dropped.
	packetQueue = 1024
	// idleTimeout is after how long the ends of a muted connection give it up, as
	// QUIC does.
	idleTimeout = 30 * time.Second
)

// Network connects hosts.
type Network struct {
	latency     time.Duration
	loss        float64
	jitter      time.Duration
	dialTimeout time.Duration
	punchAfter  time.Duration

	mu    sync.Mutex
	rng   *rand.Rand             // guarded by mu
	hosts map[peer.ID]*Host      // guarded by mu; open hosts only
	addrs map[string]*Host       // guarded by mu; by the address's bytes
	cuts  map[pair]struct{}      // guarded by mu
	conns map[pair]*conn         // guarded by mu; open direct ones
	punch map[pair]time.Duration // guarded by mu; see SetPunch
	next  uint32                 // guarded by mu; the next address given out
}

// pair is two peers, the smaller ID first.
type pair struct{ a, b peer.ID }

func pairOf(a, b peer.ID) pair {
	if b < a {
		a, b = b, a
	}
	return pair{a, b}
}

// Option changes how a Network behaves.
type Option func(*Network)

// WithLatency makes bytes and packets arrive d after they were sent; opening a
// connection takes 2d. Default 0.
func WithLatency(d time.Duration) Option { return func(n *Network) { n.latency = d } }

// WithPacketLoss drops packets with probability p, and delays each by a random
// time below jitter besides the latency, without changing their order. The
// same seed gives the same decisions.
func WithPacketLoss(p float64, jitter time.Duration, seed uint64) Option {
	return func(n *Network) {
		n.loss, n.jitter = p, jitter
		n.rng = rand.New(rand.NewPCG(seed, seed))
	}
}

// WithDialTimeout is how long dialling a host beyond a cut takes to fail.
// Default 0: at once.
func WithDialTimeout(d time.Duration) Option { return func(n *Network) { n.dialTimeout = d } }

// New returns a network without hosts.
func New(opts ...Option) *Network {
	n := &Network{
		rng:        rand.New(rand.NewPCG(1, 1)),
		hosts:      make(map[peer.ID]*Host),
		addrs:      make(map[string]*Host),
		cuts:       make(map[pair]struct{}),
		conns:      make(map[pair]*conn),
		punch:      make(map[pair]time.Duration),
		punchAfter: DefaultPunch,
	}
	for _, o := range opts {
		o(n)
	}
	return n
}

// Host adds a host that listens at addr, a multiaddr like
// "/ip4/127.0.0.7/tcp/4001"; with "" it gets an address of its own, with "-"
// it listens nowhere and can only dial. An ID or address can be used again
// once its host is closed. It panics if addr is no multiaddr, or the ID or
// address is in use: a mistake of the test.
func (n *Network) Host(id peer.ID, addr string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if addr == "" {
		n.next++
		addr = fmt.Sprintf("/ip4/10.%d.%d.%d/tcp/4001", n.next>>16&255, n.next>>8&255, n.next&255)
	}
	if n.hosts[id] != nil {
		panic(fmt.Sprintf("memnet: host %s exists", id))
	}
	h := &Host{
		net:       n,
		id:        id,
		handlers:  make(map[overlay.Protocol]func(overlay.Stream)),
		known:     make(map[peer.ID][]multiaddr.Multiaddr),
		conns:     make(map[peer.ID]*conn),
		old:       make(map[*conn]struct{}),
		circuits:  make(map[peer.ID]*conn),
		admitted:  make(map[peer.ID]time.Time),
		nearTried: make(map[peer.ID]time.Time),
		done:      make(chan struct{}),
		packets:   make(chan packet, packetQueue),
		receivers: make(map[overlay.PacketKind]func(peer.ID, []byte)),
	}
	if addr != "-" {
		a, err := multiaddr.NewMultiaddr(addr)
		if err != nil {
			panic(fmt.Sprintf("memnet: address %q: %v", addr, err))
		}
		if n.addrs[string(a.Bytes())] != nil {
			panic(fmt.Sprintf("memnet: address %s is in use", addr))
		}
		n.addrs[string(a.Bytes())] = h
		h.addr = a
	}
	n.hosts[id] = h
	return h
}

// Cut drops the direct connection between a and b and lets none be made, until
// Heal. Circuits that run over it go with it; one through a third host stays.
func (n *Network) Cut(a, b peer.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cuts[pairOf(a, b)] = struct{}{}
	if c := n.conns[pairOf(a, b)]; c != nil {
		c.dropLocked()
	}
}

// Mute makes the connection between a and b, if there is one, swallow everything
// from now on, as when a gateway forgets it: neither end is told. An end that
// closes it is rid of it alone; both are after half a minute. New connections
// can be made, by whoever has closed the old one.
func (n *Network) Mute(a, b peer.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.conns[pairOf(a, b)]; c != nil {
		c.muteLocked()
	}
	if h := n.hosts[a]; h != nil && h.circuits[b] != nil {
		h.circuits[b].muteLocked()
	}
}

// Heal undoes Cut.
func (n *Network) Heal(a, b peer.ID) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.cuts, pairOf(a, b))
}

// Split cuts every connection between hosts of different groups.
func (n *Network) Split(groups ...[]peer.ID) {
	n.forPairs(groups, n.Cut)
}

// Join undoes Split with the same groups.
func (n *Network) Join(groups ...[]peer.ID) {
	n.forPairs(groups, n.Heal)
}

func (n *Network) forPairs(groups [][]peer.ID, do func(a, b peer.ID)) {
	for i, g := range groups {
		for _, other := range groups[i+1:] {
			for _, a := range g {
				for _, b := range other {
					do(a, b)
				}
			}
		}
	}
}

// conn is a connection between two hosts.
type conn struct {
	net    *Network
	a, b   *Host // a dialled
	opened time.Time
	done   chan struct{} // closed when the connection is gone, or mute
	left   chan struct{} // closed when the first end has left it
	via    *Host         // of a circuit: the host in the middle; nil: direct

	// Guarded by net.mu:
	riders map[*conn]struct{} // circuits that run over it
	timers []*time.Timer      // of a circuit: its upgrade, its end

	mu      sync.Mutex
	closed  bool                 // guarded by mu
	muted   bool                 // guarded by mu; the ends leave one by one
	gone    [2]bool              // guarded by mu; muted: whether a and b have left
	streams map[*stream]struct{} // guarded by mu; the opener's ends
}

// muteLocked makes the connection swallow everything, and with it the circuits
// that run over it. net.mu is held.
func (c *conn) muteLocked() {
	c.mu.Lock()
	if c.closed || c.muted {
		c.mu.Unlock()
		return
	}
	c.muted = true
	for s := range c.streams {
		s.in.mute()
		s.out.mute()
	}
	c.mu.Unlock()
	close(c.done) // to packets and streams on their way
	for rider := range c.riders {
		rider.muteLocked()
	}
	for _, t := range c.timers {
		t.Stop()
	}
	if c.via == nil {
		delete(c.net.conns, pairOf(c.a.id, c.b.id))
	}
	time.AfterFunc(idleTimeout, c.drop)
}

// leaveLocked ends the connection and all its streams for h, and, unless it is
// mute, for the other end. net.mu is held.
func (c *conn) leaveLocked(h *Host) {
	c.mu.Lock()
	if !c.muted {
		c.mu.Unlock()
		c.dropLocked()
		return
	}
	side := &c.gone[0]
	if h == c.b {
		side = &c.gone[1]
	}
	if *side {
		c.mu.Unlock()
		return
	}
	if *side = true; c.gone[0] != c.gone[1] {
		close(c.left)
	}
	p := c.other(h).id
	for s := range c.streams {
		if s.peer != p {
			s = s.other
		}
		s.leave()
	}
	c.mu.Unlock()
	for rider := range c.riders {
		if h == rider.via { // its other leg may live
			rider.leaveLocked(rider.other(c.other(h)))
		} else {
			rider.leaveLocked(h)
		}
	}
	if all := h.connsLike(c); all[p] == c {
		delete(all, p)
	}
	delete(h.old, c)
	h.table.Remove(p, c.path())
}

// connsLike is where h keeps a connection.
func (h *Host) connsLike(c *conn) map[peer.ID]*conn {
	if c.via != nil {
		return h.circuits
	}
	return h.conns
}

// dropLocked ends the connection and all its streams at both ends. net.mu is
// held.
func (c *conn) dropLocked() {
	if c.isMuted() {
		c.leaveLocked(c.a)
		c.leaveLocked(c.b)
		return
	}
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return
	}
	c.closed = true
	streams := c.streams
	c.streams = nil
	c.mu.Unlock()
	close(c.done)
	close(c.left)
	for s := range streams {
		s.reset(errReset)
	}
	for rider := range c.riders {
		rider.dropLocked()
	}
	for _, t := range c.timers {
		t.Stop()
	}
	if c.via == nil {
		delete(c.net.conns, pairOf(c.a.id, c.b.id))
	} else {
		c.leaveLegsLocked()
	}
	for _, h := range []*Host{c.a, c.b} {
		p := c.other(h).id
		delete(h.connsLike(c), p)
		h.table.Remove(p, c.path())
	}
}

// isMuted reports whether the connection swallows everything.
func (c *conn) isMuted() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.muted
}

func (c *conn) other(h *Host) *Host {
	if c.a == h {
		return c.b
	}
	return c.a
}

// add keeps s for dropLocked; false if the connection is gone.
func (c *conn) add(s *stream) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	if c.muted {
		s.in.mute()
		s.out.mute()
	}
	c.streams[s] = struct{}{}
	return true
}

// forget drops a finished stream, given by either end.
func (c *conn) forget(s *stream) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.muted {
		return // the other end goes on
	}
	delete(c.streams, s)
	delete(c.streams, s.other)
}

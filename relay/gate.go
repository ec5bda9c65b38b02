package relay

import (
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/connmgr"
	"github.com/libp2p/go-libp2p/core/control"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	"github.com/prometheus/client_golang/prometheus"
)

// Bounds of what a gate remembers. Where one is reached, what ends first is
// forgotten first.
const (
	maxAdmitted = 4096
	maxKnown    = 1024
	maxAddrs    = 32 // addresses of one peer
)

const (
	// dialledFor is how long somebody this host called may call back: both ends
	// of a hole punch dial, and either may be the one that gets through.
	dialledFor = 2 * time.Minute
	// knownFor is how long addresses given to Connect may be dialled again.
	knownFor = time.Hour
)

// gate decides who may connect to the host, and which addresses the host dials.
//
// Only who is expected comes in (see overlay.Traversal.Admit), before identify,
// which shows a host's addresses; a pillar lets everybody in.
//
// Only addresses that this host's owner gave, or that an exchange with its own
// checks permits, are dialled. What a peer tells of itself in identify ends in
// libp2p's peerstore and would be dialled with the rest: a contact could have
// us knock on any port of anybody's, or of our own network. What a protected
// peer, a pillar, says is dialled.
type gate struct {
	open      bool               // everybody may connect
	connected func(peer.ID) bool // set before the first connection
	dialling  func(multiaddr.Multiaddr)
	strangers prometheus.Counter // refused connections
	unasked   prometheus.Counter // addresses not dialled

	mu        sync.Mutex
	protected map[peer.ID]bool           // guarded by mu
	admitted  map[peer.ID]time.Time      // guarded by mu; until when
	dialled   map[peer.ID]time.Time      // guarded by mu; until when it may call back
	known     map[peer.ID]*knownAddrs    // guarded by mu; given to Connect
	permits   map[peer.ID]map[string]int // guarded by mu; by dials going on
}

type knownAddrs struct {
	addrs map[string]bool
	names map[string]bool // what follows a DNS name
	until time.Time
}

var _ connmgr.ConnectionGater = (*gate)(nil)

func newGate(open bool, m *metrics) *gate {
	return &gate{
		open: open, strangers: m.strangers, unasked: m.unasked,
		protected: make(map[peer.ID]bool),
		admitted:  make(map[peer.ID]time.Time),
		dialled:   make(map[peer.ID]time.Time),
		known:     make(map[peer.ID]*knownAddrs),
		permits:   make(map[peer.ID]map[string]int),
	}
}

// protect says that p is a pillar of ours.
func (g *gate) protect(p peer.ID, on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if on {
		g.protected[p] = true
	} else {
		delete(g.protected, p)
	}
}

func (g *gate) protects(p peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.protected[p]
}

// trusts reports whether what p says about addresses counts: a pillar, or
// somebody this host was told to connect to at given addresses.
func (g *gate) trusts(p peer.ID) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.protected[p] || g.known[p] != nil
}

func (g *gate) admit(p peer.ID, until time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	remember(g.admitted, p, until, maxAdmitted)
	if !until.After(time.Now()) {
		delete(g.dialled, p) // nor may it call back
	}
}

// call lets p call back for a while.
func (g *gate) call(p peer.ID) {
	g.mu.Lock()
	defer g.mu.Unlock()
	remember(g.dialled, p, time.Now().Add(dialledFor), maxAdmitted)
}

// remember keeps at most most entries, dropping those that have ended, and
// after them the one that ends first.
func remember(m map[peer.ID]time.Time, p peer.ID, until time.Time, most int) {
	now := time.Now()
	if !until.After(now) {
		delete(m, p)
		return
	}
	if _, ok := m[p]; !ok && len(m) >= most {
		var first peer.ID
		for q, t := range m {
			if !t.After(now) {
				delete(m, q)
			} else if first == "" || t.Before(m[first]) {
				first = q
			}
		}
		if len(m) >= most {
			delete(m, first)
		}
	}
	m[p] = until
}

// know makes addrs, bare ones, what Connect was told last about p. Where one is
// a circuit's, the relay in it may be dialled as well.
func (g *gate) know(p peer.ID, addrs []multiaddr.Multiaddr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	now := time.Now()
	k := newKnown(now)
	for _, a := range addrs[:min(len(addrs), maxAddrs)] {
		k.add(a)
		if r, at := relayOf(a); r != "" && at != nil {
			if g.known[r] == nil {
				g.keep(r, newKnown(now))
			}
			g.known[r].add(at)
		}
	}
	g.keep(p, k)
}

// keep makes k what is known of p. g.mu is held.
func (g *gate) keep(p peer.ID, k *knownAddrs) {
	if g.known[p] == nil && len(g.known) >= maxKnown {
		var first peer.ID
		for q, o := range g.known {
			if first == "" || o.until.Before(g.known[first].until) {
				first = q
			}
		}
		delete(g.known, first)
	}
	g.known[p] = k
}

func newKnown(now time.Time) *knownAddrs {
	return &knownAddrs{addrs: make(map[string]bool), names: make(map[string]bool), until: now.Add(knownFor)}
}

func (k *knownAddrs) add(a multiaddr.Multiaddr) {
	if len(k.addrs) >= maxAddrs {
		return
	}
	k.addrs[string(a.Bytes())] = true
	if isName(a) {
		k.names[port(a)] = true
	}
}

// permit allows addrs to be dialled until the returned function is called.
func (g *gate) permit(p peer.ID, addrs ...multiaddr.Multiaddr) (end func()) {
	keys := make([]string, 0, len(addrs))
	for _, a := range addrs {
		keys = append(keys, string(a.Bytes()))
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	m := g.permits[p]
	if m == nil {
		m = make(map[string]int)
		g.permits[p] = m
	}
	for _, k := range keys {
		m[k]++
	}
	return func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, k := range keys {
			if m[k]--; m[k] == 0 {
				delete(m, k)
			}
		}
		if len(m) == 0 {
			delete(g.permits, p)
		}
	}
}

// InterceptPeerDial implements connmgr.ConnectionGater: whom to dial is the
// owner's business.
func (g *gate) InterceptPeerDial(peer.ID) bool { return true }

// InterceptAddrDial implements connmgr.ConnectionGater.
func (g *gate) InterceptAddrDial(p peer.ID, a multiaddr.Multiaddr) bool {
	if g.mayDial(p, a) {
		g.dialling(a)
		return true
	}
	g.unasked.Inc()
	return false
}

func (g *gate) mayDial(p peer.ID, a multiaddr.Multiaddr) bool {
	key := a.Bytes()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.permits[p][string(key)] > 0 {
		return true
	}
	if k := g.known[p]; k != nil {
		if k.until.Before(time.Now()) {
			delete(g.known, p)
		} else if k.addrs[string(key)] || len(k.names) > 0 && k.names[port(a)] {
			return true
		}
	}
	return g.protected[p] && !isCircuit(a)
}

// InterceptAccept implements connmgr.ConnectionGater: addresses are counted by
// the resource manager.
func (g *gate) InterceptAccept(network.ConnMultiaddrs) bool { return true }

// InterceptSecured implements connmgr.ConnectionGater. It comes before identify,
// and for inbound connections of every transport, circuits included.
func (g *gate) InterceptSecured(dir network.Direction, p peer.ID, _ network.ConnMultiaddrs) bool {
	if dir == network.DirOutbound || g.welcome(p) {
		return true
	}
	g.strangers.Inc()
	return false
}

// InterceptUpgraded implements connmgr.ConnectionGater.
func (g *gate) InterceptUpgraded(network.Conn) (bool, control.DisconnectReason) { return true, 0 }

func (g *gate) welcome(p peer.ID) bool {
	if g.open {
		return true
	}
	now := time.Now()
	g.mu.Lock()
	ok := g.protected[p] || g.admitted[p].After(now) || g.dialled[p].After(now)
	g.mu.Unlock()
	// Who is here already may come by another way too.
	return ok || g.connected(p)
}

// relayOf splits the address of a circuit: which relay, and where it is, nil if
// the address does not say.
func relayOf(a multiaddr.Multiaddr) (peer.ID, multiaddr.Multiaddr) {
	first, rest := multiaddr.SplitFunc(a, func(c multiaddr.Component) bool { return c.Protocol().Code == multiaddr.P_CIRCUIT })
	if rest == nil || first == nil {
		return "", nil
	}
	at, id := peer.SplitAddr(first)
	return id, at
}

// isName reports whether a begins with a DNS name.
func isName(a multiaddr.Multiaddr) bool {
	if len(a) == 0 {
		return false
	}
	switch a[0].Protocol().Code {
	case multiaddr.P_DNS, multiaddr.P_DNS4, multiaddr.P_DNS6:
		return true
	}
	return false
}

// port is an address's transport and port, which stay when a name is resolved.
func port(a multiaddr.Multiaddr) string {
	for _, code := range []int{multiaddr.P_TCP, multiaddr.P_UDP} {
		if v, err := a.ValueForProtocol(code); err == nil {
			return multiaddr.ProtocolWithCode(code).Name + "/" + v
		}
	}
	return ""
}

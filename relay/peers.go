package relay

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
	"github.com/multiformats/go-multiaddr"
	quicgo "github.com/quic-go/quic-go"

	"github.com/obelisk-network/obelisk/overlay"
)

// isCircuit reports whether a goes through a relay.
func isCircuit(a multiaddr.Multiaddr) bool {
	_, err := a.ValueForProtocol(multiaddr.P_CIRCUIT)
	return err == nil
}

// pathOf is constant over a connection's life.
func pathOf(c network.Conn) overlay.Path {
	if c.Stat().Limited || isCircuit(c.RemoteMultiaddr()) {
		return overlay.PathRelayed
	}
	return overlay.PathDirect
}

// connected and disconnected are told by libp2p, once each for a connection
// and in this order.
func (h *Host) connected(_ network.Network, c network.Conn) {
	p := c.RemotePeer()
	if pathOf(c) == overlay.PathDirect {
		h.upgradePackets(p)
	}
	h.table.Add(p, pathOf(c))
	if pathOf(c) == overlay.PathDirect {
		h.punches.arrived(p)
	}
	if pathOf(c) == overlay.PathRelayed || len(h.swarm.ConnsToPeer(p)) > 1 {
		h.upgrades.look(p)
	}
}

func (h *Host) disconnected(_ network.Network, c network.Conn) {
	p := c.RemotePeer()
	h.called.noteAddr(c.RemoteMultiaddr())
	if h.table.Remove(p, pathOf(c)) {
		h.losePackets(p)
		h.rtts.forget(p)
		h.slots.forget(p)
	}
	if pathOf(c) == overlay.PathRelayed || len(h.swarm.ConnsToPeer(p)) > 0 {
		h.upgrades.look(p)
	}
}

// Watch implements overlay.Peers.
func (h *Host) Watch(ctx context.Context, fn func(overlay.PeerEvent)) {
	h.table.Watch(ctx, fn)
}

// Info implements overlay.Peers. The round-trip time is QUIC's own; on other
// connections it is measured from time to time as long as somebody asks, so it
// is 0 at first and up to half a minute old later.
func (h *Host) Info(p peer.ID) (overlay.PeerInfo, bool) {
	c := best(h.swarm.ConnsToPeer(p))
	if c == nil {
		return overlay.PeerInfo{}, false
	}
	return overlay.PeerInfo{
		Peer:   p,
		Path:   pathOf(c),
		Remote: c.RemoteMultiaddr(),
		RTT:    h.rtt(p, c),
		Since:  c.Stat().Opened,
	}, true
}

// Connected implements overlay.Peers.
func (h *Host) Connected() []overlay.PeerInfo {
	peers := h.swarm.Peers()
	out := make([]overlay.PeerInfo, 0, len(peers))
	for _, p := range peers {
		if info, ok := h.Info(p); ok {
			out = append(out, info)
		}
	}
	return out
}

// best prefers direct connections, then older ones.
func best(conns []network.Conn) network.Conn {
	var b network.Conn
	for _, c := range conns {
		if c.IsClosed() {
			continue
		}
		if b == nil || better(c, b) {
			b = c
		}
	}
	return b
}

func better(a, b network.Conn) bool {
	if pa, pb := pathOf(a), pathOf(b); pa != pb {
		return pa == overlay.PathDirect
	}
	return a.Stat().Opened.Before(b.Stat().Opened)
}

const (
	rttLife    = 30 * time.Second // a measurement older than this is repeated
	rttTimeout = 5 * time.Second
	rttQueue   = 64 // peers waiting to be measured; more are left for later
)

// rtts are measured round-trip times of connections that do not know their
// own.
type rtts struct {
	wanted chan peer.ID

	mu    sync.Mutex
	known map[peer.ID]rttSample // guarded by mu; connected peers only
}

type rttSample struct {
	conn  string // of which connection
	rtt   time.Duration
	asked time.Time
}

func (r *rtts) init() {
	r.wanted = make(chan peer.ID, rttQueue)
	r.known = make(map[peer.ID]rttSample)
}

func (r *rtts) forget(p peer.ID) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.known, p)
}

// rtt returns the round-trip time of c, 0 if it is not known yet.
func (h *Host) rtt(p peer.ID, c network.Conn) time.Duration {
	var qc *quicgo.Conn
	if c.As(&qc) && qc != nil {
		return qc.ConnectionStats().SmoothedRTT
	}
	r := &h.rtts
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.known[p]
	if s.conn != c.ID() {
		s = rttSample{conn: c.ID()}
	}
	if time.Since(s.asked) > rttLife {
		select {
		case r.wanted <- p:
			s.asked = time.Now()
			r.known[p] = s
		default:
		}
	}
	return s.rtt
}

// measure pings the peers somebody asked for, one after the other.
func (h *Host) measure(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case p := <-h.rtts.wanted:
			h.ping(ctx, p)
		}
	}
}

func (h *Host) ping(ctx context.Context, p peer.ID) {
	ctx, cancel := context.WithTimeout(ctx, rttTimeout)
	defer cancel()
	results := ping.Ping(network.WithNoDial(ctx, "ping"), h.host, p)
	var res ping.Result
	select {
	case res = <-results:
	case <-ctx.Done():
		return
	}
	c := best(h.swarm.ConnsToPeer(p))
	h.rtts.mu.Lock()
	defer h.rtts.mu.Unlock()
	if c == nil {
		delete(h.rtts.known, p)
		return
	}
	if s, ok := h.rtts.known[p]; ok && res.Error == nil && s.conn == c.ID() {
		s.rtt = res.RTT
		h.rtts.known[p] = s
	}
}

package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	circuitclient "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/client"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
)

const (
	// viaTimeout is what one pillar may take to give a circuit, of which
	// hopTimeout until it has said yes or no.
	viaTimeout = 6 * time.Second
	hopTimeout = 4 * time.Second
	maxVias    = 8
	// nearTimeout is for a dial on the same network, and nearEvery between two
	// of one peer.
	nearTimeout = 3 * time.Second
	nearEvery   = 3 * time.Second
)

// boundHops makes libp2p's circuit client give up on a silent relay. By itself
// it waits a minute, whatever the caller's context says, and until then it asks
// no other relay for the same peer. The value is the process's.
var boundHops = sync.OnceFunc(func() { circuitclient.DialTimeout = hopTimeout })

// DialThrough implements overlay.Traversal. A pillar that is not connected yet
// is; at most maxVias pillars are tried, each for at most viaTimeout.
func (h *Host) DialThrough(ctx context.Context, p peer.ID, via []overlay.PillarAddr) error {
	if err := h.dialable(p); err != nil {
		return fmt.Errorf("dial: %w", err)
	}
	if h.swarm.Connectedness(p) != network.NotConnected {
		return nil
	}
	if len(via) == 0 {
		return fmt.Errorf("dial %s: %w: no pillar is known to have a circuit", p, overlay.ErrUnreachable)
	}
	h.gate.call(p)
	var errs []error
	for _, v := range byPillar(via) {
		err := h.dialVia(ctx, p, v)
		if err == nil {
			return nil
		}
		errs = append(errs, fmt.Errorf("through %s: %w", v.pillar, err))
		if ctx.Err() != nil {
			break
		}
	}
	return fmt.Errorf("dial %s: %w", p, errors.Join(errs...))
}

// dialable refuses what no dial can reach.
func (h *Host) dialable(p peer.ID) error {
	if err := p.Validate(); err != nil {
		return fmt.Errorf("%w: %w", overlay.ErrUnreachable, err)
	}
	if p == h.host.ID() {
		return fmt.Errorf("%s: %w: that is this host itself", p, overlay.ErrUnreachable)
	}
	return nil
}

// A viaPillar is a pillar that may have a circuit, and where it is.
type viaPillar struct {
	pillar peer.ID
	addrs  []multiaddr.Multiaddr
}

// byPillar puts addresses of one pillar together, in the order of pillars.
func byPillar(via []overlay.PillarAddr) []viaPillar {
	var out []viaPillar
	for _, v := range via {
		p := peer.ID(v.Pillar)
		i := slices.IndexFunc(out, func(x viaPillar) bool { return x.pillar == p })
		if i < 0 {
			if len(out) == maxVias {
				continue
			}
			i = len(out)
			out = append(out, viaPillar{pillar: p})
		}
		if v.Addr != nil && len(out[i].addrs) < maxAddrs {
			out[i].addrs = append(out[i].addrs, v.Addr)
		}
	}
	return out
}

// dialVia makes a circuit to p through one pillar.
func (h *Host) dialVia(ctx context.Context, p peer.ID, v viaPillar) error {
	if v.pillar == p {
		return fmt.Errorf("%w: it is the peer itself", overlay.ErrUnreachable)
	}
	ctx, cancel := context.WithTimeout(ctx, viaTimeout)
	defer cancel()
	had := h.swarm.Connectedness(v.pillar) != network.NotConnected
	if err := h.Connect(ctx, v.pillar, v.addrs); err != nil {
		return err
	}
	if !had {
		h.borrowed.add(v.pillar)
	}
	if info, ok := h.Info(v.pillar); ok && info.Path == overlay.PathRelayed {
		return fmt.Errorf("%w: the pillar itself is reached by a circuit only", overlay.ErrUnreachable)
	}
	at := multiaddr.StringCast("/p2p/" + v.pillar.String() + "/p2p-circuit")
	end := h.gate.permit(p, at)
	defer end()
	h.swarm.Backoff().Clear(p)
	h.host.Peerstore().AddAddrs(p, []multiaddr.Multiaddr{at}, peerstore.TempAddrTTL)
	defer h.host.Peerstore().SetAddrs(p, []multiaddr.Multiaddr{at}, 0)
	return h.dial(ctx, p)
}

// Admit implements overlay.Traversal. At most maxAdmitted peers are admitted at
// once; who would be one more takes the place of who would leave first.
func (h *Host) Admit(p peer.ID, until time.Time) { h.gate.admit(p, until) }

// DialNear implements overlay.Traversal.
func (h *Host) DialNear(ctx context.Context, p peer.ID, addrs []multiaddr.Multiaddr) error {
	if err := h.dialable(p); err != nil {
		return fmt.Errorf("dial near: %w", err)
	}
	info, ok := h.Info(p)
	switch {
	case !ok:
		return fmt.Errorf("dial near %s: %w: not connected by a circuit", p, overlay.ErrUnreachable)
	case info.Path == overlay.PathDirect:
		return nil
	}
	near, err := nearAddrs(p, addrs)
	if err != nil {
		return fmt.Errorf("dial near %s: %w: %w", p, overlay.ErrUnreachable, err)
	}
	if len(near) == 0 {
		return fmt.Errorf("dial near %s: %w: none of its addresses is in a network of this machine", p, overlay.ErrUnreachable)
	}
	if !h.near.allow(p, time.Now()) {
		return fmt.Errorf("dial near %s: %w: it was tried a moment ago", p, overlay.ErrUnreachable)
	}
	ctx, cancel := context.WithTimeout(network.WithForceDirectDial(ctx, "near"), nearTimeout)
	defer cancel()
	if err := h.dialAt(ctx, p, near); err != nil {
		return fmt.Errorf("dial near %s: %w", p, err)
	}
	return nil
}

// nearAddrs are those of addrs that DialNear dials, bare.
func nearAddrs(p peer.ID, addrs []multiaddr.Multiaddr) ([]multiaddr.Multiaddr, error) {
	networks, err := onLink()
	if err != nil {
		return nil, err
	}
	var out []multiaddr.Multiaddr
	for _, a := range addrs[:min(len(addrs), overlay.MaxNear)] {
		if a == nil {
			continue
		}
		bare, id := peer.SplitAddr(a)
		if id != "" && id != p || bare == nil || !punchTransport(bare) {
			continue
		}
		ip, ok := ipOf(bare)
		if !ok || !isNear(ip) || !slices.ContainsFunc(networks, func(n netip.Prefix) bool { return n.Contains(ip) }) {
			continue
		}
		out = append(out, bare)
	}
	return out, nil
}

// dialAt dials p at addrs, and nowhere else, whatever else is known of it.
func (h *Host) dialAt(ctx context.Context, p peer.ID, addrs []multiaddr.Multiaddr) error {
	end := h.gate.permit(p, addrs...)
	defer end()
	h.host.Peerstore().AddAddrs(p, addrs, peerstore.TempAddrTTL)
	if _, err := h.swarm.DialPeer(ctx, p); err != nil {
		h.forgetWrong(p, err)
		return h.dialError(err)
	}
	return nil
}

// nearDials remembers whom DialNear was tried with.
type nearDials struct {
	mu   sync.Mutex
	last map[peer.ID]time.Time // guarded by mu; of the last nearEvery
}

func (n *nearDials) allow(p peer.ID, now time.Time) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	for q, t := range n.last {
		if now.Sub(t) >= nearEvery {
			delete(n.last, q)
		}
	}
	if _, ok := n.last[p]; ok || len(n.last) >= maxAdmitted {
		return false
	}
	if n.last == nil {
		n.last = make(map[peer.ID]time.Time)
	}
	n.last[p] = now
	return true
}

package memnet

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
	manet "github.com/multiformats/go-multiaddr/net"

	"github.com/obelisk-network/obelisk/overlay"
)

// How circuits become direct connections.
const (
	// DefaultPunch is how long after its circuit a direct connection is there.
	DefaultPunch = 500 * time.Millisecond
	// NeverPunch, given to WithPunch or SetPunch, leaves it at the circuit.
	NeverPunch = time.Duration(-1)
	// circuitEnds is how long after the direct connection the circuit is closed.
	circuitEnds = 5 * time.Second
	// nearPause is the least time between two DialNear of one peer.
	nearPause = 5 * time.Second
	// nearBits is how long the prefix of a network is that a host with a private
	// address is part of.
	nearBits = 24
)

// WithPunch makes circuits direct d after they were made, or never.
func WithPunch(d time.Duration) Option { return func(n *Network) { n.punchAfter = d } }

// SetPunch is WithPunch for one pair of hosts, and what is made from now on.
func (n *Network) SetPunch(a, b peer.ID, d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.punch[pairOf(a, b)] = d
}

// Guard makes the host refuse direct connections, as it refuses circuits, from
// everybody that it has neither admitted nor dialled: what a node does.
func (h *Host) Guard() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.guarded = true
}

// SetFull makes the host refuse to carry further circuits for want of room.
func (h *Host) SetFull(full bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.full = full
}

// SetVicinity says what Vicinity returns. Hosts that have Near addresses of one
// /24 are on one network and reach each other there by DialNear.
func (h *Host) SetVicinity(v overlay.Vicinity) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.vicinity = v
}

// Vicinity implements overlay.Traversal.
func (h *Host) Vicinity() overlay.Vicinity {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return overlay.Vicinity{Public: slices.Clone(h.vicinity.Public), Near: slices.Clone(h.vicinity.Near)}
}

// Admit implements overlay.Traversal.
func (h *Host) Admit(p peer.ID, until time.Time) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if !until.After(time.Now()) {
		delete(h.admitted, p)
		return
	}
	h.admitted[p] = until
}

// welcomesLocked reports whether p may connect to a host that refuses
// strangers. net.mu is held.
func (h *Host) welcomesLocked(p peer.ID) bool {
	return h.admitted[p].After(time.Now()) || h.bestLocked(p) != nil
}

// DialThrough implements overlay.Traversal. A pillar of via has a circuit to
// everybody who is connected to it directly.
func (h *Host) DialThrough(ctx context.Context, p peer.ID, via []overlay.PillarAddr) error {
	if p == h.id {
		return fmt.Errorf("dial %s: %w: that is this host itself", p, overlay.ErrUnreachable)
	}
	if _, ok := h.Info(p); ok {
		return nil
	}
	err := fmt.Errorf("%w: no pillar to go through", overlay.ErrUnreachable)
	full := false
	for _, v := range via {
		if err = h.dialThrough(ctx, p, v); err == nil {
			return nil
		}
		full = full || errors.Is(err, overlay.ErrFull)
		if ctx.Err() != nil || errors.Is(err, overlay.ErrLinksClosed) {
			break
		}
	}
	if full && !errors.Is(err, overlay.ErrFull) {
		err = fmt.Errorf("%w: %w", err, overlay.ErrFull)
	}
	return fmt.Errorf("dial %s: %w", p, err)
}

func (h *Host) dialThrough(ctx context.Context, p peer.ID, v overlay.PillarAddr) error {
	var addrs []multiaddr.Multiaddr
	if v.Addr != nil {
		addrs = append(addrs, v.Addr)
	}
	pillar := peer.ID(v.Pillar)
	if err := h.Connect(ctx, pillar, addrs); err != nil {
		return err
	}
	if err := h.pause(ctx, 4*h.net.latency); err != nil {
		return fmt.Errorf("through %s: %w: %w", pillar, overlay.ErrUnreachable, err)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	mine := h.conns[pillar]
	switch {
	case h.closed:
		return fmt.Errorf("%w: %w", overlay.ErrUnreachable, overlay.ErrLinksClosed)
	case h.bestLocked(p) != nil:
		return nil
	case mine == nil:
		return fmt.Errorf("through %s: %w: it is gone", pillar, overlay.ErrUnreachable)
	}
	middle := mine.other(h)
	theirs := middle.conns[p]
	switch {
	case theirs == nil:
		return fmt.Errorf("through %s: %w: no reservation", pillar, overlay.ErrUnreachable)
	case middle.full:
		return fmt.Errorf("through %s: %w: %w", pillar, overlay.ErrUnreachable, overlay.ErrFull)
	}
	target := theirs.other(middle)
	if !target.welcomesLocked(h.id) {
		return fmt.Errorf("through %s: %w: connection refused", pillar, overlay.ErrUnreachable)
	}
	c := h.joinLocked(target, middle)
	mine.riders[c], theirs.riders[c] = struct{}{}, struct{}{}
	after, ok := h.net.punch[pairOf(h.id, p)]
	if !ok {
		after = h.net.punchAfter
	}
	if after >= 0 {
		c.timers = append(c.timers, time.AfterFunc(after, c.upgrade))
	}
	return nil
}

// upgrade adds a direct connection to a circuit, if nothing is between.
func (c *conn) upgrade() {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.upgradeLocked()
}

func (c *conn) upgradeLocked() {
	_, cut := c.net.cuts[pairOf(c.a.id, c.b.id)]
	if cut || c.a.circuits[c.b.id] != c || c.a.conns[c.b.id] != nil {
		return
	}
	c.a.joinLocked(c.b, nil)
	c.timers = append(c.timers, time.AfterFunc(circuitEnds, c.drop))
}

// drop ends the connection.
func (c *conn) drop() {
	c.net.mu.Lock()
	defer c.net.mu.Unlock()
	c.dropLocked()
}

// DialNear implements overlay.Traversal.
func (h *Host) DialNear(ctx context.Context, p peer.ID, addrs []multiaddr.Multiaddr) error {
	if len(addrs) > overlay.MaxNear {
		return fmt.Errorf("dial %s nearby: %w: %d addresses, at most %d", p, overlay.ErrUnreachable, len(addrs), overlay.MaxNear)
	}
	if direct, err := h.mayDialNear(p); direct || err != nil {
		return err
	}
	if err := h.pause(ctx, 2*h.net.latency); err != nil {
		return fmt.Errorf("dial %s nearby: %w: %w", p, overlay.ErrUnreachable, err)
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	c := h.circuits[p]
	if h.conns[p] != nil {
		return nil
	}
	if c == nil {
		return fmt.Errorf("dial %s nearby: %w: it is connected no more", p, overlay.ErrUnreachable)
	}
	target := c.other(h)
	for _, a := range addrs {
		if !h.nearLocked(a) || !slices.ContainsFunc(target.vicinity.Near, a.Equal) {
			continue
		}
		if c.upgradeLocked(); h.conns[p] != nil {
			return nil
		}
	}
	return fmt.Errorf("dial %s nearby: %w: at none of its %d addresses", p, overlay.ErrUnreachable, len(addrs))
}

// mayDialNear says whether p is connected directly already, or why it may not be
// dialled nearby now; else it notes that it is.
func (h *Host) mayDialNear(p peer.ID) (direct bool, err error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.conns[p] != nil {
		return true, nil
	}
	if h.circuits[p] == nil {
		return false, fmt.Errorf("dial %s nearby: %w: it is not connected", p, overlay.ErrUnreachable)
	}
	if last, ok := h.nearTried[p]; ok && time.Since(last) < nearPause {
		return false, fmt.Errorf("dial %s nearby: %w: it was tried a moment ago", p, overlay.ErrUnreachable)
	}
	h.nearTried[p] = time.Now()
	return false, nil
}

// nearLocked reports whether a is a private unicast address of a network that
// the host has an address in. net.mu is held.
func (h *Host) nearLocked(a multiaddr.Multiaddr) bool {
	ip, ok := ipOf(a)
	if !ok || !ip.IsPrivate() {
		return false
	}
	for _, own := range h.vicinity.Near {
		if mine, ok := ipOf(own); ok && mine.BitLen() == ip.BitLen() && netip.PrefixFrom(mine, nearBits).Masked().Contains(ip) {
			return true
		}
	}
	return false
}

func ipOf(a multiaddr.Multiaddr) (netip.Addr, bool) {
	raw, err := manet.ToIP(a)
	if err != nil {
		return netip.Addr{}, false
	}
	ip, ok := netip.AddrFromSlice(raw)
	return ip.Unmap(), ok
}

// path is how the connection goes.
func (c *conn) path() overlay.Path {
	if c.via != nil {
		return overlay.PathRelayed
	}
	return overlay.PathDirect
}

// latency is how long bytes take from one end to the other.
func (c *conn) latency() time.Duration {
	if c.via != nil {
		return 2 * c.net.latency
	}
	return c.net.latency
}

// remote is the other end's address as h sees it.
func (c *conn) remote(h *Host) multiaddr.Multiaddr {
	if c.via == nil {
		return c.other(h).dialled()
	}
	return c.via.dialled().Encapsulate(multiaddr.StringCast(fmt.Sprintf("/p2p/%s/p2p-circuit", c.via.id)))
}

// leaveLegsLocked takes a circuit off the connections it runs over. net.mu is
// held.
func (c *conn) leaveLegsLocked() {
	for _, h := range []*Host{c.a, c.b} {
		if leg := h.conns[c.via.id]; leg != nil {
			delete(leg.riders, c)
		}
	}
}

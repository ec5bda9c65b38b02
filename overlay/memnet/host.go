package memnet

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/overlay"
)

// Host implements overlay.Links, overlay.Packets, overlay.Peers and
// overlay.Traversal.
type Host struct {
	net   *Network
	id    peer.ID
	addr  multiaddr.Multiaddr // nil if it listens nowhere
	table overlay.PeerTable
	done  chan struct{}

	// Guarded by net.mu:
	closed    bool
	receiving bool // the packet goroutine runs
	handlers  map[overlay.Protocol]func(overlay.Stream)
	receivers map[overlay.PacketKind]func(peer.ID, []byte)
	known     map[peer.ID][]multiaddr.Multiaddr
	conns     map[peer.ID]*conn  // direct ones
	circuits  map[peer.ID]*conn  // beside conns, or alone
	old       map[*conn]struct{} // mute ones that a newer one replaced
	guarded   bool
	full      bool
	admitted  map[peer.ID]time.Time
	vicinity  overlay.Vicinity
	nearTried map[peer.ID]time.Time

	packets chan packet
	work    sync.WaitGroup // handlers and the packet goroutine; added to under net.mu while open
}

// packet is on its way to a host.
type packet struct {
	from    peer.ID
	kind    overlay.PacketKind
	due     time.Time
	conn    *conn
	payload []byte
}

var (
	_ overlay.Links     = (*Host)(nil)
	_ overlay.Packets   = (*Host)(nil)
	_ overlay.Peers     = (*Host)(nil)
	_ overlay.Traversal = (*Host)(nil)
)

// Self implements overlay.Peers.
func (h *Host) Self() peer.ID { return h.id }

// ID is Self, under the name that relay.Host has too.
func (h *Host) ID() peer.ID { return h.id }

// Addrs is where others can dial the host, without /p2p; empty if nowhere.
func (h *Host) Addrs() []multiaddr.Multiaddr {
	if h.addr == nil {
		return nil
	}
	return []multiaddr.Multiaddr{h.addr}
}

// undialable stands for the address of a host that listens nowhere.
var undialable = multiaddr.StringCast("/ip4/192.0.2.1/tcp/1")

// dialled is the address a peer sees.
func (h *Host) dialled() multiaddr.Multiaddr {
	if h.addr == nil {
		return undialable
	}
	return h.addr
}

// Connect implements overlay.Links.
func (h *Host) Connect(ctx context.Context, p peer.ID, addrs []multiaddr.Multiaddr) error {
	if p == h.id {
		return fmt.Errorf("connect to %s: %w: that is this host itself", p, overlay.ErrUnreachable)
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
	h.net.mu.Lock()
	if h.bestLocked(p) != nil {
		h.net.mu.Unlock()
		return nil
	}
	for _, a := range h.known[p] {
		if !slices.ContainsFunc(bare, a.Equal) {
			bare = append(bare, a)
		}
	}
	h.net.mu.Unlock()
	if len(bare) == 0 {
		return fmt.Errorf("connect to %s: %w", p, &overlay.DialError{Cause: overlay.ErrNoAddress})
	}
	failed := &overlay.DialError{}
	for _, a := range bare {
		fault, err := h.dial(ctx, p, a)
		switch {
		case err != nil:
			return fmt.Errorf("connect to %s: %w", p, &overlay.DialError{Cause: err})
		case fault == "":
			return nil
		}
		failed.Attempts = append(failed.Attempts, overlay.DialAttempt{Addr: a, Fault: fault, Detail: fault.Words()})
	}
	return fmt.Errorf("connect to %s: %w", p, failed)
}

// dial makes a connection to p at a, or finds that there is one. What keeps it
// from dialling elsewhere, too, is an error.
func (h *Host) dial(ctx context.Context, p peer.ID, a multiaddr.Multiaddr) (overlay.Fault, error) {
	h.net.mu.Lock()
	_, cut := h.targetLocked(a)
	h.net.mu.Unlock()
	wait := 2 * h.net.latency
	if cut {
		wait = h.net.dialTimeout
	}
	if err := h.pause(ctx, wait); err != nil {
		return "", err
	}

	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	target, cut := h.targetLocked(a)
	switch {
	case h.closed:
		return "", overlay.ErrLinksClosed
	case h.conns[p] != nil:
		return "", nil
	case target == nil:
		return overlay.FaultRefused, nil
	case cut:
		return overlay.FaultTimeout, nil
	case target.id != p:
		return overlay.FaultWrongPeer, nil
	case target.guarded && !target.welcomesLocked(h.id):
		return overlay.FaultHungUp, nil
	}
	h.joinLocked(target, nil)
	h.known[p] = []multiaddr.Multiaddr{a}
	if h.addr != nil {
		target.known[h.id] = []multiaddr.Multiaddr{h.addr}
	}
	return "", nil
}

// joinLocked connects h and target, through via if that is not nil. net.mu is
// held, and there is no such connection.
func (h *Host) joinLocked(target, via *Host) *conn {
	c := &conn{
		net: h.net, a: h, b: target, via: via,
		opened:  time.Now(),
		done:    make(chan struct{}),
		left:    make(chan struct{}),
		streams: make(map[*stream]struct{}),
		riders:  make(map[*conn]struct{}),
	}
	if via == nil {
		h.net.conns[pairOf(h.id, target.id)] = c
	}
	for _, x := range []*Host{h, target} {
		all, p := x.connsLike(c), c.other(x).id
		if mute := all[p]; mute != nil { // and left by the other end
			x.old[mute] = struct{}{}
		}
		all[p] = c
	}
	h.table.Add(target.id, c.path())
	target.table.Add(h.id, c.path())
	return c
}

// bestLocked is the connection with p that new streams use; nil: none.
func (h *Host) bestLocked(p peer.ID) *conn {
	if c := h.conns[p]; c != nil {
		return c
	}
	return h.circuits[p]
}

func (h *Host) targetLocked(a multiaddr.Multiaddr) (target *Host, cut bool) {
	target = h.net.addrs[string(a.Bytes())]
	if target != nil {
		_, cut = h.net.cuts[pairOf(h.id, target.id)]
	}
	return target, cut
}

func (h *Host) pause(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-h.done:
		return overlay.ErrLinksClosed
	}
}

// Open implements overlay.Links.
func (h *Host) Open(ctx context.Context, p peer.ID, proto overlay.Protocol) (overlay.Stream, error) {
	h.net.mu.Lock()
	c := h.bestLocked(p)
	h.net.mu.Unlock()
	if c == nil {
		if err := h.Connect(ctx, p, nil); err != nil {
			return nil, fmt.Errorf("open %s: %w", proto, err)
		}
	}
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if c = h.bestLocked(p); c == nil || h.closed {
		return nil, fmt.Errorf("open %s to %s: %w", proto, p, overlay.ErrUnreachable)
	}
	target := c.other(h)
	fn := target.handlers[proto]
	if fn == nil {
		return nil, fmt.Errorf("open %s to %s: %w", proto, p, overlay.ErrProtocol)
	}
	ours, theirs := newStreamPair(c, h, target, DefaultBuffer, c.latency())
	if !c.add(ours) {
		return nil, fmt.Errorf("open %s to %s: %w", proto, p, overlay.ErrUnreachable)
	}
	target.work.Add(1)
	go target.serve(c, theirs, fn)
	return ours, nil
}

// serve calls fn when the stream's opening has travelled to h.
func (h *Host) serve(c *conn, s *stream, fn func(overlay.Stream)) {
	defer h.work.Done()
	if c.isMuted() {
		return
	}
	if d := c.latency(); d > 0 {
		t := time.NewTimer(d)
		defer t.Stop()
		select {
		case <-t.C:
		case <-c.done:
			return
		}
	}
	fn(s)
}

// Handle implements overlay.Links.
func (h *Host) Handle(proto overlay.Protocol, fn func(overlay.Stream)) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if fn == nil {
		delete(h.handlers, proto)
		return
	}
	h.handlers[proto] = fn
}

// Close implements overlay.Links: it drops the connections to p. See Shutdown
// for the host itself.
func (h *Host) Close(p peer.ID) error {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	for c := h.bestLocked(p); c != nil; c = h.bestLocked(p) {
		c.leaveLocked(h)
	}
	for c := range h.old {
		if c.other(h).id == p {
			c.leaveLocked(h)
		}
	}
	return nil
}

// Shutdown ends the host as a crash would: connections and streams are reset,
// nothing is flushed. It waits for stream and packet handlers to return, so
// none may call it.
func (h *Host) Shutdown() error {
	h.Kill()
	h.work.Wait()
	return nil
}

// Kill is Shutdown that does not wait: from its return on nothing leaves the
// host and nothing reaches it. Handlers may call it.
func (h *Host) Kill() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if h.closed {
		return
	}
	h.closed = true
	close(h.done)
	for _, all := range []map[peer.ID]*conn{h.conns, h.circuits} {
		for _, c := range all {
			c.leaveLocked(h)
		}
	}
	for c := range h.old {
		c.leaveLocked(h)
	}
	delete(h.net.hosts, h.id)
	if h.addr != nil {
		delete(h.net.addrs, string(h.addr.Bytes()))
	}
}

// Vanish is Kill without a word to the peers, as when a process on QUIC is
// killed or a machine loses power: they keep connections that swallow
// everything.
func (h *Host) Vanish() {
	h.net.mu.Lock()
	for _, all := range []map[peer.ID]*conn{h.conns, h.circuits} {
		for _, c := range all {
			c.muteLocked()
		}
	}
	h.net.mu.Unlock()
	h.Kill()
}

// Probe implements overlay.Peers. Like QUIC, it sends again what the packet
// loss of the network swallowed.
func (h *Host) Probe(ctx context.Context, p peer.ID) error {
	n := h.net
	n.mu.Lock()
	c := h.bestLocked(p)
	n.mu.Unlock()
	if c == nil {
		return fmt.Errorf("probe %s: %w", p, overlay.ErrUnreachable)
	}
	rtt := 2 * c.latency()
	for again := rtt + rtt/2 + 30*time.Millisecond; ; again *= 2 {
		n.mu.Lock()
		lost := c.isMuted()
		if n.loss > 0 {
			there, back := n.rng.Float64(), n.rng.Float64()
			lost = lost || there < n.loss || back < n.loss
		}
		n.mu.Unlock()
		wait := rtt
		if lost {
			wait = again
		}
		t := time.NewTimer(wait)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("probe %s: %w", p, ctx.Err())
		case <-c.left:
			t.Stop()
			return fmt.Errorf("probe %s: %w", p, overlay.ErrUnreachable)
		}
		if !lost && !c.isMuted() {
			return nil
		}
	}
}

// Send implements overlay.Packets.
func (h *Host) Send(p peer.ID, kind overlay.PacketKind, payload []byte) error {
	if len(payload) > overlay.MaxPacket {
		return fmt.Errorf("%w: %d bytes, at most %d", overlay.ErrPacketSize, len(payload), overlay.MaxPacket)
	}
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	c := h.bestLocked(p)
	if c == nil {
		return nil
	}
	if n.loss > 0 && n.rng.Float64() < n.loss {
		return nil
	}
	pk := packet{from: h.id, kind: kind, conn: c, payload: append([]byte(nil), payload...)}
	if delay := c.latency(); delay > 0 || n.jitter > 0 {
		if n.jitter > 0 {
			delay += time.Duration(n.rng.Int64N(int64(n.jitter)))
		}
		pk.due = time.Now().Add(delay)
	}
	target := c.other(h)
	select {
	case target.packets <- pk:
	default: // queue full
		return nil
	}
	if !target.receiving {
		target.receiving = true
		target.work.Add(1)
		go target.receive()
	}
	return nil
}

// receive hands packets to their receivers until the host closes.
func (h *Host) receive() {
	defer h.work.Done()
	for {
		var pk packet
		select {
		case <-h.done:
			return
		case pk = <-h.packets:
		}
		if !pk.due.IsZero() {
			if h.pause(context.Background(), time.Until(pk.due)) != nil {
				return
			}
		}
		select {
		case <-pk.conn.done:
			continue
		default:
		}
		h.net.mu.Lock()
		fn := h.receivers[pk.kind]
		h.net.mu.Unlock()
		if fn != nil {
			fn(pk.from, pk.payload)
		}
	}
}

// Receive implements overlay.Packets.
func (h *Host) Receive(kind overlay.PacketKind, fn func(from peer.ID, payload []byte)) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.receivers[kind] = fn
}

// Info implements overlay.Peers.
func (h *Host) Info(p peer.ID) (overlay.PeerInfo, bool) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	c := h.bestLocked(p)
	if c == nil {
		return overlay.PeerInfo{}, false
	}
	return h.infoLocked(p, c), true
}

func (h *Host) infoLocked(p peer.ID, c *conn) overlay.PeerInfo {
	return overlay.PeerInfo{
		Peer:   p,
		Path:   c.path(),
		Remote: c.remote(h),
		RTT:    2 * c.latency(),
		Since:  c.opened,
	}
}

// Connected implements overlay.Peers.
func (h *Host) Connected() []overlay.PeerInfo {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	out := make([]overlay.PeerInfo, 0, len(h.conns))
	for p, c := range h.conns {
		out = append(out, h.infoLocked(p, c))
	}
	for p, c := range h.circuits {
		if h.conns[p] == nil {
			out = append(out, h.infoLocked(p, c))
		}
	}
	return out
}

// Watch implements overlay.Peers.
func (h *Host) Watch(ctx context.Context, fn func(overlay.PeerEvent)) {
	h.table.Watch(ctx, fn)
}

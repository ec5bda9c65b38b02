package relay

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify/pb"
	"github.com/libp2p/go-msgio/pbio"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"

	"github.com/obelisk-network/obelisk/overlay"
)

// A NAT may get another public address while QUIC connections through it go on:
// both ends follow. But a connection tells where it was seen when it was made,
// and identify says it once. So when a hole could not be punched, pillars are
// asked anew, by connections of their own, from the same port, that end with the
// answer. Over TCP there is nothing to ask: its connections end with the address.

const (
	reobserveEvery = 10 * time.Second
	reobserveIn    = 5 * time.Second
	maxReobserved  = 4 // pillars
	maxIdentify    = 8 << 10
)

// reobserving is when pillars were last asked where they see this host.
type reobserving struct {
	mu   sync.Mutex
	last time.Time // guarded by mu
}

// reobserve asks the pillars that see this host over QUIC where they do now,
// unless they were asked a moment ago. It does not block.
func (h *Host) reobserve() {
	h.reobserved.mu.Lock()
	now := time.Now()
	if now.Sub(h.reobserved.last) < reobserveEvery {
		h.reobserved.mu.Unlock()
		return
	}
	h.reobserved.last = now
	h.reobserved.mu.Unlock()
	asked := make(map[peer.ID]bool)
	for _, o := range h.observed.trusted(h.gate.trusts) {
		if o.Transport != overlay.TransportQUIC || !o.Listening || asked[o.Peer] || len(asked) == maxReobserved {
			continue
		}
		asked[o.Peer] = true
		h.start(func() {
			ctx, cancel := context.WithTimeout(context.Background(), reobserveIn)
			defer cancel()
			h.start(func() { // Shutdown ends it
				select {
				case <-h.done:
					cancel()
				case <-ctx.Done():
				}
			})
			addr, err := h.seenAt(ctx, o.Peer, o.conn.RemoteMultiaddr())
			if err != nil {
				h.log.Debug("not told where it is seen", "pillar", o.Peer, "err", err)
				return
			}
			if h.observed.replace(o.conn, addr) {
				h.upgrades.moved()
			}
		})
	}
}

// seenAt asks p, over a connection to at that ends with the answer, where it
// sees this host.
func (h *Host) seenAt(ctx context.Context, p peer.ID, at multiaddr.Multiaddr) (multiaddr.Multiaddr, error) {
	t := h.swarm.TransportForDialing(at)
	if t == nil {
		return nil, errors.New("no transport")
	}
	c, err := t.Dial(ctx, at, p)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	s, err := c.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.Reset() }()
	if deadline, ok := ctx.Deadline(); ok {
		_ = s.SetDeadline(deadline)
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	// The address is in the first message; a signed record may follow.
	var m pb.Identify
	if err := pbio.NewDelimitedReader(multistream.NewMSSelect(s, string(identify.ID)), maxIdentify).ReadMsg(&m); err != nil {
		return nil, err
	}
	addr, err := multiaddr.NewMultiaddrBytes(m.GetObservedAddr())
	if err != nil {
		return nil, err
	}
	if !punchTransport(addr) || overlay.TransportOf(addr) != overlay.TransportQUIC {
		return nil, errors.New("no address of a QUIC connection")
	}
	return addr, nil
}

// trusted are the observations that count, oldest first.
func (o *observations) trusted(trusts func(peer.ID) bool) []observation {
	o.mu.Lock()
	all := append([]observation(nil), o.all...)
	o.mu.Unlock()
	out := all[:0]
	for _, x := range all {
		if !x.conn.IsClosed() && trusts(x.Peer) {
			out = append(out, x)
		}
	}
	return out
}

// replace notes that the other end of c sees this host at addr now, and reports
// whether that is news.
func (o *observations) replace(c network.Conn, addr multiaddr.Multiaddr) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	for i := range o.all {
		if x := &o.all[i]; x.conn == c && !x.Addr.Equal(addr) {
			x.Addr, x.Since = addr, time.Now()
			return true
		}
	}
	return false
}

package relay

import (
	"context"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	"github.com/libp2p/go-libp2p/p2p/protocol/identify"
	"github.com/libp2p/go-libp2p/p2p/protocol/ping"
)

// A node talks to contacts behind any pillar, and connects with each of these
// for the circuit's sake. Such a connection is *borrowed*: it is closed when it
// has carried nothing for a while, unless somebody else has taken to using it.

// borrowFor is how long an unused borrowed connection is kept, for the next
// circuit.
const borrowFor = time.Minute

type borrowed struct {
	mu   sync.Mutex
	used map[peer.ID]time.Time // guarded by mu; when it was last seen in use
}

func (b *borrowed) add(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.used == nil {
		b.used = make(map[peer.ID]time.Time)
	}
	b.used[p] = time.Now()
}

func (b *borrowed) list() []peer.ID {
	b.mu.Lock()
	defer b.mu.Unlock()
	out := make([]peer.ID, 0, len(b.used))
	for p := range b.used {
		out = append(out, p)
	}
	return out
}

func (b *borrowed) forget(p peer.ID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.used, p)
}

// idle reports whether p's connection was last in use more than most ago.
func (b *borrowed) idle(p peer.ID, most time.Duration) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	t, ok := b.used[p]
	return ok && time.Since(t) > most
}

// giveBack closes borrowed connections until ctx ends.
func (h *Host) giveBack(ctx context.Context) {
	tick := time.NewTicker(h.cfg.borrowFor / 4)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		for _, p := range h.borrowed.list() {
			conns := h.swarm.ConnsToPeer(p)
			circuits, others := streamsOf(conns)
			switch {
			case len(conns) == 0 || others > 0 || h.gate.protects(p):
				h.borrowed.forget(p) // it is gone, or is somebody else's
			case circuits > 0:
				h.borrowed.add(p)
			case h.borrowed.idle(p, h.cfg.borrowFor):
				h.borrowed.forget(p)
				_ = h.swarm.ClosePeer(p)
			}
		}
	}
}

// streamsOf counts the streams of circuits, and the others but for those that
// libp2p has on every connection now and then.
func streamsOf(conns []network.Conn) (circuits, others int) {
	for _, c := range conns {
		for _, s := range c.GetStreams() {
			switch s.Protocol() {
			case proto.ProtoIDv2Hop:
				circuits++
			case "", identify.ID, identify.IDPush, ping.ID:
			default:
				others++
			}
		}
	}
	return circuits, others
}

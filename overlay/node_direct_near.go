package overlay

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"
)

// maxNears is how many times a device may say where it is on one stream.
const maxNears = 4

// nearDialIn is how long dialling addresses nearby may take.
const nearDialIn = 10 * time.Second

// directNear is the exchange of two devices about whether they are behind one
// NAT, which holes are rarely punched through. It takes two steps over a circuit:
// first the public addresses that pillars see them at; their own network's they
// tell only to who said one of the same.
type directNear struct {
	d     *nodeDirect
	peer  peer.ID
	told  bool // our network's addresses
	times int
}

// nearDial is a wish to dial a device nearby.
type nearDial struct {
	peer  peer.ID
	addrs []multiaddr.Multiaddr
}

// first is what who opened the stream says; nil: it does not know where it is.
func (x *directNear) first() *Near {
	t := x.d.n.cfg.Traversal
	if t == nil {
		return nil
	}
	public := t.Vicinity().Public
	if len(public) == 0 {
		return nil
	}
	return &Near{Public: public[:min(len(public), maxPublic)]}
}

// heard takes what the device says and returns what to answer, if anything.
func (x *directNear) heard(m *Near, path Path) (*Near, error) {
	if x.times++; x.times > maxNears {
		return nil, fmt.Errorf("%w: it says where it is over and over", errViolation)
	}
	t := x.d.n.cfg.Traversal
	if t == nil || path != PathRelayed {
		return nil, nil
	}
	v := t.Vicinity()
	if !slices.ContainsFunc(v.Public, func(a netip.Addr) bool { return slices.Contains(m.Public, a) }) {
		return nil, nil
	}
	if len(m.Near) > 0 {
		select {
		case x.d.nears <- nearDial{x.peer, m.Near}:
		default: // enough to dial already; hole punching goes on
		}
	}
	if x.told {
		return nil, nil
	}
	x.told = true
	return &Near{Public: v.Public[:min(len(v.Public), maxPublic)], Near: v.Near[:min(len(v.Near), MaxNear)]}, nil
}

// dialNear dials a device at what it told of its own network.
func (d *nodeDirect) dialNear(ctx context.Context, w nearDial) {
	ctx, cancel := context.WithTimeout(ctx, nearDialIn)
	defer cancel()
	if err := d.n.cfg.Traversal.DialNear(ctx, w.peer, w.addrs); err != nil {
		d.n.metrics.directFailed.WithLabelValues("near").Inc()
		d.n.log.Debug("cannot reach a device nearby", "peer", w.peer, "err", err)
	}
}

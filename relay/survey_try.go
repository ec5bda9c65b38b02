package relay

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/transport"
	"github.com/libp2p/go-libp2p/p2p/net/swarm"
	quic "github.com/libp2p/go-libp2p/p2p/transport/quic"
	"github.com/libp2p/go-libp2p/p2p/transport/quicreuse"
	"github.com/multiformats/go-multiaddr"
	madns "github.com/multiformats/go-multiaddr-dns"
	quicgo "github.com/quic-go/quic-go"

	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of trying transports.
const (
	maxSurveyed = 32 // pillars
	maxTries    = 8  // addresses of one
	triesAtOnce = 32
	tryTimeout  = 5 * time.Second
	maxTryError = 200 // bytes
)

// resolved are the first pillars with DNS names replaced by what they stand for,
// where that can be found out.
func resolved(ctx context.Context, pillars []SurveyPillar) []SurveyPillar {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	resolver := swarm.ResolverFromMaDNS{Resolver: madns.DefaultResolver}
	out := make([]SurveyPillar, 0, min(len(pillars), maxSurveyed))
	for _, p := range pillars[:min(len(pillars), maxSurveyed)] {
		r := SurveyPillar{ID: p.ID}
		for _, a := range p.Addrs {
			found := []multiaddr.Multiaddr{a}
			if isName(a) && !isCircuit(a) {
				if at, err := resolver.ResolveDNSAddr(ctx, p.ID, a, 4, maxTries); err == nil && len(at) > 0 {
					found = at
				}
			}
			for _, f := range found {
				if len(r.Addrs) < maxTries {
					r.Addrs = append(r.Addrs, f)
				}
			}
		}
		out = append(out, r)
	}
	return out
}

// tried is one attempt.
type tried struct {
	overlay.NetcheckTransport
	pillar              peer.ID
	seen, local, remote multiaddr.Multiaddr // seen is nil if the pillar did not say
}

// tryAll connects to each address of each pillar, on its own and beside the
// connections in use.
func (h *Host) tryAll(ctx context.Context, pillars []SurveyPillar) []tried {
	fresh, done, err := h.freshQUIC()
	if err != nil {
		h.log.Warn("QUIC cannot be tried", "err", err)
	}
	defer done()
	var all []tried
	for _, p := range pillars {
		for _, a := range p.Addrs {
			if !isCircuit(a) { // that is another pillar's address
				all = append(all, tried{pillar: p.ID, remote: a, NetcheckTransport: overlay.NetcheckTransport{Transport: overlay.TransportOf(a), Addr: a.String()}})
			}
		}
	}
	var work sync.WaitGroup
	running := make(chan struct{}, triesAtOnce)
	for i := range all {
		x := &all[i]
		running <- struct{}{}
		work.Go(func() {
			defer func() { <-running }()
			tr := h.swarm.TransportForDialing(x.remote)
			if x.Transport == overlay.TransportQUIC {
				tr = fresh
			}
			if err := h.try(ctx, tr, x); err != nil {
				x.Error = tryError(x.remote, err)
				return
			}
			x.OK = true
		})
	}
	work.Wait()
	return all
}

var errNoTransport = fmt.Errorf("this version does not speak that: %w", swarm.ErrNoTransport)

// try makes one connection and asks on it.
func (h *Host) try(ctx context.Context, tr transport.Transport, x *tried) error {
	if tr == nil {
		return errNoTransport
	}
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	c, err := tr.Dial(ctx, x.remote, x.pillar)
	if err != nil {
		return err
	}
	defer c.Close()
	x.local = c.LocalMultiaddr()
	open := func(ctx context.Context) (network.MuxedStream, error) { return c.OpenStream(ctx) }
	answer, rtt, err := ask(ctx, open, &overlay.Probe{What: overlay.ProbeSeen})
	if err != nil && !isUnspoken(err) {
		return err
	}
	if err == nil && answer.Err == nil {
		x.seen = answer.Addr
	}
	x.RTTMS = float64(rtt.Microseconds()) / 1000
	return nil
}

// freshQUIC is a QUIC transport that dials from a socket of its own: the one where
// this host listens must not call more pillars than it has to (survey.go).
func (h *Host) freshQUIC() (tr transport.Transport, done func(), err error) {
	var reset quicgo.StatelessResetKey
	var token quicgo.TokenGeneratorKey
	_, _ = rand.Read(reset[:]) // never fails
	_, _ = rand.Read(token[:])
	manager, err := quicreuse.NewConnManager(reset, token)
	if err != nil {
		return nil, func() {}, err
	}
	t, err := quic.NewTransport(h.cfg.Key, manager, nil, nil, &network.NullResourceManager{})
	if err != nil {
		_ = manager.Close()
		return nil, func() {}, err
	}
	return t, func() {
		if c, ok := t.(interface{ Close() error }); ok {
			_ = c.Close()
		}
		_ = manager.Close()
	}, nil
}

// tryError says in a line what an attempt came to. What it says of its own accord
// is bounded and safe to show: a peer may have had a say in it.
func tryError(a multiaddr.Multiaddr, err error) string {
	switch fault := faultOf(a, err); fault {
	case overlay.FaultTimeout:
		return fmt.Sprintf("no answer in %d s", tryTimeout/time.Second)
	case overlay.FaultTurnedAway:
		return "it is there and refuses: it has too many connections, or too many from this address"
	case overlay.FaultFailed:
		return overlay.Plain(oneLine(err), maxTryError)
	default:
		return fault.Words()
	}
}

// tcpAddr and udpAddr are the IP address, which may be unspecified, and the port
// of an address.
func tcpAddr(a multiaddr.Multiaddr) (netip.AddrPort, bool) { return socketOf(a, multiaddr.P_TCP) }

func udpAddr(a multiaddr.Multiaddr) (netip.AddrPort, bool) { return socketOf(a, multiaddr.P_UDP) }

func socketOf(a multiaddr.Multiaddr, transport int) (netip.AddrPort, bool) {
	ip, ok := ipOf(a)
	if !ok || len(a) < 2 || a[1].Protocol().Code != transport {
		return netip.AddrPort{}, false
	}
	raw := a[1].RawValue()
	return netip.AddrPortFrom(ip, uint16(raw[0])<<8|uint16(raw[1])), true
}

package relay

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
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
	manet "github.com/multiformats/go-multiaddr/net"
	quicgo "github.com/quic-go/quic-go"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// Bounds of trying transports.
const (
	maxSurveyed = 32 // pillars
	maxTries    = 8  // addresses of one
	triesAtOnce = 8
	tryTimeout  = 5 * time.Second
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

// tryAll connects to each address of each pillar, on its own and beside the
// connections in use, and puts into s how that went. It returns where TCP sockets
// were seen.
func (h *Host) tryAll(ctx context.Context, pillars []SurveyPillar, s *Survey) (tcp []mapped) {
	fresh, done, err := h.freshQUIC()
	if err != nil {
		h.log.Warn("QUIC cannot be tried", "err", err)
	}
	defer done()
	type attempt struct {
		overlay.NetcheckTransport
		seen *overlay.SeenAddr
		tcp  *mapped
	}
	var work sync.WaitGroup
	running := make(chan struct{}, triesAtOnce)
	all := make([][]attempt, len(pillars))
	for i, p := range pillars {
		all[i] = make([]attempt, len(p.Addrs))
		for k, a := range p.Addrs {
			if isCircuit(a) {
				continue // that is another pillar's address
			}
			tr := h.swarm.TransportForDialing(a)
			if transportOf(a) == transportQUIC {
				tr = fresh
			}
			work.Go(func() {
				running <- struct{}{}
				defer func() { <-running }()
				x := &all[i][k]
				x.NetcheckTransport = overlay.NetcheckTransport{Transport: transportOf(a), Addr: a.String()}
				seen, local, err := h.try(ctx, tr, p.ID, a, &x.NetcheckTransport)
				if err != nil {
					x.Error = tryError(err)
					return
				}
				x.OK = true
				if seen == nil {
					return
				}
				x.seen = &overlay.SeenAddr{Transport: x.Transport, Addr: seen.String(), By: identity.PillarID(p.ID)}
				if x.Transport == transportTCP && h.listensAt(local) {
					at, ok1 := tcpAddr(seen)
					from, ok2 := tcpAddr(local)
					by, ok3 := tcpAddr(a)
					if ok1 && ok2 && ok3 {
						x.tcp = &mapped{local: from, seen: at, by: by}
					}
				}
			})
		}
	}
	work.Wait()
	s.Tried = make(map[peer.ID][]overlay.NetcheckTransport, len(pillars))
	for i, p := range pillars {
		for _, x := range all[i] {
			if x.Addr == "" {
				continue
			}
			s.Tried[p.ID] = append(s.Tried[p.ID], x.NetcheckTransport)
			// Over QUIC it came from a socket that nobody has to know.
			if x.seen != nil && x.Transport != transportQUIC {
				s.Seen = append(s.Seen, *x.seen)
			}
			if x.tcp != nil {
				tcp = append(tcp, *x.tcp)
			}
		}
	}
	return tcp
}

var errNoTransport = errors.New("this version does not speak that")

// try makes one connection and asks on it.
func (h *Host) try(ctx context.Context, tr transport.Transport, p peer.ID, a multiaddr.Multiaddr, x *overlay.NetcheckTransport) (seen, local multiaddr.Multiaddr, err error) {
	if tr == nil {
		return nil, nil, errNoTransport
	}
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	c, err := tr.Dial(ctx, a, p)
	if err != nil {
		return nil, nil, err
	}
	defer c.Close()
	open := func(ctx context.Context) (network.MuxedStream, error) { return c.OpenStream(ctx) }
	answer, rtt, err := ask(ctx, open, &overlay.Probe{What: overlay.ProbeSeen})
	switch {
	case err == nil:
		if answer.Err == nil {
			seen = answer.Addr
		}
	case !isUnspoken(err):
		return nil, nil, err
	}
	x.RTTMS = float64(rtt.Microseconds()) / 1000
	return seen, c.LocalMultiaddr(), nil
}

// freshQUIC is a QUIC transport that dials each time from a new socket: where this
// host listens must not call more pillars than it has to (survey.go).
func (h *Host) freshQUIC() (tr transport.Transport, done func(), err error) {
	var reset quicgo.StatelessResetKey
	var token quicgo.TokenGeneratorKey
	_, _ = rand.Read(reset[:]) // never fails
	_, _ = rand.Read(token[:])
	manager, err := quicreuse.NewConnManager(reset, token, quicreuse.DisableReuseport())
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

// tryError says in a line what an attempt came to.
func tryError(err error) string {
	var ne net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return fmt.Sprintf("no answer in %d s", tryTimeout/time.Second)
	case isMismatch(err):
		return "somebody else answers there"
	case isRefusal(err):
		return "it is there and refuses: it has too many connections, or too many from this address"
	}
	return oneLine(err)
}

// tcpAddr is the IP address and TCP port of an address.
func tcpAddr(a multiaddr.Multiaddr) (netip.AddrPort, bool) {
	n, err := manet.ToNetAddr(a)
	if err != nil {
		return netip.AddrPort{}, false
	}
	t, ok := n.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	at := t.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), true
}

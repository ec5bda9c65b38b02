package relay

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/multiformats/go-multiaddr"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// What a public pillar does for those who want to know their NAT (survey.go):
// it says where it sees them, and has them knocked at from another port and from
// another pillar. Only the UDP address that the question came from is knocked at,
// where somebody has just shown that he is: nobody can send us against others,
// and no answer is larger than what asked for it by more than a few packets.

// Bounds of it. A question costs a token, one that has somebody knocked at
// knockCost, of the asker's IPv4 address or IPv6 /56 and of all together;
// ProbeFor also of the pillar that asks.
const (
	probeTimeout = 5 * time.Second
	knockCost    = 8
	maxKnocks    = 32 // at once
	maxOthers    = 3  // pillars asked until one has tried

	proberBurst, proberRate = 256, 8
	pillarBurst, pillarRate = 512, 16
	probesBurst, probesRate = 2048, 128
)

// surveyor keeps the accounts of serveProbe.
type surveyor struct {
	knocks chan struct{} // one for each that goes on

	mu       sync.Mutex
	all      bucket                // guarded by mu
	prefixes buckets[netip.Prefix] // guarded by mu
	pillars  buckets[peer.ID]      // guarded by mu
}

func newSurveyor() *surveyor {
	return &surveyor{
		knocks:   make(chan struct{}, maxKnocks),
		prefixes: buckets[netip.Prefix]{burst: proberBurst, rate: proberRate, most: 4096},
		pillars:  buckets[peer.ID]{burst: pillarBurst, rate: pillarRate, most: 4096},
	}
}

// charge takes what a question about somebody at ip costs; pillar is who asks
// for him, "" if he does himself.
func (s *surveyor) charge(ip netip.Addr, pillar peer.ID, cost float64, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all.fill(now, probesBurst, probesRate)
	if s.all.tokens < cost || !s.prefixes.take(customer(ip), cost, now) {
		return false
	}
	if pillar != "" && !s.pillars.take(pillar, cost, now) {
		s.prefixes.giveBack(customer(ip), cost, now)
		return false
	}
	s.all.tokens -= cost
	return true
}

// serveProbe answers one question.
func (h *Host) serveProbe(ctx context.Context, s overlay.Stream) {
	native, ok := s.(stream)
	if !ok {
		_ = s.Reset()
		return
	}
	if s.SetReadDeadline(time.Now().Add(probeTimeout)) != nil {
		_ = s.Reset()
		return
	}
	m, err := overlay.NewFrameReader(s).Next()
	q, ok := m.(*overlay.Probe)
	if err != nil || !ok {
		h.metrics.probes.WithLabelValues(probeMalformed).Inc()
		_ = s.Reset()
		return
	}
	a := h.answerProbe(ctx, native.s.Conn(), q)
	switch {
	case a.Err != nil:
		h.metrics.probes.WithLabelValues(probeRefused).Inc()
	default:
		h.metrics.probes.WithLabelValues(probeAnswered).Inc()
	}
	_ = s.SetWriteDeadline(time.Now().Add(probeTimeout))
	if _, err := s.Write(overlay.AppendFrame(nil, a)); err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

func (h *Host) answerProbe(ctx context.Context, c network.Conn, q *overlay.Probe) *overlay.Probed {
	a := &overlay.Probed{What: q.What}
	refuse := func(code overlay.Code, text string) *overlay.Probed {
		a.Err = overlay.Refuse(code, "%s", text)
		return a
	}
	remote, ok := ipOf(c.RemoteMultiaddr())
	if !ok || isCircuit(c.RemoteMultiaddr()) {
		return refuse(overlay.CodeUnreachable, "the question came by a circuit")
	}
	target := c.RemoteMultiaddr()
	var pillar peer.ID
	if q.What == overlay.ProbeFor {
		if pillar = c.RemotePeer(); !h.gate.protects(pillar) {
			return refuse(overlay.CodeNotAdmitted, "only pillars of the network ask for others")
		}
		target = q.Addr
	} else {
		a.Addr = c.RemoteMultiaddr()
	}
	if q.What == overlay.ProbeSeen {
		if !h.surveyor.charge(remote, "", 1, time.Now()) {
			return refuse(overlay.CodeBusy, "too many questions")
		}
		return a
	}
	to, ok := quicAddr(target)
	if !ok {
		return refuse(overlay.CodeBadRequest, "only over QUIC, from a port above 1023")
	}
	if pillar != "" && !mayKnockFor(to.Addr(), remote) {
		return refuse(overlay.CodeBadRequest, "no public address")
	}
	if !h.surveyor.charge(to.Addr(), pillar, knockCost, time.Now()) {
		return refuse(overlay.CodeBusy, "too many questions")
	}
	select {
	case h.surveyor.knocks <- struct{}{}:
		defer func() { <-h.surveyor.knocks }()
	default:
		return refuse(overlay.CodeBusy, "too many questions at once")
	}
	ctx, cancel := context.WithTimeout(ctx, knockTimeout+probeTimeout)
	defer cancel()
	if q.What == overlay.ProbeOther {
		h.askOthers(ctx, c.RemotePeer(), target, q.Except, a)
		return a
	}
	from, _ := ipOf(c.LocalMultiaddr())
	if pillar != "" {
		from = netip.Addr{}
	}
	reached, err := knock(ctx, from, to)
	switch {
	case err != nil:
		return refuse(overlay.CodeUnreachable, "nothing can be sent there from here")
	case reached:
		a.Outcome = overlay.ProbeReached
	default:
		a.Outcome = overlay.ProbeUnreached
	}
	return a
}

// askOthers has another pillar reach target, preferably none of except.
func (h *Host) askOthers(ctx context.Context, asker peer.ID, target multiaddr.Multiaddr, except []identity.PillarID, a *overlay.Probed) {
	var first, last []peer.ID
	for _, p := range h.swarm.Peers() {
		if info, ok := h.Info(p); !ok || p == asker || info.Path != overlay.PathDirect || !h.gate.protects(p) {
			continue
		}
		if slices.Contains(except, identity.PillarID(p)) {
			last = append(last, p)
		} else {
			first = append(first, p)
		}
	}
	for _, list := range [][]peer.ID{first, last} {
		rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	}
	for _, p := range slices.Concat(first, last)[:min(maxOthers, len(first)+len(last))] {
		got, err := h.probeFor(ctx, p, target)
		if err == nil && got.Err == nil && got.Outcome != overlay.ProbeUntried {
			a.Outcome, a.By = got.Outcome, identity.PillarID(p)
			return
		}
		h.log.Debug("other pillar does not knock", "pillar", p, "err", err)
	}
	a.Err = overlay.Refuse(overlay.CodeUnreachable, "no other pillar is connected that tries")
}

func (h *Host) probeFor(ctx context.Context, p peer.ID, target multiaddr.Multiaddr) (*overlay.Probed, error) {
	s, err := h.newStream(network.WithNoDial(ctx, "probe"), p, overlay.ProtoProbe)
	if err != nil {
		return nil, err
	}
	return exchangeProbe(ctx, s, &overlay.Probe{What: overlay.ProbeFor, Addr: target})
}

// probeStream is a stream of a connection in the swarm or of one beside it.
type probeStream interface {
	Read([]byte) (int, error)
	Write([]byte) (int, error)
	Close() error
	Reset() error
}

var errProbeAnswer = errors.New("not an answer to the question")

// exchangeProbe asks and takes the answer, and ends the stream.
func exchangeProbe(ctx context.Context, s probeStream, q *overlay.Probe) (*overlay.Probed, error) {
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	if _, err := s.Write(overlay.AppendFrame(nil, q)); err != nil {
		_ = s.Reset()
		return nil, err
	}
	m, err := overlay.NewFrameReader(s).Next()
	a, ok := m.(*overlay.Probed)
	if err == nil && (!ok || a.What != q.What) {
		err = errProbeAnswer
	}
	if err != nil {
		_ = s.Reset()
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		return nil, err
	}
	_ = s.Close()
	return a, nil
}

// quicAddr takes /ip…/udp/PORT/quic-v1 apart; false for other addresses, and for
// ports that a system's services have.
func quicAddr(a multiaddr.Multiaddr) (netip.AddrPort, bool) {
	if a == nil || !punchTransport(a) || a[1].Protocol().Code != multiaddr.P_UDP {
		return netip.AddrPort{}, false
	}
	at, ok := udpAddr(a)
	return at, ok && !at.Addr().IsUnspecified() && !at.Addr().IsMulticast()
}

// mayKnockFor: public addresses, and those of networks that the pillar that asks
// is in itself.
func mayKnockFor(ip, pillar netip.Addr) bool {
	switch {
	case isPublic(ip):
		return true
	case ip.IsLoopback():
		return pillar.IsLoopback()
	default:
		return ip.IsPrivate() && pillar.IsPrivate()
	}
}

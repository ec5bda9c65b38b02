package relay

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/peerstore"
	"github.com/libp2p/go-libp2p/core/protocol"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch"
	"github.com/libp2p/go-libp2p/p2p/protocol/holepunch/pb"
	"github.com/libp2p/go-msgio/pbio"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multistream"

	"github.com/obelisk-network/obelisk/overlay"
)

// DCUtR, as libp2p's specification has it (specs/relay/DCUtR.md), over a
// circuit. The side that was dialled begins:
//
//	initiator                             answerer
//	   │  CONNECT, its addresses ──────────►  │
//	   │  ◄────────── CONNECT, its addresses  │   a round trip is measured
//	   │  SYNC ────────────────────────────►  │   dials at once, as the client
//	   │  dials half a round trip later       │
//
// Over QUIC only one side dials: the other sends packets that open its NAT. So
// attempts alternate who that is: the answerer always dials, and the initiator
// opens in the first, third … attempt and dials in the others, which gets
// through where the answerer's packets cannot, out of a symmetric NAT.

const (
	maxPunchMessage = 4 << 10
	// exchangeTimeout bounds the exchange of addresses and punchTimeout the
	// dials after it: a connection over QUIC or TCP with two packets lost.
	exchangeTimeout = 8 * time.Second
	punchTimeout    = 4 * time.Second
	// A peer may have us answer answerBurst attempts at once and one more every
	// ten seconds; the waits of upgrade.go stay far below.
	answerBurst = 12
	answerRate  = 0.1
)

var (
	errNoAddrs   = errors.New("no address that may be dialled")
	errExchanged = errors.New("unexpected message")
)

// punches are the attempts going on.
type punches struct {
	mu      sync.Mutex
	active  map[peer.ID]*answering                   // guarded by mu; those that this host answers, at most maxPunches
	budgets buckets[peer.ID]                         // guarded by mu; for them
	dials   map[peer.ID]map[*context.CancelFunc]bool // guarded by mu; of either end
}

type answering struct {
	stop context.CancelFunc
	done chan struct{} // closed when nothing is dialled any more
}

func (a *punches) init() {
	a.active = make(map[peer.ID]*answering)
	a.dials = make(map[peer.ID]map[*context.CancelFunc]bool)
	a.budgets = buckets[peer.ID]{burst: answerBurst, rate: answerRate, most: maxAdmitted}
}

// punch makes one attempt over the circuit c that the peer dialled, and reports
// whether there is a direct connection now.
func (h *Host) punch(ctx context.Context, c network.Conn, try int) bool {
	p := c.RemotePeer()
	h.gate.call(p)
	addrs, rtt, err := h.arrange(ctx, c)
	if err != nil {
		h.log.Debug("no hole punched", "peer", p, "attempt", try, "err", err)
		h.metrics.punches.WithLabelValues(punchUnanswered).Inc()
		return false
	}
	wait := time.NewTimer(rtt / 2)
	defer wait.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-wait.C:
	}
	return h.punchTo(ctx, p, addrs, try%2 == 1, try)
}

// arrange exchanges addresses and says when to begin.
func (h *Host) arrange(ctx context.Context, c network.Conn) ([]multiaddr.Multiaddr, time.Duration, error) {
	ctx, cancel := context.WithTimeout(allowLimited(ctx), exchangeTimeout)
	defer cancel()
	ours := h.publicAddrs()
	if len(ours) == 0 {
		return nil, 0, errNoAddrs
	}
	s, err := c.NewStream(ctx)
	if err != nil {
		return nil, 0, err
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	defer stop()
	addrs, rtt, err := h.offer(s, ours)
	if err != nil {
		_ = s.Reset()
		return nil, 0, err
	}
	_ = s.Close()
	return addrs, rtt, nil
}

func (h *Host) offer(s network.Stream, ours []multiaddr.Multiaddr) ([]multiaddr.Multiaddr, time.Duration, error) {
	if err := s.SetProtocol(holepunch.Protocol); err != nil {
		return nil, 0, err
	}
	if err := enlist(s); err != nil {
		return nil, 0, err
	}
	defer s.Scope().ReleaseMemory(maxPunchMessage)
	// The protocol is named together with the first message: no round trip.
	named := multistream.NewMSSelect[protocol.ID](s, holepunch.Protocol)
	w, r := pbio.NewDelimitedWriter(named), pbio.NewDelimitedReader(named, maxPunchMessage)
	begun := time.Now()
	if err := w.WriteMsg(&pb.HolePunch{Type: pb.HolePunch_CONNECT.Enum(), ObsAddrs: addrBytes(ours)}); err != nil {
		return nil, 0, err
	}
	var theirs pb.HolePunch
	if err := expect(r, pb.HolePunch_CONNECT, &theirs); err != nil {
		return nil, 0, err
	}
	rtt := time.Since(begun)
	addrs := h.punchable(parseAddrBytes(theirs.GetObsAddrs()))
	if len(addrs) == 0 {
		return nil, 0, fmt.Errorf("the peer told %w", errNoAddrs)
	}
	return addrs, rtt, w.WriteMsg(&pb.HolePunch{Type: pb.HolePunch_SYNC.Enum()})
}

// answerPunch is the other end of punch. It ends with ctx.
func (h *Host) answerPunch(ctx context.Context, s network.Stream) {
	if !h.enter() {
		_ = s.Reset()
		return
	}
	defer h.work.Done()
	c, p := s.Conn(), s.Conn().RemotePeer()
	// Who dialled answers; and over a direct connection there is nothing to do.
	if !isCircuit(c.RemoteMultiaddr()) || c.Stat().Direction != network.DirOutbound {
		_ = s.Reset()
		return
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeTimeout+punchTimeout)
	defer cancel()
	mine := &answering{stop: cancel, done: make(chan struct{})}
	defer close(mine.done)
	before, ok := h.punches.begin(p, mine)
	if !ok {
		h.metrics.punches.WithLabelValues(punchRefused).Inc()
		_ = s.Reset()
		return
	}
	defer h.punches.end(p, mine)
	if before != nil {
		// The initiator has given that attempt up. While a dial goes on, libp2p
		// does not begin another to the same address.
		before.stop()
		<-before.done
	}
	stop := context.AfterFunc(ctx, func() { _ = s.Reset() })
	addrs, err := h.accept(s)
	stop()
	if err != nil {
		_ = s.Reset()
		h.log.Debug("no hole punched", "peer", p, "err", err)
		h.metrics.punches.WithLabelValues(punchUnanswered).Inc()
		return
	}
	_ = s.Close()
	h.gate.call(p)
	h.punchTo(ctx, p, addrs, true, 0)
}

// begin makes mine the attempt that is answered for p, and returns the one
// before, which has to end first. False: too many.
func (a *punches) begin(p peer.ID, mine *answering) (before *answering, ok bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	before = a.active[p]
	if before == nil && len(a.active) >= maxPunches || !a.budgets.take(p, 1, time.Now()) {
		return nil, false
	}
	a.active[p] = mine
	return before, true
}

func (a *punches) end(p peer.ID, mine *answering) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.active[p] == mine {
		delete(a.active, p)
	}
}

// dialling has stop called when p is connected directly, by whichever end,
// until the returned function is.
func (a *punches) dialling(p peer.ID, stop context.CancelFunc) (end func()) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.dials[p] == nil {
		a.dials[p] = make(map[*context.CancelFunc]bool)
	}
	a.dials[p][&stop] = true
	return func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		if delete(a.dials[p], &stop); len(a.dials[p]) == 0 {
			delete(a.dials, p)
		}
	}
}

// arrived ends dials to p: there is a direct connection.
func (a *punches) arrived(p peer.ID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for stop := range a.dials[p] {
		(*stop)()
	}
}

func (h *Host) accept(s network.Stream) ([]multiaddr.Multiaddr, error) {
	ours := h.publicAddrs()
	if len(ours) == 0 {
		return nil, errNoAddrs
	}
	if err := enlist(s); err != nil {
		return nil, err
	}
	defer s.Scope().ReleaseMemory(maxPunchMessage)
	w, r := pbio.NewDelimitedWriter(s), pbio.NewDelimitedReader(s, maxPunchMessage)
	var theirs, sync pb.HolePunch
	if err := expect(r, pb.HolePunch_CONNECT, &theirs); err != nil {
		return nil, err
	}
	addrs := h.punchable(parseAddrBytes(theirs.GetObsAddrs()))
	if len(addrs) == 0 {
		return nil, fmt.Errorf("the peer told %w", errNoAddrs)
	}
	if err := w.WriteMsg(&pb.HolePunch{Type: pb.HolePunch_CONNECT.Enum(), ObsAddrs: addrBytes(ours)}); err != nil {
		return nil, err
	}
	return addrs, expect(r, pb.HolePunch_SYNC, &sync)
}

// punchTo dials p as one end of a hole punch.
func (h *Host) punchTo(ctx context.Context, p peer.ID, addrs []multiaddr.Multiaddr, client bool, try int) bool {
	ctx, cancel := context.WithTimeout(ctx, punchTimeout)
	defer cancel() // also by a direct connection
	ctx = network.WithSimultaneousConnect(ctx, client, "hole punch")
	ctx = network.WithForceDirectDial(ctx, "hole punch")
	end := h.gate.permit(p, addrs...)
	defer end()
	h.host.Peerstore().AddAddrs(p, addrs, peerstore.TempAddrTTL)
	defer h.punches.dialling(p, cancel)()
	c, err := h.swarm.DialPeer(ctx, p)
	// A connection that the peer made meanwhile counts.
	if b := best(h.swarm.ConnsToPeer(p)); err != nil && b != nil && pathOf(b) == overlay.PathDirect {
		c, err = b, nil
	}
	if err != nil {
		h.log.Debug("no hole punched", "peer", p, "attempt", try, "err", oneLine(err))
		h.metrics.punches.WithLabelValues(punchFailed).Inc()
		h.reobserve()
		return false
	}
	h.metrics.punches.WithLabelValues(punchDirect).Inc()
	h.metrics.punched.WithLabelValues(overlay.TransportOf(c.RemoteMultiaddr())).Inc()
	// What came about meanwhile inside one network went through no NAT.
	if len(h.punchable([]multiaddr.Multiaddr{c.RemoteMultiaddr()})) > 0 {
		h.hasPunched.Store(true)
	}
	return true
}

// enlist accounts for a stream of the exchange. The caller releases the memory.
func enlist(s network.Stream) error {
	if err := s.Scope().SetService(holepunch.ServiceName); err != nil {
		return err
	}
	return s.Scope().ReserveMemory(maxPunchMessage, network.ReservationPriorityAlways)
}

func expect(r pbio.Reader, what pb.HolePunch_Type, msg *pb.HolePunch) error {
	if err := r.ReadMsg(msg); err != nil {
		return err
	}
	if msg.GetType() != what {
		return fmt.Errorf("%w: %s", errExchanged, msg.GetType())
	}
	return nil
}

func addrBytes(addrs []multiaddr.Multiaddr) [][]byte {
	out := make([][]byte, 0, len(addrs))
	for _, a := range addrs {
		out = append(out, a.Bytes())
	}
	return out
}

// parseAddrBytes leaves out what is no address. A message holds a few hundred
// at most.
func parseAddrBytes(all [][]byte) []multiaddr.Multiaddr {
	var out []multiaddr.Multiaddr
	for _, b := range all {
		if a, err := multiaddr.NewMultiaddrBytes(b); err == nil {
			out = append(out, a)
		}
	}
	return out
}

func joinAddrs(addrs []multiaddr.Multiaddr) string {
	text := make([]string, 0, len(addrs))
	for _, a := range addrs {
		text = append(text, a.String())
	}
	return strings.Join(text, " ")
}

package relay

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/pb"
	circuitproto "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/proto"
	relayv2 "github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/relay"
	"github.com/libp2p/go-libp2p/p2p/protocol/circuitv2/util"
)

// The relay service is libp2p's (circuitv2/relay), which moves the bytes, with
// our own door before it: libp2p's knows limits per peer only, and its ACL has
// one answer for everything.
//
//	hop stream ─► door: who, whereto, budget ─► libp2p: reservation, stop stream ─► copy
//	                └─ refuses: PERMISSION_DENIED, RESOURCE_LIMIT_EXCEEDED (full)

// A RelayClass is what somebody is to a pillar that relays.
type RelayClass uint8

// The classes. A stranger may only reach home pillars, because a new node has to
// register somewhere.
const (
	RelayStranger   RelayClass = iota
	RelayNode                  // a device that is registered here now
	RelayPillar                // an admitted pillar
	RelayHomePillar            // one that is reached through others
)

// RelayUser is somebody whom a pillar may relay for.
type RelayUser struct {
	Class RelayClass
	// Account is whom circuits are charged to. Default: the peer itself.
	Account string
}

// Reasons for which the service refuses.
const (
	refuseStranger  = "stranger"     // nobody it relays for
	refuseMalformed = "malformed"    // no request
	refuseAccount   = "account"      // the account's budget is used up
	refusePrefix    = "prefix"       // that of its addresses
	refuseTotal     = "total"        // that of all
	refuseOpen      = "open"         // too many circuits at once, by peer, addresses or in all
	refuseReserved  = "reservations" // no more of them, here or for its address
)

// hopRequestTimeout bounds the wait for a request.
const hopRequestTimeout = 15 * time.Second

// relayService is the door, and what it accounts for.
type relayService struct {
	limits  RelayLimits
	user    func(peer.ID) RelayUser
	metrics *metrics
	relay   io.Closer
	open    atomic.Int64 // circuits that bytes may go through

	mu        sync.Mutex
	asked     int                   // guarded by mu; circuits, those being made too
	byPeer    map[peer.ID]int       // guarded by mu; the same by who asked
	byPrefix  map[netip.Prefix]int  // guarded by mu; and by where it did
	accounts  buckets[string]       // guarded by mu; bytes
	prefixes  buckets[netip.Prefix] // guarded by mu
	strangers buckets[netip.Prefix] // guarded by mu
	total     buckets[struct{}]     // guarded by mu
}

// maxBudgets bounds the accounts and prefixes whose use is remembered.
const maxBudgets = 1 << 16

func newRelayService(h host.Host, cfg Config, m *metrics) (*relayService, error) {
	l := cfg.Relay
	s := &relayService{
		limits: l, user: cfg.RelayUser, metrics: m,
		byPeer:    make(map[peer.ID]int),
		byPrefix:  make(map[netip.Prefix]int),
		accounts:  buckets[string]{burst: float64(l.AccountBytes), rate: float64(l.AccountRate), most: maxBudgets},
		prefixes:  buckets[netip.Prefix]{burst: float64(l.PrefixBytes), rate: float64(l.PrefixRate), most: maxBudgets},
		strangers: buckets[netip.Prefix]{burst: float64(l.StrangerBytes), rate: float64(l.StrangerRate), most: maxBudgets},
		total:     buckets[struct{}]{burst: float64(l.TotalBytes), rate: float64(l.TotalRate), most: 1},
	}
	r, err := relayv2.New(doorHost{h, circuitproto.ProtoIDv2Hop, s.serve}, relayv2.WithResources(l.resources()), relayv2.WithMetricsTracer(s))
	if err != nil {
		return nil, fmt.Errorf("relay service: %w", err)
	}
	s.relay = r
	return s, nil
}

// Circuits is how many circuits the host relays for others at the moment.
func (h *Host) Circuits() int {
	if h.service == nil {
		return 0
	}
	return int(h.service.open.Load())
}

// serve takes one request and hands it on, or refuses it.
func (d *relayService) serve(s network.Stream, next network.StreamHandler) {
	from := s.Conn().RemotePeer()
	var msg pb.HopMessage
	raw, err := readRequest(s, hopRequestTimeout, func(r *util.DelimitedReader) error { return r.ReadMsg(&msg) })
	switch {
	case errors.Is(err, errNoMemory):
		_ = s.Reset()
		return
	case err != nil:
		d.refuse(s, pb.Status_MALFORMED_MESSAGE, refuseMalformed)
		return
	}
	hop := &hopStream{fronted: fronted{s, raw}}
	switch msg.GetType() {
	case pb.HopMessage_RESERVE:
		if d.user(from).Class == RelayStranger {
			d.refuse(s, pb.Status_PERMISSION_DENIED, refuseStranger)
			return
		}
	case pb.HopMessage_CONNECT:
		to, err := peer.IDFromBytes(msg.GetPeer().GetId())
		if err != nil {
			d.refuse(s, pb.Status_MALFORMED_MESSAGE, refuseMalformed)
			return
		}
		charge, status, reason := d.charge(from, s, to, time.Now())
		if charge == nil {
			d.refuse(s, status, reason)
			return
		}
		hop.charge = charge
	}
	next(hop)
}

func (d *relayService) refuse(s network.Stream, status pb.Status, reason string) {
	d.metrics.relayRefused.WithLabelValues(reason).Inc()
	_ = s.SetWriteDeadline(time.Now().Add(hopRequestTimeout))
	err := util.NewDelimitedWriter(s).WriteMsg(&pb.HopMessage{Type: pb.HopMessage_STATUS.Enum(), Status: status.Enum()})
	if err != nil {
		_ = s.Reset()
		return
	}
	_ = s.Close()
}

// circuitCharge is what one circuit takes of the budgets, until it ends.
type circuitCharge struct {
	door    *relayService
	from    peer.ID
	prefix  netip.Prefix
	account string // "" for a stranger
	ended   sync.Once
}

// charge takes a whole circuit's data up front, of every budget that it falls
// under: what a circuit will carry is not known, and what it may carry is.
func (d *relayService) charge(from peer.ID, s network.Stream, to peer.ID, now time.Time) (*circuitCharge, pb.Status, string) {
	user := d.user(from)
	c := &circuitCharge{door: d, from: from, prefix: prefixOf(s), account: user.Account}
	switch {
	case user.Class == RelayStranger:
		if d.user(to).Class != RelayHomePillar {
			return nil, pb.Status_PERMISSION_DENIED, refuseStranger
		}
		c.account = ""
	case c.account == "":
		c.account = string(from)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	full := pb.Status_RESOURCE_LIMIT_EXCEEDED
	if d.asked >= d.limits.Circuits || d.byPeer[from] >= d.limits.CircuitsPerPeer || d.byPrefix[c.prefix] >= d.limits.CircuitsPerIP {
		return nil, full, refuseOpen
	}
	n := float64(d.limits.Data)
	if !d.total.take(struct{}{}, n, now) {
		return nil, full, refuseTotal
	}
	switch {
	case c.account == "" && !d.strangers.take(c.prefix, n, now):
		d.total.giveBack(struct{}{}, n, now)
		return nil, full, refusePrefix
	case c.account == "":
	case !d.prefixes.take(c.prefix, n, now):
		d.total.giveBack(struct{}{}, n, now)
		return nil, full, refusePrefix
	case !d.accounts.take(c.account, n, now):
		d.total.giveBack(struct{}{}, n, now)
		d.prefixes.giveBack(c.prefix, n, now)
		return nil, full, refuseAccount
	}
	d.asked++
	d.byPeer[from]++
	d.byPrefix[c.prefix]++
	return c, 0, ""
}

// askedShare of a circuit's data is what asking in vain costs.
const askedShare = 1.0 / 64

// refund gives the budgets back what a circuit that was not made does not use.
func (c *circuitCharge) refund() {
	d, now := c.door, time.Now()
	n := float64(d.limits.Data) * (1 - askedShare)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.total.giveBack(struct{}{}, n, now)
	if c.account == "" {
		d.strangers.giveBack(c.prefix, n, now)
		return
	}
	d.prefixes.giveBack(c.prefix, n, now)
	d.accounts.giveBack(c.account, n, now)
}

// end says that the circuit is no more.
func (c *circuitCharge) end() {
	c.ended.Do(func() {
		d := c.door
		d.mu.Lock()
		defer d.mu.Unlock()
		d.asked--
		if d.byPeer[c.from]--; d.byPeer[c.from] == 0 {
			delete(d.byPeer, c.from)
		}
		if d.byPrefix[c.prefix]--; d.byPrefix[c.prefix] == 0 {
			delete(d.byPrefix, c.prefix)
		}
	})
}

// prefixOf is whom a stream's address is counted with.
func prefixOf(s network.Stream) netip.Prefix {
	ip, ok := ipOf(s.Conn().RemoteMultiaddr())
	if !ok {
		return netip.Prefix{} // all that have none together
	}
	return customer(ip)
}

// customer is an IPv4 address, or an IPv6 /56, which is what one customer gets.
func customer(ip netip.Addr) netip.Prefix {
	bits := 32
	if ip.Is6() {
		bits = 56
	}
	p, _ := ip.WithZone("").Prefix(bits) // bits fit
	return p
}

// hopStream is a hop stream whose request was read already. libp2p's relay
// reads it again, answers with one message, and from then on copies.
type hopStream struct {
	fronted
	charge *circuitCharge // nil for a reservation
	answer []byte         // what is written of the answer
	told   bool           // the answer is written, and answer no longer used
}

// Write watches the answer. Only libp2p's handler writes it, before anything is
// copied; it may take several writes.
func (s *hopStream) Write(b []byte) (int, error) {
	if !s.told && s.charge != nil {
		s.answer = append(s.answer, b...)
		if yes, complete := readAnswer(s.answer); complete || len(s.answer) > maxHopMessage {
			s.told, s.answer = true, nil
			if !yes {
				s.charge.refund()
			}
		}
	}
	return s.Stream.Write(b)
}

// readAnswer reports whether b is an answer that makes a circuit, or only the
// beginning of one.
func readAnswer(b []byte) (yes, complete bool) {
	var msg pb.HopMessage
	r := util.NewDelimitedReader(bytes.NewReader(b), maxHopMessage)
	defer r.Close()
	switch err := r.ReadMsg(&msg); {
	case err == nil:
		return msg.GetStatus() == pb.Status_OK, true
	case errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF):
		return false, false
	default:
		return false, true
	}
}

func (s *hopStream) Close() error {
	s.gone()
	return s.Stream.Close()
}

func (s *hopStream) Reset() error {
	s.gone()
	return s.Stream.Reset()
}

func (s *hopStream) ResetWithError(code network.StreamErrorCode) error {
	s.gone()
	return s.Stream.ResetWithError(code)
}

func (s *hopStream) gone() {
	if s.charge != nil {
		s.charge.end()
	}
}

var _ relayv2.MetricsTracer = (*relayService)(nil)

// RelayStatus implements relayv2.MetricsTracer.
func (d *relayService) RelayStatus(bool) {}

// ConnectionOpened implements relayv2.MetricsTracer.
func (d *relayService) ConnectionOpened() {
	d.open.Add(1)
	d.metrics.circuits.Inc()
}

// ConnectionClosed implements relayv2.MetricsTracer.
func (d *relayService) ConnectionClosed(time.Duration) {
	d.open.Add(-1)
	d.metrics.circuits.Dec()
}

// ConnectionRequestHandled implements relayv2.MetricsTracer.
func (d *relayService) ConnectionRequestHandled(status pb.Status) {
	d.metrics.circuitRequests.WithLabelValues(outcomeOf(status)).Inc()
}

// ReservationAllowed implements relayv2.MetricsTracer.
func (d *relayService) ReservationAllowed(isRenewal bool) {
	if !isRenewal {
		d.metrics.reservations.Inc()
	}
}

// ReservationClosed implements relayv2.MetricsTracer.
func (d *relayService) ReservationClosed(n int) { d.metrics.reservations.Sub(float64(n)) }

// ReservationRequestHandled implements relayv2.MetricsTracer.
func (d *relayService) ReservationRequestHandled(status pb.Status) {
	if status == pb.Status_RESERVATION_REFUSED {
		d.metrics.relayRefused.WithLabelValues(refuseReserved).Inc()
	}
}

// BytesTransferred implements relayv2.MetricsTracer.
func (d *relayService) BytesTransferred(n int) { d.metrics.relayedBytes.Add(float64(n)) }

// Outcomes of a request for a circuit that got past the door.
const (
	circuitMade       = "made"
	circuitUnreserved = "unreserved" // the target has no reservation
	circuitFull       = "full"       // the target has too many
	circuitFailed     = "failed"     // the target did not answer, or refused
)

func outcomeOf(status pb.Status) string {
	switch status {
	case pb.Status_OK:
		return circuitMade
	case pb.Status_NO_RESERVATION:
		return circuitUnreserved
	case pb.Status_RESOURCE_LIMIT_EXCEEDED:
		return circuitFull
	default:
		return circuitFailed
	}
}

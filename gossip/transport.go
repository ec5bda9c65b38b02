package gossip

import (
	"context"
	"crypto/sha256"
	"errors"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/identity"
	"github.com/obelisk-network/obelisk/overlay"
)

// packetMember is the PacketKind of memberlist's packets.
const packetMember overlay.PacketKind = 1

// Bounds of the transport.
const (
	memberPackets = 512 // packets waiting for memberlist; more are dropped
	memberStreams = 64  // streams open at once, either way
	memberPerPeer = 4   // of them with one pillar
	memberPort    = 1   // memberlist insists on one
)

// memberAddr is the address that memberlist insists on: a unique local IPv6
// address made of the peer ID. Nothing is ever sent to it.
func memberAddr(p identity.PillarID) net.IP {
	sum := sha256.Sum256([]byte("obelisk member address\x00" + string(p)))
	ip := make(net.IP, net.IPv6len)
	ip[0] = 0xfd
	copy(ip[1:], sum[:])
	return ip
}

// memberAddrOf is the address of the member of that name, which is in order.
func memberAddrOf(name string) net.IP {
	id, _, _ := strings.Cut(name, ".")
	p, err := peer.Decode(id)
	if err != nil {
		return nil
	}
	return memberAddr(identity.PillarID(p))
}

// memberPillar returns whose a member's name is, and the run: peerID.run. The
// run may be missing. There is one name for a pillar and run.
func memberPillar(name string) (identity.PillarID, string, error) {
	id, run, _ := strings.Cut(name, ".")
	p, err := identity.ParsePillar(id)
	if err == nil && p.String() != id || len(run) > maxRun || strings.Trim(run, "0123456789abcdefghijklmnopqrstuvwxyz") != "" {
		return "", "", errName
	}
	return p, run, err
}

// maxRun is the length of the largest 64-bit number in base 36.
const maxRun = 13

var errName = errors.New("not the name of a member")

// transport carries memberlist over sessions' peers: packets as packets,
// push/pull as streams of ProtoMember, both through the filter. Nobody without a
// session is reached or heard, so every sender is an admitted pillar proven by
// the connection.
type transport struct {
	m       *Mesh
	filter  *memberFilter
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{} // closed by hangUp
	drained chan struct{} // closed when memberlist has taken everything that Shutdown gave it

	mu    sync.Mutex
	open  map[*memberConn]struct{}         // guarded by mu
	dials map[*context.CancelFunc]struct{} // guarded by mu; in progress
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(m *Mesh, filter *memberFilter) *transport {
	return &transport{m: m, filter: filter, packets: make(chan *memberlist.Packet, memberPackets), streams: make(chan net.Conn),
		done: make(chan struct{}), drained: make(chan struct{}),
		open: map[*memberConn]struct{}{}, dials: map[*context.CancelFunc]struct{}{}}
}

// FinalAdvertiseAddr implements memberlist.Transport.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return memberAddr(t.m.self), memberPort, nil
}

var errNameless = errors.New("memberlist names no node")

// WriteTo implements memberlist.Transport; RequireNodeNames keeps it unused.
func (t *transport) WriteTo([]byte, string) (time.Time, error) { return time.Time{}, errNameless }

// DialTimeout implements memberlist.Transport; unused like WriteTo.
func (t *transport) DialTimeout(string, time.Duration) (net.Conn, error) { return nil, errNameless }

// WriteToAddress implements memberlist.NodeAwareTransport. Who has no session
// is unreachable in memberlist's terms, so it asks others to probe him.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	now := time.Now()
	pillar, _, err := t.filter.whose(a.Name)
	if err != nil {
		return now, err
	}
	p := peer.ID(pillar)
	t.mu.Lock() // a ping is either refused or seen by Shutdown
	select {
	case <-t.done:
		if a.Name == t.filter.name {
			t.drain()
		}
		t.mu.Unlock()
		return now, errStopped
	default:
	}
	out := t.filter.outgoing(pillar, b)
	t.mu.Unlock()
	t.spreadNews()
	if t.m.sessions.get(p) == nil {
		return now, &net.OpError{Op: "write", Net: "udp", Err: overlay.ErrUnreachable}
	}
	if out == nil {
		return now, nil
	}
	return now, t.m.cfg.Packets.Send(p, packetMember, out)
}

// spreadNews tells everybody with a session of a new own incarnation.
func (t *transport) spreadNews() {
	if news := t.filter.takeNews(); news != nil {
		for _, s := range t.m.sessions.all() {
			t.m.cfg.Packets.Send(s.peer, packetMember, news)
		}
	}
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// handlePacket takes a packet off the connections.
func (t *transport) handlePacket(from peer.ID, payload []byte) {
	if t.m.sessions.get(from) == nil {
		return
	}
	if b := t.filter.incoming(identity.PillarID(from), payload); b != nil {
		t.give(packetOf(identity.PillarID(from), b))
	}
	t.giveReplaced()
}

// giveReplaced tells memberlist of runs that are over.
func (t *transport) giveReplaced() {
	for _, b := range t.filter.takeReplaced() {
		t.give(packetOf(t.m.self, b))
	}
}

// packetOf is a packet as memberlist takes it, from p.
func packetOf(p identity.PillarID, b []byte) *memberlist.Packet {
	return &memberlist.Packet{Buf: b, Timestamp: time.Now(), From: &net.UDPAddr{IP: memberAddr(p), Port: memberPort}}
}

// give queues a packet for memberlist.
func (t *transport) give(p *memberlist.Packet) {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.done:
		return
	default:
	}
	select {
	case t.packets <- p:
	default:
		t.filter.dropped(dropStorm)
	}
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	pillar, _, err := t.filter.whose(a.Name)
	if err != nil {
		return nil, err
	}
	p := peer.ID(pillar)
	if t.m.sessions.get(p) == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: overlay.ErrUnreachable}
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	t.mu.Lock()
	select {
	case <-t.done:
		t.mu.Unlock()
		return nil, errStopped
	default:
	}
	t.dials[&cancel] = struct{}{}
	t.mu.Unlock()
	defer func() {
		t.mu.Lock()
		delete(t.dials, &cancel)
		t.mu.Unlock()
	}()
	s, err := t.m.cfg.Links.Open(ctx, p, overlay.ProtoMember)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	c := t.conn(s, true)
	if c == nil {
		return nil, errStopped
	}
	return c, nil
}

// handleStream hands a stream to memberlist, which closes it.
func (t *transport) handleStream(s overlay.Stream) {
	if t.m.sessions.get(s.Peer()) == nil {
		s.Reset()
		return
	}
	c := t.conn(s, false)
	if c == nil {
		return
	}
	select {
	case t.streams <- c:
	case <-t.done:
		c.Close()
	}
}

// conn wraps s and keeps it for hangUp; nil, and s reset, if there are too many
// or it is too late.
func (t *transport) conn(s overlay.Stream, dialled bool) *memberConn {
	c := &memberConn{Stream: s, t: t, from: identity.PillarID(s.Peer()), dialled: dialled}
	t.mu.Lock()
	defer t.mu.Unlock()
	same := 0
	for o := range t.open {
		if o.from == c.from {
			same++
		}
	}
	select {
	case <-t.done:
	default:
		if same < memberPerPeer && len(t.open) < memberStreams {
			t.open[c] = struct{}{}
			return c
		}
		t.filter.dropped(dropStorm)
	}
	s.Reset()
	return nil
}

func (t *transport) forget(c *memberConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
}

// hangUp ends all streams and dials and lets nothing in or out any more, so
// that nothing of memberlist's waits for others. It can be called repeatedly.
func (t *transport) hangUp() {
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.done:
		return
	default:
	}
	close(t.done)
	for c := range t.open {
		c.Stream.Reset()
	}
	for cancel := range t.dials {
		(*cancel)()
	}
}

// Shutdown implements memberlist.Transport; memberlist calls it once, before it
// stops taking packets. A probe in progress would wait for its answer for up to
// 16 seconds beyond the end of everything, so Shutdown answers every ping that
// is out, and then pings this member itself: when memberlist answers that, in
// WriteToAddress, it has taken the answers before it.
func (t *transport) Shutdown() error {
	t.hangUp()
	for {
		select {
		case <-t.packets: // of before
			continue
		default:
		}
		break
	}
	for _, seq := range t.filter.waiting() {
		t.packets <- packetOf(t.m.self, (&memberMsg{kind: wireAck, seq: seq}).append(nil))
	}
	t.packets <- packetOf(t.m.self, (&memberMsg{kind: wirePing, node: t.filter.name, from: t.filter.name}).append(nil))
	<-t.drained
	return nil
}

// drain ends Shutdown. t.mu is held.
func (t *transport) drain() {
	select {
	case <-t.drained:
	default:
		close(t.drained)
	}
}

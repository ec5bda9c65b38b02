package gossip

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
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
	memberStreams = 32  // streams open at once, either way
	memberPings   = 256 // pings remembered
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

// memberPillar returns whose a member's name is: peerID.run.
func memberPillar(name string) (identity.PillarID, string, error) {
	id, run, _ := strings.Cut(name, ".")
	p, err := identity.ParsePillar(id)
	return p, run, err
}

// transport carries memberlist over sessions' peers: packets as packets,
// push/pull as streams of ProtoMember. Nobody without a session is reached or
// heard, so every sender is an admitted pillar proven by the connection.
type transport struct {
	m       *Mesh
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}

	mu    sync.Mutex
	names map[string]peer.ID       // guarded by mu; cache
	open  map[*memberConn]struct{} // guarded by mu
	pings map[uint32]struct{}      // guarded by mu; sequence numbers sent lately
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(m *Mesh) *transport {
	return &transport{m: m, packets: make(chan *memberlist.Packet, memberPackets), streams: make(chan net.Conn),
		done: make(chan struct{}), names: map[string]peer.ID{}, open: map[*memberConn]struct{}{}, pings: map[uint32]struct{}{}}
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
	select {
	case <-t.done:
		return now, errStopped
	default:
	}
	p, err := t.resolve(a.Name)
	if err != nil {
		return now, err
	}
	t.notePing(b)
	if t.m.sessions.get(p) == nil {
		return now, &net.OpError{Op: "write", Net: "udp", Err: overlay.ErrUnreachable}
	}
	return now, t.m.cfg.Packets.Send(p, packetMember, b)
}

// resolve returns the peer of a member's name.
func (t *transport) resolve(name string) (peer.ID, error) {
	t.mu.Lock()
	p, ok := t.names[name]
	t.mu.Unlock()
	if ok {
		return p, nil
	}
	id, _, err := memberPillar(name)
	if err != nil {
		return "", err
	}
	t.mu.Lock()
	if len(t.names) >= 4096 {
		clear(t.names)
	}
	t.names[name] = peer.ID(id)
	t.mu.Unlock()
	return peer.ID(id), nil
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
	p := &memberlist.Packet{Buf: bytes.Clone(payload), Timestamp: time.Now(),
		From: &net.UDPAddr{IP: memberAddr(identity.PillarID(from)), Port: memberPort}}
	select {
	case t.packets <- p:
	default:
	}
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	p, err := t.resolve(a.Name)
	if err != nil {
		return nil, err
	}
	if t.m.sessions.get(p) == nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: overlay.ErrUnreachable}
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		select {
		case <-t.done:
			cancel()
		case <-stop:
		}
	}()
	s, err := t.m.cfg.Links.Open(ctx, p, overlay.ProtoMember)
	if err != nil {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: err}
	}
	c := t.conn(s)
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
	c := t.conn(s)
	if c == nil {
		return
	}
	select {
	case t.streams <- c:
	case <-t.done:
		c.Close()
	}
}

// conn wraps s and keeps it for Shutdown; nil, and s reset, if there are too
// many or it is too late.
func (t *transport) conn(s overlay.Stream) *memberConn {
	c := &memberConn{Stream: s, t: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	select {
	case <-t.done:
	default:
		if len(t.open) < memberStreams {
			t.open[c] = struct{}{}
			return c
		}
	}
	s.Reset()
	return nil
}

// Shutdown implements memberlist.Transport. It ends all streams, and answers
// the pings that are still out, so that memberlist's probe does not wait for
// them.
func (t *transport) Shutdown() error {
	t.mu.Lock()
	select {
	case <-t.done:
		t.mu.Unlock()
		return nil
	default:
	}
	close(t.done)
	for c := range t.open {
		c.Stream.Reset()
	}
	pings := t.pings
	t.pings = nil
	t.mu.Unlock()
	for seq := range pings {
		select {
		case t.packets <- &memberlist.Packet{Buf: ack(seq), From: &net.UDPAddr{IP: memberAddr(t.m.self)}, Timestamp: time.Now()}:
		default:
		}
	}
	for wait := 0; len(t.packets) > 0 && wait < 100; wait++ {
		time.Sleep(time.Millisecond)
	}
	return nil
}

// seqKey is how memberlist's pings and acks name their sequence number.
const seqKey = "\xa5SeqNo"

// notePing remembers the sequence number of a ping in packet b, if it holds
// one.
func (t *transport) notePing(b []byte) {
	i := bytes.Index(b, []byte(seqKey))
	if i < 0 {
		return
	}
	b = b[i+len(seqKey):]
	var seq uint32
	switch {
	case len(b) >= 1 && b[0] < 0x80:
		seq = uint32(b[0])
	case len(b) >= 2 && b[0] == 0xcc:
		seq = uint32(b[1])
	case len(b) >= 3 && b[0] == 0xcd:
		seq = uint32(binary.BigEndian.Uint16(b[1:]))
	case len(b) >= 5 && b[0] == 0xce:
		seq = binary.BigEndian.Uint32(b[1:])
	default:
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.pings == nil {
		return
	}
	if len(t.pings) >= memberPings {
		clear(t.pings)
	}
	t.pings[seq] = struct{}{}
}

// ack is memberlist's answer to a ping: the type, then a map of SeqNo and
// Payload.
func ack(seq uint32) []byte {
	b := append([]byte{2, 0x82}, seqKey+"\xce"...)
	b = binary.BigEndian.AppendUint32(b, seq)
	return append(b, "\xa7Payload\xc0"...)
}

// memberConn makes a net.Conn of a stream.
type memberConn struct {
	overlay.Stream
	t *transport
}

func (c *memberConn) Close() error {
	c.t.mu.Lock()
	delete(c.t.open, c)
	c.t.mu.Unlock()
	return c.Stream.Close()
}

func (c *memberConn) LocalAddr() net.Addr {
	return &net.TCPAddr{IP: memberAddr(c.t.m.self), Port: memberPort}
}

func (c *memberConn) RemoteAddr() net.Addr {
	return &net.TCPAddr{IP: memberAddr(identity.PillarID(c.Peer())), Port: memberPort}
}

func (c *memberConn) SetDeadline(d time.Time) error {
	return errors.Join(c.SetReadDeadline(d), c.SetWriteDeadline(d))
}

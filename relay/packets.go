package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"
	quicgo "github.com/quic-go/quic-go"

	"github.com/obelisk-network/obelisk/overlay"
)

// Packets travel on one stream in each direction of a pair, opened by the
// sender with the first packet and again after a failure. A frame on it is
//
//	kind    1 byte
//	length  2 bytes, big endian, at most overlay.MaxPacket
//	payload length bytes
//
// If the stream runs over QUIC, packets move to that connection's datagrams
// (RFC 9221) as soon as the receiver has said, by the byte datagramsRead on the
// same stream, that it reads them: nothing else proves that somebody listens,
// and who never says so gets everything on the stream. Streams over a circuit,
// TCP or WebSocket stay streams. A datagram is
//
//	kind    1 byte
//	payload the rest, at most overlay.MaxPacket bytes
//
// Datagrams belong to the stream: it stays open while they are sent, and the
// receiver reads them until it ends.
const (
	packetProtocol = overlay.Protocol("/obelisk/packet/1")
	frameHeader    = 3
	// packetQueue is how many packets wait for one peer; newer ones are dropped.
	packetQueue = 128
	// packetTimeout bounds opening the stream and each write to it.
	packetTimeout = 10 * time.Second
	// datagramsRead is the receiver's only word on a packet stream.
	datagramsRead = 1
)

// packets is the state behind overlay.Packets.
type packets struct {
	mu        sync.Mutex
	receivers map[overlay.PacketKind]func(peer.ID, []byte) // guarded by mu
	out       map[peer.ID]*packetWriter                    // guarded by mu
	in        map[peer.ID]*packetReader                    // guarded by mu; one for each sender
}

// packetWriter is the way to one peer. It exists from the first packet until
// its stream fails, a better connection comes up, or the peer is lost.
type packetWriter struct {
	queue   chan []byte   // kind, payload
	lost    chan struct{} // closed when its connection is gone or not the best any more
	relayed bool          // guarded by packets.mu; its stream runs over a circuit
}

// packetReader is the stream on which one peer's packets come.
type packetReader struct {
	stream overlay.Stream
	done   chan struct{} // closed when nothing reads for it any more
}

func (s *packets) init() {
	s.receivers = make(map[overlay.PacketKind]func(peer.ID, []byte))
	s.out = make(map[peer.ID]*packetWriter)
	s.in = make(map[peer.ID]*packetReader)
}

// Send implements overlay.Packets.
func (h *Host) Send(p peer.ID, kind overlay.PacketKind, payload []byte) error {
	if len(payload) > overlay.MaxPacket {
		return fmt.Errorf("%w: %d bytes, at most %d", overlay.ErrPacketSize, len(payload), overlay.MaxPacket)
	}
	if h.swarm.Connectedness(p) == network.NotConnected {
		h.metrics.dropped(dropUnconnected, 1)
		return nil
	}
	packet := append(append(make([]byte, 0, 1+len(payload)), byte(kind)), payload...)
	h.packets.mu.Lock()
	defer h.packets.mu.Unlock()
	w := h.packets.out[p]
	if w == nil {
		w = &packetWriter{queue: make(chan []byte, packetQueue), lost: make(chan struct{})}
		if !h.start(func() { h.writePackets(p, w) }) {
			return nil
		}
		h.packets.out[p] = w
	}
	select {
	case w.queue <- packet:
	default:
		h.metrics.dropped(dropQueue, 1)
	}
	return nil
}

// writePackets sends what is queued for p until the stream fails or p is lost.
func (h *Host) writePackets(p peer.ID, w *packetWriter) {
	defer h.endPackets(p, w)
	ctx, cancel := context.WithTimeout(context.Background(), packetTimeout)
	s, err := h.newStream(network.WithNoDial(ctx, "packets"), p, packetProtocol)
	cancel()
	if err != nil {
		return
	}
	if pathOf(s.Conn()) == overlay.PathRelayed && !h.stayRelayed(p, w) {
		_ = s.Reset()
		return
	}
	agreed, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		awaitDatagrams(s, agreed)
	}()
	defer func() {
		_ = s.Reset()
		<-ended
	}()
	var datagrams *quicgo.Conn // once agreed
	buf := bufio.NewWriterSize(s, 4<<10)
	for {
		var packet []byte
		select {
		case <-h.done:
			return
		case <-w.lost:
			return
		case <-ended:
			return
		case <-agreed:
			agreed = nil
			datagrams = datagramConn(s.Conn())
			continue
		case packet = <-w.queue:
		}
		if datagrams != nil {
			err = datagrams.SendDatagram(packet) // waits while 32 of them are on the way out
			if err == nil {
				h.metrics.packetsSent.WithLabelValues(byDatagram).Inc()
				continue
			}
			if !errors.As(err, new(*quicgo.DatagramTooLargeError)) {
				h.metrics.dropped(dropConnection, 1)
				return
			}
		}
		if n, err := writeFrames(s, buf, packet, w.queue); err != nil {
			h.metrics.dropped(dropConnection, n)
			return
		} else {
			h.metrics.packetsSent.WithLabelValues(byStream).Add(float64(n))
		}
	}
}

// writeFrames writes packet and what else waits, and says how many those were.
func writeFrames(s network.Stream, buf *bufio.Writer, packet []byte, queue <-chan []byte) (n int, err error) {
	_ = s.SetWriteDeadline(time.Now().Add(packetTimeout))
	for {
		n++
		header := [frameHeader]byte{packet[0]}
		binary.BigEndian.PutUint16(header[1:], uint16(len(packet)-1))
		if _, err := buf.Write(header[:]); err != nil {
			return n, err
		}
		if _, err := buf.Write(packet[1:]); err != nil {
			return n, err
		}
		select {
		case packet = <-queue:
		default:
			return n, buf.Flush()
		}
	}
}

// awaitDatagrams closes agreed if the receiver says that it reads datagrams,
// and returns when the stream has ended or it says anything else.
func awaitDatagrams(s network.Stream, agreed chan<- struct{}) {
	var word [1]byte
	if _, err := io.ReadFull(s, word[:]); err != nil || word[0] != datagramsRead {
		return
	}
	close(agreed)
	_, _ = s.Read(word[:])
}

// datagramConn returns the QUIC connection under c if both ends take datagrams,
// else nil.
func datagramConn(c network.Conn) *quicgo.Conn {
	var q *quicgo.Conn
	if pathOf(c) != overlay.PathDirect || !c.As(&q) {
		return nil
	}
	if can := q.ConnectionState().SupportsDatagrams; !can.Local || !can.Remote {
		return nil
	}
	return q
}

// endPackets takes w out of use; the next packet starts anew.
func (h *Host) endPackets(p peer.ID, w *packetWriter) {
	h.packets.mu.Lock()
	defer h.packets.mu.Unlock()
	if h.packets.out[p] == w {
		delete(h.packets.out, p)
	}
	h.metrics.dropped(dropConnection, len(w.queue))
}

// losePackets ends the writer to p: its connection is gone, or there is a better
// one. The next packet starts anew.
func (h *Host) losePackets(p peer.ID) {
	h.packets.mu.Lock()
	defer h.packets.mu.Unlock()
	if w := h.packets.out[p]; w != nil {
		delete(h.packets.out, p)
		close(w.lost)
	}
}

// upgradePackets ends the writer to p if it uses a circuit: there is a direct
// connection now.
func (h *Host) upgradePackets(p peer.ID) {
	h.packets.mu.Lock()
	defer h.packets.mu.Unlock()
	if w := h.packets.out[p]; w != nil && w.relayed {
		delete(h.packets.out, p)
		close(w.lost)
	}
}

// stayRelayed notes that w uses a circuit; false if it need not any more.
func (h *Host) stayRelayed(p peer.ID, w *packetWriter) bool {
	h.packets.mu.Lock()
	w.relayed = true
	h.packets.mu.Unlock()
	c := best(h.swarm.ConnsToPeer(p))
	return c != nil && pathOf(c) == overlay.PathRelayed
}

// Receive implements overlay.Packets. Packets of different peers, and one peer's
// on the stream and by datagram, come from different goroutines.
func (h *Host) Receive(kind overlay.PacketKind, fn func(from peer.ID, payload []byte)) {
	h.packets.mu.Lock()
	defer h.packets.mu.Unlock()
	h.packets.receivers[kind] = fn
}

// readPackets is the handler of packetProtocol.
func (h *Host) readPackets(s overlay.Stream) {
	r := &packetReader{stream: s, done: make(chan struct{})}
	defer close(r.done)
	defer func() { _ = s.Reset() }()
	p := s.Peer()
	h.packets.mu.Lock()
	old := h.packets.in[p]
	h.packets.in[p] = r
	h.packets.mu.Unlock()
	defer func() {
		h.packets.mu.Lock()
		defer h.packets.mu.Unlock()
		if h.packets.in[p] == r {
			delete(h.packets.in, p)
		}
	}()
	if old != nil {
		_ = old.stream.Reset() // a peer has one at a time; it gave that one up
		select {
		case <-old.done: // so that one goroutine reads a connection's datagrams
		case <-h.done:
			return
		}
	}
	if native, ok := s.(stream); ok {
		if q := datagramConn(native.s.Conn()); q != nil {
			ctx, cancel := context.WithCancel(context.Background())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				h.readDatagrams(ctx, p, q)
			}()
			defer func() {
				cancel()
				<-ended
			}()
			_ = s.SetWriteDeadline(time.Now().Add(packetTimeout))
			if _, err := s.Write([]byte{datagramsRead}); err != nil {
				return
			}
		}
	}
	if err := h.readFrames(p, s); err != nil {
		h.metrics.malformed.WithLabelValues(byStream).Inc()
	}
}

// readFrames takes packets off a stream until it ends; an error means a frame
// that cannot be.
func (h *Host) readFrames(p peer.ID, s overlay.Stream) error {
	r := bufio.NewReaderSize(s, 4<<10)
	var header [frameHeader]byte
	buf := make([]byte, overlay.MaxPacket)
	for {
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return nil
		}
		size := int(binary.BigEndian.Uint16(header[1:]))
		if size > overlay.MaxPacket {
			return overlay.ErrPacketSize
		}
		if _, err := io.ReadFull(r, buf[:size]); err != nil {
			return nil
		}
		h.takePacket(p, byStream, overlay.PacketKind(header[0]), buf[:size])
	}
}

// readDatagrams takes packets off a QUIC connection until it or ctx ends. What
// comes faster than it is taken is dropped by QUIC: at most 128 wait.
func (h *Host) readDatagrams(ctx context.Context, p peer.ID, q *quicgo.Conn) {
	for {
		b, err := q.ReceiveDatagram(ctx)
		if err != nil {
			return
		}
		if len(b) == 0 || len(b)-1 > overlay.MaxPacket {
			h.metrics.malformed.WithLabelValues(byDatagram).Inc()
			continue
		}
		h.takePacket(p, byDatagram, overlay.PacketKind(b[0]), b[1:])
	}
}

// takePacket hands a packet to who receives its kind.
func (h *Host) takePacket(p peer.ID, path string, kind overlay.PacketKind, payload []byte) {
	h.packets.mu.Lock()
	fn := h.packets.receivers[kind]
	h.packets.mu.Unlock()
	if fn == nil {
		h.metrics.dropped(dropKind, 1)
		return
	}
	h.metrics.packetsReceived.WithLabelValues(path).Inc()
	fn(p, payload)
}

package relay

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// Packets travel on one stream in each direction of a pair, opened by the
// sender with the first packet and again after a failure. A frame on it is
//
//	kind    1 byte
//	length  2 bytes, big endian, at most overlay.MaxPacket
//	payload length bytes
//
// A connection that carries datagrams could take packets too; nothing outside
// writePackets and readPackets knows about the stream.
const (
	packetProtocol = overlay.Protocol("/obelisk/packet/1")
	frameHeader    = 3
	// packetQueue is how many packets wait for one peer; newer ones are dropped.
	packetQueue = 128
	// packetTimeout bounds opening the stream and each write to it.
	packetTimeout = 10 * time.Second
)

// packets is the state behind overlay.Packets.
type packets struct {
	mu        sync.Mutex
	receivers map[overlay.PacketKind]func(peer.ID, []byte) // guarded by mu
	out       map[peer.ID]*packetWriter                    // guarded by mu
	in        map[peer.ID]overlay.Stream                   // guarded by mu; one for each sender
}

// packetWriter is the way to one peer. It exists from the first packet until
// its stream fails or the peer is lost.
type packetWriter struct {
	queue chan []byte   // frames
	lost  chan struct{} // closed when the peer has no connection any more
}

func (s *packets) init() {
	s.receivers = make(map[overlay.PacketKind]func(peer.ID, []byte))
	s.out = make(map[peer.ID]*packetWriter)
	s.in = make(map[peer.ID]overlay.Stream)
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
	frame := make([]byte, frameHeader+len(payload))
	frame[0] = byte(kind)
	binary.BigEndian.PutUint16(frame[1:], uint16(len(payload)))
	copy(frame[frameHeader:], payload)

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
	case w.queue <- frame:
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
	defer func() { _ = s.Reset() }()
	buf := bufio.NewWriterSize(s, 4<<10)
	for {
		select {
		case <-h.done:
			return
		case <-w.lost:
			return
		case frame := <-w.queue:
			_ = s.SetWriteDeadline(time.Now().Add(packetTimeout))
			n := 1
			_, err := buf.Write(frame)
			for more := true; more && err == nil; {
				select {
				case frame = <-w.queue:
					n++
					_, err = buf.Write(frame)
				default:
					more = false
				}
			}
			if err == nil {
				err = buf.Flush()
			}
			if err != nil {
				h.metrics.dropped(dropStream, n)
				return
			}
			h.metrics.packetsSent.Add(float64(n))
		}
	}
}

// endPackets takes w out of use; the next packet starts anew.
func (h *Host) endPackets(p peer.ID, w *packetWriter) {
	h.packets.mu.Lock()
	defer h.packets.mu.Unlock()
	if h.packets.out[p] == w {
		delete(h.packets.out, p)
	}
	h.metrics.dropped(dropStream, len(w.queue))
}

// losePackets ends the writer of a peer that has no connection any more.
func (h *Host) losePackets(p peer.ID) {
	h.packets.mu.Lock()
	defer h.packets.mu.Unlock()
	if w := h.packets.out[p]; w != nil {
		delete(h.packets.out, p)
		close(w.lost)
	}
}

// Receive implements overlay.Packets. Packets of different peers come from
// different goroutines.
func (h *Host) Receive(kind overlay.PacketKind, fn func(from peer.ID, payload []byte)) {
	h.packets.mu.Lock()
	defer h.packets.mu.Unlock()
	h.packets.receivers[kind] = fn
}

// readPackets is the handler of packetProtocol.
func (h *Host) readPackets(s overlay.Stream) {
	defer func() { _ = s.Reset() }()
	p := s.Peer()
	h.packets.mu.Lock()
	old := h.packets.in[p]
	h.packets.in[p] = s
	h.packets.mu.Unlock()
	if old != nil {
		_ = old.Reset() // a peer has one at a time; it gave that one up
	}
	defer func() {
		h.packets.mu.Lock()
		defer h.packets.mu.Unlock()
		if h.packets.in[p] == s {
			delete(h.packets.in, p)
		}
	}()
	r := bufio.NewReaderSize(s, 4<<10)
	var header [frameHeader]byte
	buf := make([]byte, overlay.MaxPacket)
	for {
		if _, err := io.ReadFull(r, header[:]); err != nil {
			return
		}
		size := int(binary.BigEndian.Uint16(header[1:]))
		if size > overlay.MaxPacket {
			h.metrics.streamsBad.Inc()
			return
		}
		if _, err := io.ReadFull(r, buf[:size]); err != nil {
			return
		}
		kind := overlay.PacketKind(header[0])
		h.packets.mu.Lock()
		fn := h.packets.receivers[kind]
		h.packets.mu.Unlock()
		if fn == nil {
			h.metrics.dropped(dropKind, 1)
			continue
		}
		fn(p, buf[:size])
	}
}

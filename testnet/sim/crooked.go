package sim

import (
	"context"
	"encoding/binary"
	"io"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/libp2p/go-libp2p/core/peer"

	"github.com/obelisk-network/obelisk/overlay"
)

// lies are what a pillar does wrong, each now and then.
type lies struct {
	withhold  bool // leaves bodies out, of logs and of answers
	poison    bool // breaks signatures of records it passes on
	garble    bool // changes bytes of what it says in audits
	forge     bool // breaks heads and summaries, and signs others' heads itself
	overclaim bool // says that it holds what it does not, and acknowledges it
	fork      bool // signs two histories of its log, one for every second pillar
	invent    bool // writes records into its log that their authors never signed
	stall     bool // falls silent in the middle
	noise     bool // changes bytes of packets
}

func (l lies) names() (names []string) {
	for _, x := range []struct {
		on   bool
		name string
	}{
		{l.withhold, "withholds bodies"}, {l.poison, "breaks signatures"}, {l.garble, "garbles audits"}, {l.forge, "forges heads"},
		{l.overclaim, "claims what it does not hold"}, {l.fork, "forks its log"}, {l.invent, "invents records"},
		{l.stall, "stalls"}, {l.noise, "garbles packets"},
	} {
		if x.on {
			names = append(names, x.name)
		}
	}
	return names
}

// crooked is the network of a pillar that lies: overlay.Links and
// overlay.Packets that change what the pillar's own, honest code says to others.
// What it stores is what an honest one would store.
type crooked struct {
	overlay.Links
	packets overlay.Packets
	p       *pillar
	lies    lies
	history *histories

	mu  sync.Mutex
	rng *rand.Rand // guarded by mu
}

// often is how often a lie is told where it can be.
const often = 0.2

// chance reports whether something happens that does so with probability p.
func (c *crooked) chance(p float64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.Float64() < p
}

func (c *crooked) intN(n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.rng.IntN(n)
}

// Open implements overlay.Links.
func (c *crooked) Open(ctx context.Context, p peer.ID, proto overlay.Protocol) (overlay.Stream, error) {
	s, err := c.Links.Open(ctx, p, proto)
	if err != nil {
		return nil, err
	}
	return c.bend(s, proto), nil
}

// Handle implements overlay.Links.
func (c *crooked) Handle(proto overlay.Protocol, fn func(overlay.Stream)) {
	if fn == nil {
		c.Links.Handle(proto, nil)
		return
	}
	c.Links.Handle(proto, func(s overlay.Stream) { fn(c.bend(s, proto)) })
}

// Send implements overlay.Packets.
func (c *crooked) Send(p peer.ID, kind overlay.PacketKind, payload []byte) error {
	if c.lies.noise && len(payload) > 0 && c.chance(often) {
		payload = append([]byte(nil), payload...)
		payload[c.intN(len(payload))] ^= byte(1 + c.intN(255))
	}
	return c.packets.Send(p, kind, payload)
}

// Receive implements overlay.Packets.
func (c *crooked) Receive(kind overlay.PacketKind, fn func(from peer.ID, payload []byte)) {
	c.packets.Receive(kind, fn)
}

// bend wraps a stream that carries messages.
func (c *crooked) bend(s overlay.Stream, proto overlay.Protocol) overlay.Stream {
	if proto != overlay.ProtoPillar && proto != overlay.ProtoFollow {
		return s
	}
	return &bent{Stream: s, c: c, face: c.faceFor(s.Peer()), asked: proto != overlay.ProtoFollow}
}

// faceFor is which history of the own log a pillar is shown.
func (c *crooked) faceFor(p peer.ID) face {
	switch {
	case c.lies.invent:
		return otherFace
	case c.lies.fork && c.p.w.number(p)%2 == 1:
		return otherFace
	default:
		return trueFace
	}
}

// bent is a stream of a pillar that lies. One goroutine reads, one writes.
type bent struct {
	overlay.Stream
	c    *crooked
	face face

	half  []byte // the beginning of a frame that was written
	asked bool   // the Follow that begins the stream was read
	ready []byte // read and not yet handed over
}

// Write implements overlay.Stream: it changes the frames that b completes.
func (s *bent) Write(b []byte) (int, error) {
	s.half = append(s.half, b...)
	var out []byte
	for len(s.half) >= 4 {
		n := 4 + int(binary.BigEndian.Uint32(s.half))
		if len(s.half) < n {
			break
		}
		out = append(out, s.c.twist(s.half[:n:n], s.face)...)
		s.half = s.half[n:]
	}
	if len(s.half) == 0 {
		s.half = nil
	}
	if len(out) == 0 {
		return len(b), nil
	}
	if s.c.lies.stall && s.c.chance(0.02) {
		time.Sleep(time.Duration(1+s.c.intN(15)) * time.Second)
	}
	if _, err := s.Stream.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// Read implements overlay.Stream: a Follow from the end of the other history is
// taken as one from the end of the true one.
func (s *bent) Read(b []byte) (int, error) {
	if !s.asked {
		s.asked = true
		frame, err := readFrame(s.Stream)
		if err != nil {
			return 0, err
		}
		s.ready = s.c.history.undo(frame, s.face)
	}
	if len(s.ready) > 0 {
		n := copy(b, s.ready)
		s.ready = s.ready[n:]
		return n, nil
	}
	return s.Stream.Read(b)
}

// readFrame reads one frame as it is.
func readFrame(r io.Reader) ([]byte, error) {
	frame := make([]byte, 4)
	if _, err := io.ReadFull(r, frame); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(frame)
	if n > overlay.MaxFrame {
		return frame, nil
	}
	frame = append(frame, make([]byte, n)...)
	_, err := io.ReadFull(r, frame[4:])
	return frame, err
}

// twist returns what is said instead of a frame.
func (c *crooked) twist(frame []byte, face face) []byte {
	m, err := overlay.DecodeMessage(append([]byte(nil), frame[4:]...))
	if err != nil {
		return frame
	}
	switch m := m.(type) {
	case *overlay.Batch:
		c.history.show(m, face)
		c.twistBatch(m)
	case *overlay.VectorMsg:
		c.history.showVector(m.Positions, face)
		if c.lies.overclaim && c.chance(often) && len(m.Positions) > 0 {
			m.Positions[c.intN(len(m.Positions))].Seq += uint64(1 + c.intN(50))
		}
	case *overlay.Got:
		c.twistRecords(m)
	case *overlay.Held:
		if c.lies.overclaim {
			for i := range m.Bits {
				m.Bits[i] = 0xff
			}
		}
	case *overlay.Ack:
		if c.lies.overclaim && c.chance(often) {
			m.Seq += uint64(c.intN(20))
		}
	case *overlay.SummaryMsg:
		for i := range m.Summaries {
			if c.lies.forge && c.chance(often) {
				m.Summaries[i].Count += uint64(1 + c.intN(100))
			}
		}
	default:
		if t := m.Type(); c.lies.garble && t >= overlay.TypeRoot && t <= overlay.TypeIDs && c.chance(often) {
			frame = append([]byte(nil), frame...)
			for range 1 + c.intN(8) {
				frame[4+c.intN(len(frame)-4)] ^= byte(1 + c.intN(255))
			}
		}
		return frame
	}
	return overlay.AppendFrame(nil, m)
}

// twistBatch lies in a batch of any log.
func (c *crooked) twistBatch(m *overlay.Batch) {
	for i := range m.Entries {
		e := &m.Entries[i]
		if e.Raw == nil {
			continue
		}
		if c.lies.withhold && c.chance(often) {
			if rec, err := overlay.ParseRecord(c.p.w.key.ID(), e.Raw); err == nil {
				*e = overlay.BatchEntry{Expires: rec.Expires, ID: rec.ID, Why: overlay.WhyTrimmed}
				if c.chance(0.5) {
					e.Why = overlay.WhyVoid
				}
			}
		} else if c.lies.poison && c.chance(often) {
			e.Raw = breakSignature(e.Raw)
		}
	}
	if c.lies.forge && m.Head != nil && c.chance(often/2) {
		if c.chance(0.5) {
			m.Head.Sig = append([]byte(nil), m.Head.Sig...)
			m.Head.Sig[0] ^= 1
		} else {
			m.Head.Hash[0] ^= 1
			m.Head.Sign(c.p.w.key.ID(), c.p.key)
		}
	}
}

// twistRecords lies in an answer to a Get.
func (c *crooked) twistRecords(m *overlay.Got) {
	kept := m.Records[:0]
	for _, raw := range m.Records {
		switch {
		case c.lies.withhold && c.chance(often):
			continue
		case c.lies.poison && c.chance(often):
			raw = breakSignature(raw)
		}
		kept = append(kept, raw)
	}
	m.Records = kept
}

// breakSignature returns a record with another signature, whose ID therefore is
// the same.
func breakSignature(raw []byte) []byte {
	raw = append([]byte(nil), raw...)
	raw[len(raw)-1] ^= 1
	return raw
}
